//! Which node is the home of each partition, as the broker has confirmed it. All threads read it; only the cluster's thread changes
//! it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use super::node::NodeId;
use super::partitions::partition_of;
use crate::runtime::channel::{Owner, RunQueue};

/// The homes of all partitions.
#[derive(Debug)]
pub(super) struct Table {
    entries: RwLock<Vec<Entry>>,
}

/// What is known of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// The node whose id stands in the bucket, whether it lives or not. `None`: none stands there.
    pub(super) home: Option<NodeId>,
    /// The revision of that entry: the fencing token. 0 for none.
    pub(super) revision: u64,
    /// Where its topics are reached.
    pub(super) place: Place,
}

/// Where the topics of a partition are reached.
#[derive(Clone, Debug, Default)]
pub(super) enum Place {
    /// Nowhere: it has no home, or its home is lost.
    #[default]
    Nowhere,
    /// Here: the broker has confirmed it.
    Here,
    /// Here still, but on its way to another node: its topics are served until their turn comes, and nobody enters them.
    Parting,
    /// At another node.
    There(Arc<Way>),
}

impl Place {
    /// Whether this node is the home, on its way or not.
    #[must_use]
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Here | Self::Parting)
    }
}

/// The way to another node, for what clients here send to topics there.
#[derive(Debug)]
pub(super) struct Way {
    /// Which node.
    pub(super) id: NodeId,
    /// The topics for which something waits to be sent.
    pub(super) queue: Owner,
    is_up: AtomicBool,
}

impl Way {
    /// The way to a node whose link is not up.
    #[must_use]
    pub(super) fn new(id: NodeId, queue: RunQueue) -> Self {
        Self {
            id,
            queue: Arc::new(queue),
            is_up: AtomicBool::new(false),
        }
    }

    /// Whether the link is up.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// It is from now on, or no longer.
    pub(super) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Release);
    }
}

impl Table {
    /// So many partitions, of which nothing is known.
    #[must_use]
    pub(super) fn new(partitions: u16) -> Self {
        Self {
            entries: RwLock::new(vec![Entry::default(); usize::from(partitions)]),
        }
    }

    /// How many partitions there are.
    #[must_use]
    pub(super) fn partitions(&self) -> u16 {
        // As many as it was made with.
        self.read().len() as u16
    }

    /// All partitions. Nothing changes while this is held.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.entries.read().expect("no holder of the table panics")
    }

    /// What is known of a topic's partition.
    #[must_use]
    pub(super) fn of(&self, topic: &str) -> Entry {
        let entries = self.read();
        entries[Self::index(&entries, topic)].clone()
    }

    /// The place of a topic's partition among the entries.
    #[must_use]
    pub(super) fn index(entries: &[Entry], topic: &str) -> usize {
        // As many as it was made with.
        usize::from(partition_of(topic, entries.len() as u16))
    }

    /// Whether a node is the home of a partition, under this revision.
    #[must_use]
    pub(super) fn has(&self, partition: u16, home: &NodeId, revision: u64) -> bool {
        let entries = self.read();
        let entry = entries.get(usize::from(partition));
        entry.is_some_and(|entry| entry.home.as_ref() == Some(home) && entry.revision == revision)
    }

    /// Whether this node is the topic's home.
    #[must_use]
    pub(super) fn is_here(&self, topic: &str) -> bool {
        let entries = self.read();
        entries[Self::index(&entries, topic)].place.is_here()
    }

    /// Replaces what is known of a partition. Returns what was known before.
    pub(super) fn set(&self, partition: u16, entry: Entry) -> Entry {
        let mut entries = self.entries.write().expect("no holder of the table panics");
        std::mem::replace(&mut entries[usize::from(partition)], entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_home_under_the_revision_that_made_it_one_and_no_other() {
        let (table, [a, b]) = (Table::new(2), [NodeId::new("a", 1), NodeId::new("b", 1)]);
        let (home, place) = (Some(a.clone()), Place::Nowhere);
        let entry = Entry {
            home,
            revision: 7,
            place,
        };
        table.set(1, entry);
        assert!(table.has(1, &a, 7));
        let others = [(1, &a, 6), (1, &a, 8), (1, &b, 7), (0, &a, 7), (0, &a, 0), (2, &a, 7)];
        for (partition, node, revision) in others {
            assert!(!table.has(partition, node, revision), "{partition} {node} {revision}");
        }
    }
}
