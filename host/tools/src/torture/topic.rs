//! A topic as all its clients see it.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// How many entries the plugin keeps in full.
pub(super) const KEEP: usize = 100;

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    /// The name.
    pub(super) name: String,
    /// The entries by number, from number 1. 0 if no client has seen the entry.
    entries: Mutex<Vec<u64>>,
}

/// The state of a topic, as the plugin sends it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct TopicState {
    /// The number of entries.
    pub(super) count: u64,
    /// A digest of all entries, in order, see [`chained`].
    pub(super) digest: u64,
    /// The last [`KEEP`] entries.
    pub(super) list: Vec<u64>,
    /// The number of the next tick.
    pub(super) ticks: u64,
}

impl Topic {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            entries: Mutex::default(),
        }
    }

    /// Notes that `number` is the number of `entry`. Returns `false` if another client has seen another entry there.
    pub(super) fn note(&self, number: u64, entry: u64) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = number.checked_sub(1).and_then(|index| usize::try_from(index).ok()) else {
            return false;
        };
        if index >= entries.len() {
            entries.resize(index + 1, 0);
        }
        let known = std::mem::replace(&mut entries[index], entry);
        known == 0 || known == entry
    }
}

/// The entry that the plugin makes of a client's event.
pub(super) fn entry(client: u32, number: u32) -> u64 {
    u64::from(client) << 32 | u64::from(number)
}

/// Adds an entry to a digest, in the same way as the plugin.
pub(super) fn chained(digest: u64, entry: u64) -> u64 {
    (digest ^ entry).wrapping_mul(0x0100_0000_01b3)
}
