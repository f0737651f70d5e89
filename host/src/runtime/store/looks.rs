//! When stored topics have to be looked at.

use std::collections::{BTreeSet, HashMap};

use super::Key;

/// The topics, by the time of their look in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Looks {
    by_time: BTreeSet<(u64, Key)>,
    times: HashMap<Key, u64>,
}

impl Looks {
    /// These.
    pub(super) fn new(looks: Vec<(u64, Key)>) -> Self {
        let mut all = Self::default();
        looks.into_iter().for_each(|(at, key)| all.set(key, Some(at)));
        all
    }

    /// Has a topic looked at then, or never, whatever was said before.
    pub(super) fn set(&mut self, key: Key, at: Option<u64>) {
        if let Some(before) = self.times.remove(&key) {
            self.by_time.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.times.insert(key.clone(), at);
            self.by_time.insert((at, key));
        }
    }

    /// Takes the topic that is due first, if it is due by now.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Key> {
        self.by_time.first().filter(|(at, _)| *at <= now)?;
        let (_, key) = self.by_time.pop_first()?;
        self.times.remove(&key);
        Some(key)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }
}
