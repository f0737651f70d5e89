//! Gives the space of forgotten topics back. The engine does so when it merges files, which it does as it writes; and a store that is
//! full writes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fjall::{Database, Keyspace};

use crate::runtime::threads;

/// Whether there is space to be given back, and whether that happens now.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Topics were forgotten since it was last given back.
    has_forgotten: AtomicBool,
    is_running: Arc<AtomicBool>,
}

impl Reclaim {
    /// A topic was forgotten.
    pub(super) fn forgot(&self) {
        self.has_forgotten.store(true, Ordering::Relaxed);
    }

    /// Merges all files, on a thread of its own: that can take minutes. Does nothing if nothing was forgotten, or while it is at work.
    /// `bytes` is then what the store takes.
    pub(super) fn begin(&self, database: &Database, keyspaces: [Keyspace; 3], bytes: &Arc<AtomicU64>) {
        if !self.has_forgotten.load(Ordering::Relaxed) || self.is_running.swap(true, Ordering::Relaxed) {
            return;
        }
        self.has_forgotten.store(false, Ordering::Relaxed);
        let (database, bytes, running) = (database.clone(), Arc::clone(bytes), Arc::clone(&self.is_running));
        let merging = threads::spawn("store.merge", move || {
            match merge(&keyspaces).and_then(|()| database.disk_space()) {
                Ok(now) => {
                    bytes.store(now, Ordering::Relaxed);
                    tracing::info!(bytes = now, "the space of forgotten topics is given back");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the space of forgotten topics is not given back");
                }
            }
            running.store(false, Ordering::Relaxed);
        });
        if merging.is_err() {
            self.forgot();
            self.is_running.store(false, Ordering::Relaxed);
        }
    }
}

fn merge(keyspaces: &[Keyspace]) -> fjall::Result<()> {
    // What was forgotten is in memory only, until it is in files as well.
    keyspaces.iter().try_for_each(Keyspace::rotate_memtable_and_wait)?;
    keyspaces.iter().try_for_each(Keyspace::major_compact)
}
