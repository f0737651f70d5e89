//! How much a run is to be.

use std::time::Duration;

/// How much a run is to be, and of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients; every other one comes by long polling.
    pub clients: usize,
    /// Topics, each with clients of both transports.
    pub topics: usize,
    /// Shards of the plugin.
    pub shards: usize,
    /// Numbers that all clients together put in a second.
    pub rate: u32,
    /// Replacements that are to come into service. There is a bad one for each three of them.
    pub reloads: u64,
    /// Numbers that are to be unanswered at any time.
    pub in_flight: u32,
    /// Of the pauses, the delays and the order in which clients put.
    pub seed: u64,
}

impl Plan {
    /// Topics that each client joins: as many as it takes for two clients in each.
    #[must_use]
    pub fn joins(&self) -> usize {
        (2 * self.topics).div_ceil(self.clients.max(1)).clamp(1, self.topics)
    }

    /// All joins of all clients.
    #[must_use]
    pub fn seats(&self) -> i64 {
        i64::try_from(self.clients * self.joins()).unwrap_or(i64::MAX)
    }

    /// The topics that a client joins: the same as the one beside it, which comes by the other transport.
    pub fn topics_of(&self, client: usize) -> impl Iterator<Item = usize> {
        let (first, topics) = (client / 2 * self.joins(), self.topics);
        (first..first + self.joins()).map(move |topic| topic % topics)
    }

    /// Between two numbers of one client.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(1) * u32::try_from(self.clients).unwrap_or(u32::MAX) / self.rate.max(1)
    }

    /// How late a late answer is, in milliseconds. Two of three are, and twice as many as asked for are to be under way.
    #[must_use]
    pub fn later_ms(&self) -> std::ops::Range<u64> {
        let mean = (3_000 * u64::from(self.in_flight) / u64::from(self.rate.max(1))).clamp(2, 1_000);
        mean / 2..mean * 3 / 2
    }

    /// Beyond so many in flight nobody puts more: the machine is too slow for the rate.
    #[must_use]
    pub fn most_in_flight(&self) -> i64 {
        10 * i64::from(self.in_flight) + 100
    }

    /// How long replaced code is kept: longer than any answer of its runtime takes.
    #[must_use]
    pub fn retire(&self) -> Duration {
        Duration::from_millis(self.later_ms().end + 500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_clients_of_both_transports() {
        for (clients, topics) in [(1_000, 200), (60, 200), (2, 1), (7, 5), (400, 200)] {
            let plan = Plan {
                clients,
                topics,
                shards: 2,
                rate: 100,
                reloads: 1,
                in_flight: 10,
                seed: 0,
            };
            let mut transports = vec![[0, 0]; topics];
            for client in 0..clients / 2 * 2 {
                for topic in plan.topics_of(client) {
                    transports[topic][client % 2] += 1;
                }
            }
            assert!(
                transports.iter().all(|[a, b]| a == b && *a > 0),
                "{clients} clients, {topics} topics: {transports:?}"
            );
        }
    }
}
