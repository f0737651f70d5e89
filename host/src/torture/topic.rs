//! A topic as all its clients together saw it.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// Entries that the plugin keeps in full.
pub const KEEP: usize = 100;

/// A topic of the run.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// What each of its numbers stands for, from number 1; 0 where nobody has seen it.
    entries: Mutex<Vec<u64>>,
}

/// What the plugin tells of a topic's state.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Told {
    /// Entries so far.
    pub count: u64,
    /// All of them, in their order.
    pub digest: u64,
    /// The last ones.
    pub list: Vec<u64>,
    /// The number of the next tick.
    pub ticks: u64,
}

impl Topic {
    /// A topic that nothing is known of.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            entries: Mutex::default(),
        }
    }

    /// Notes that `number` stands for `entry`. `false` if somebody saw it stand for something else.
    pub fn note(&self, number: u64, entry: u64) -> bool {
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

/// What client `client` put as its `number`th.
#[must_use]
pub fn entry(client: u32, number: u32) -> u64 {
    u64::from(client) << 32 | u64::from(number)
}

/// As the plugin sums up its entries: which came, and in which order.
#[must_use]
pub fn chained(digest: u64, entry: u64) -> u64 {
    (digest ^ entry).wrapping_mul(0x0100_0000_01b3)
}
