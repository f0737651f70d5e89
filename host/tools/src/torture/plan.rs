//! The plan of a run: how many clients, topics, events and reloads.

use std::time::Duration;

/// The plan of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The number of clients. Every other one uses long polling.
    pub(super) clients: usize,
    /// The number of topics. Clients of both transports join each of them.
    pub(super) topics: usize,
    /// The number of the plugin's shards.
    pub(super) shards: usize,
    /// Events per second that all clients together push.
    pub(super) rate: u32,
    /// The number of good libraries. A bad one follows every third.
    pub(super) reloads: u64,
    /// How many events must be in flight during every reload.
    pub(super) in_flight: u32,
    /// The seed of all random choices.
    pub(super) seed: u64,
}

impl Plan {
    /// How many topics each client joins: enough for two clients in each topic.
    pub(super) fn joins(&self) -> usize {
        (2 * self.topics).div_ceil(self.clients.max(1)).clamp(1, self.topics)
    }

    /// The number of members of all topics.
    pub(super) fn members(&self) -> i64 {
        i64::try_from(self.clients * self.joins()).unwrap_or(i64::MAX)
    }

    /// The topics that a client joins. Its neighbour, which uses the other transport, joins the same.
    pub(super) fn topics_of(&self, client: usize) -> impl Iterator<Item = usize> {
        let (first, topics) = (client / 2 * self.joins(), self.topics);
        (first..first + self.joins()).map(move |topic| topic % topics)
    }

    /// The time between two events of a client.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(1) * u32::try_from(self.clients).unwrap_or(u32::MAX) / self.rate.max(1)
    }

    /// How late a late reply is, in milliseconds. Two of three replies are late. The range is such that about twice as
    /// many events are in flight as necessary.
    pub(super) fn later_ms(&self) -> std::ops::Range<u64> {
        let mean = (3_000 * u64::from(self.in_flight) / u64::from(self.rate.max(1))).clamp(2, 1_000);
        mean / 2..mean * 3 / 2
    }

    /// Clients stop pushing while more events than this are in flight: the machine is too slow for the rate.
    pub(super) fn most_in_flight(&self) -> i64 {
        10 * i64::from(self.in_flight) + 100
    }

    /// How long the server keeps replaced code: longer than the latest reply of its runtime takes.
    pub(super) fn retire(&self) -> Duration {
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
