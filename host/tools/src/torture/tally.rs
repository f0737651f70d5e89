//! The counters of all clients together.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::sequence::Place;

/// How many problems to keep in words. The counters count all.
const MAX_FINDINGS: usize = 20;

/// Counters that every client adds to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Members that are joined at the moment.
    pub(super) joined: Count,
    /// Events that clients pushed.
    pub(super) sent: Count,
    /// Numbered messages that clients received: replies, pushes, broadcasts, ticks.
    pub(super) received: Count,
    /// Events and messages that did not arrive.
    pub(super) lost: Count,
    /// Messages that arrived more than once.
    pub(super) doubled: Count,
    /// Messages that arrived after later ones.
    pub(super) reordered: Count,
    /// Connections that ended during the run.
    pub(super) closed: Count,
    /// How often a topic's state differed from what a client expected.
    pub(super) differences: Count,
    /// How often a client compared a state.
    pub(super) audits: Count,
    /// Channels that ended although no code that panics was in service.
    pub(super) ended: Count,
    /// Events that had no reply when a panic ended their channel.
    pub(super) excused: Count,
    /// Events without a reply so far.
    pub(super) in_flight: Count,
    /// How often a window was opened or closed, see [`Tally::turn_window`].
    windows: AtomicU64,
    findings: Mutex<Vec<String>>,
}

/// A counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicI64);

impl Count {
    /// Adds one.
    pub(super) fn increment(&self) {
        self.add(1);
    }

    /// Adds a number, which may be negative.
    pub(super) fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Opens or closes a window: the time in which code that panics may be in service, so that channels may end.
    pub(super) fn turn_window(&self) {
        self.windows.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a window was opened or closed. If this is odd, one is open.
    pub(super) fn windows(&self) -> u64 {
        self.windows.load(Ordering::Relaxed)
    }

    /// Counts a message by its place in a sequence. Notes a problem unless it is the next one; `what` describes the
    /// message.
    pub(super) fn place(&self, place: Place, what: impl FnOnce() -> String) {
        if self.count(place) {
            self.find(|| format!("{} {place}", what()));
        }
    }

    /// Counts a message by its place in a sequence. Says whether that is a problem.
    pub(super) fn count(&self, place: Place) -> bool {
        self.received.increment();
        match place {
            Place::Next => return false,
            Place::Ahead(missed) => self.lost.add(i64::try_from(missed).unwrap_or(i64::MAX)),
            Place::Late => {
                self.lost.add(-1);
                self.reordered.increment();
            }
            Place::Again => self.doubled.increment(),
        }
        true
    }

    /// Notes a problem in words, unless there are enough already.
    pub(super) fn find(&self, what: impl FnOnce() -> String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < MAX_FINDINGS {
            findings.push(what());
        }
    }

    /// The first problems.
    pub(super) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
