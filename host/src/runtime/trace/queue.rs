//! Spans that wait for the collector. Whoever ends a span never waits.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Finished;

/// How many spans go to the collector at once.
pub(crate) const BATCH: usize = 512;

/// A queue with a bound.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// Wakes the exporter, once there is a batch for it or it should end.
    due: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Finished>,
    /// No more come, or nobody takes them.
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self {
            inner: Mutex::default(),
            due: Condvar::new(),
            most,
        }
    }

    /// False: there is no room, and the span is gone.
    pub(super) fn push(&self, finished: Finished) -> bool {
        let mut inner = self.lock();
        if inner.waiting.len() >= self.most {
            // Its memory is freed without the lock.
            drop(inner);
            return false;
        }
        inner.waiting.push_back(finished);
        let is_due = inner.waiting.len() == BATCH.min(self.most);
        drop(inner);
        // A single span wakes nobody: that would be a system call for each.
        if is_due {
            self.due.notify_one();
        }
        true
    }

    /// What has gathered after `interval`, or once that is a batch. `None`: the queue is closed, and empty.
    #[cfg_attr(
        not(feature = "telemetry"),
        allow(dead_code, reason = "a build without traces sends none")
    )]
    pub(crate) fn take(&self, interval: Duration) -> Option<Vec<Finished>> {
        let until = Instant::now() + interval;
        let mut inner = self.lock();
        while inner.waiting.len() < BATCH.min(self.most) && !inner.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.due.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let many = inner.waiting.len().min(BATCH);
        let taken: Vec<_> = inner.waiting.drain(..many).collect();
        (!taken.is_empty() || !inner.is_closed).then_some(taken)
    }

    /// Has the exporter take the rest, and end.
    #[cfg_attr(
        not(feature = "telemetry"),
        allow(dead_code, reason = "a build without traces sends none")
    )]
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.due.notify_one();
    }

    /// How many wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
