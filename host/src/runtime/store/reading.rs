//! The thread that reads topics that wake, and wakes those that have to be looked at.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Inner, Key, StoreError, Taken};
use crate::runtime::clock::unix_ms;
use crate::runtime::threads::fault;

/// Topics that wake at a time: read, and not yet back in their plugin. So a storm of joins fills no queue with large states.
const MOST_WAKING: usize = 64;
/// How long until a look that failed is tried again.
const AGAIN_MS: u64 = 1_000;
/// How long the thread sleeps at most: the wall clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

type Then = Box<dyn FnOnce(Taken, Waking) + Send>;

/// The topics that wait to be read.
#[derive(Clone, Default)]
pub(super) struct Reads(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Key, Then)>,
    waking: usize,
    /// Looks may be due earlier than they were.
    looks_changed: bool,
    stopped: bool,
}

/// A place among the topics that wake at a time. Dropping it makes room for the next.
pub(crate) struct Waking(Reads);

impl fmt::Debug for Waking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waking")
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.queue().waking -= 1;
        self.0.0.changed.notify_one();
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

enum Next {
    Read(Vec<(Key, Then)>),
    Look,
    Stop,
}

impl Reads {
    pub(super) fn push(&self, key: Key, then: Then) {
        self.queue().waiting.push_back((key, then));
        self.0.changed.notify_one();
    }

    /// Looks have changed.
    pub(super) fn look_again(&self) {
        self.queue().looks_changed = true;
        self.0.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        self.queue().stopped = true;
        self.0.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().expect("no holder of the reads panics")
    }

    /// Waits for the next thing to do, or for as long as no look is due.
    fn next(&self, sleep: Duration) -> Next {
        let idle = |queue: &mut Queue| {
            let reads = !queue.waiting.is_empty() && queue.waking < MOST_WAKING;
            !(reads || queue.looks_changed || queue.stopped)
        };
        let waited = self.0.changed.wait_timeout_while(self.queue(), sleep, idle);
        let (mut queue, _) = waited.expect("no holder of the reads panics");
        if queue.stopped {
            return Next::Stop;
        }
        let most = queue.waiting.len().min(MOST_WAKING.saturating_sub(queue.waking));
        if most > 0 {
            queue.waking += most;
            return Next::Read(queue.waiting.drain(..most).collect());
        }
        queue.looks_changed = false;
        Next::Look
    }
}

pub(super) fn run(inner: &Inner, look: &dyn Fn(&Key) -> bool) {
    loop {
        fault::point("store.read");
        let until = inner.looks().next();
        let sleep = until.map_or(LONGEST_SLEEP, |at| Duration::from_millis(at.saturating_sub(unix_ms())));
        match inner.reads.next(sleep.min(LONGEST_SLEEP)) {
            Next::Stop => return,
            Next::Read(reads) => {
                let (keys, thens): (Vec<Key>, Vec<Then>) = reads.into_iter().unzip();
                let taken = catch_unwind(AssertUnwindSafe(|| inner.engine.take(&keys)));
                let taken = taken.unwrap_or_else(|_| keys.iter().map(|_| Err(inner.panicked())).collect());
                for ((key, then), taken) in keys.into_iter().zip(thens).zip(taken) {
                    if matches!(taken, Err(StoreError::Unavailable { .. } | StoreError::Superseded))
                        && let Some(at) = inner.engine.look(&key)
                    {
                        // Perhaps that was a look, and it is still due.
                        inner.looks().set(key, Some(at.max(unix_ms() + AGAIN_MS)));
                    }
                    then(taken, Waking(inner.reads.clone()));
                }
            }
            Next::Look => {
                let due = inner.looks().take_due(unix_ms());
                if let Some(key) = due
                    && !look(&key)
                {
                    inner.looks().set(key, Some(unix_ms() + AGAIN_MS));
                }
            }
        }
    }
}
