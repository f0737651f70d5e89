//! What a topic in memory knows of its entry in a store to which several nodes write.
//!
//! Each write there names the revision that it replaces. So a node that is not the topic's home any more, and does not know it, can
//! overwrite nothing that the new home has written. A store that only one host has needs none of this.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The entry of a topic, as it was read or written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Revision {
    /// Its number; 0 for none.
    pub(crate) number: u64,
    /// It says that the topic is forgotten.
    pub(crate) is_mark: bool,
    /// Of which store. One that was lost, and made again, is another.
    pub(crate) store: u64,
}

/// One life of a topic in memory, before its entry. The store's writer moves it on.
#[derive(Debug, Default)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters shares no store")
)]
pub(crate) struct Fence(Mutex<Seen>);

/// What is known of the entry.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters shares no store")
)]
pub(crate) struct Seen {
    pub(crate) revision: Revision,
    /// A write over that may have been made: nobody has said.
    pub(crate) is_unsure: bool,
}

#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters shares no store")
)]
impl Fence {
    /// A life that begins with this revision.
    #[must_use]
    pub(crate) fn at(revision: Revision) -> Self {
        let is_unsure = false;
        Self(Mutex::new(Seen { revision, is_unsure }))
    }

    /// What is known now.
    #[must_use]
    pub(crate) fn seen(&self) -> Seen {
        *self.locked()
    }

    /// This is known from now on.
    pub(crate) fn set(&self, seen: Seen) {
        *self.locked() = seen;
    }

    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
