//! The plan of a run, and what happens to the cluster in each round.

use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;

/// The plan of a run.
#[derive(Clone, Debug)]
pub(in crate::torture) struct Plan {
    /// The number of nodes, when all are there.
    pub(in crate::torture) nodes: usize,
    /// The number of clients. Every other one uses long polling.
    pub(in crate::torture) clients: usize,
    /// The number of topics.
    pub(in crate::torture) topics: usize,
    /// The number of the plugin's shards at each node.
    pub(in crate::torture) shards: usize,
    /// Events per second that all clients together push.
    pub(in crate::torture) rate: u32,
    /// How often something happens to the cluster.
    pub(in crate::torture) rounds: u64,
    /// The lease of the nodes.
    pub(in crate::torture) lease: Duration,
    /// The seed of all random choices.
    pub(in crate::torture) seed: u64,
    /// The program that is the broker.
    pub(in crate::torture) broker: PathBuf,
    /// Where to keep the logs of the nodes.
    pub(in crate::torture) logs: Option<PathBuf>,
}

/// What happens to the cluster in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One more node comes, and is stopped after a while.
    Comes,
    /// A node is stopped as an operator does it, and started again.
    Restarts,
    /// A node is killed, and started again.
    Killed,
    /// A node stands still for longer than its lease.
    Frozen,
    /// The broker is killed and started again at once, with what it has stored.
    BrokerRestarts,
    /// The broker is killed, and is away for longer than a lease.
    BrokerAway,
    /// The broker stands still for longer than a lease.
    BrokerFrozen,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Comes,
        Self::Restarts,
        Self::Killed,
        Self::Frozen,
        Self::BrokerRestarts,
        Self::BrokerAway,
        Self::BrokerFrozen,
    ];

    /// In words, for the report.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Comes => "a node comes and goes",
            Self::Restarts => "a node restarts",
            Self::Killed => "a node is killed",
            Self::Frozen => "a node stands still",
            Self::BrokerRestarts => "the broker restarts",
            Self::BrokerAway => "the broker is away",
            Self::BrokerFrozen => "the broker stands still",
        }
    }

    /// Whether the broker is what suffers.
    pub(super) fn is_of_broker(self) -> bool {
        matches!(self, Self::BrokerRestarts | Self::BrokerAway | Self::BrokerFrozen)
    }
}

impl Plan {
    /// What happens in each round: everything once, in any order, then everything once more.
    pub(super) fn kinds(&self, random: &mut Rng) -> Vec<Kind> {
        let mut kinds = Vec::new();
        while (kinds.len() as u64) < self.rounds {
            let mut all = Kind::ALL;
            random.shuffle(&mut all);
            kinds.extend(all);
        }
        kinds.truncate(usize::try_from(self.rounds).unwrap_or(usize::MAX));
        kinds
    }

    /// The time between two events of a client.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(1) * u32::try_from(self.clients).unwrap_or(u32::MAX) / self.rate.max(1)
    }

    /// How long a client may be without an answer, once its home is lost, its topic moves, or the broker is back.
    pub(super) fn most_silent(&self) -> Duration {
        self.lease * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_happens_before_anything_happens_again() {
        let plan = Plan {
            nodes: 3,
            clients: 300,
            topics: 60,
            shards: 2,
            rate: 600,
            rounds: 16,
            lease: Duration::from_secs(5),
            seed: 7,
            broker: "nats-server".into(),
            logs: None,
        };
        let kinds = plan.kinds(&mut Rng::with_seed(plan.seed));
        assert_eq!(kinds.len(), 16);
        for seven in kinds.chunks_exact(7) {
            assert!(Kind::ALL.iter().all(|kind| seven.contains(kind)), "{seven:?}");
        }
        assert_eq!(plan.interval(), Duration::from_millis(500));
    }
}
