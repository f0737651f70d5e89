//! What all clients together have counted so far.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::sequence::Place;

/// Findings that are kept in words; all are counted.
const MAX_FINDINGS: usize = 20;

/// Counters that every client adds to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seats that are taken at this moment.
    pub inside: Count,
    /// Numbers that clients put.
    pub sent: Count,
    /// Numbered messages that came to clients: replies, notes, broadcasts, ticks.
    pub received: Count,
    /// Numbers and messages that did not come.
    pub lost: Count,
    /// Those that came more than once.
    pub doubled: Count,
    /// Those that came behind their followers.
    pub reordered: Count,
    /// Connections that ended.
    pub closed: Count,
    /// States that are not what all that came makes of them.
    pub differences: Count,
    /// How often a state was compared.
    pub audits: Count,
    /// Channels that ended though no code was in service that panics.
    pub ended: Count,
    /// Channels that ended when they might.
    pub excused_ends: Count,
    /// Numbers that were not answered by then.
    pub excused: Count,
    /// Numbers that are not answered yet.
    pub in_flight: Count,
    /// Windows in which channels may end: odd while one is open.
    windows: AtomicU64,
    findings: Mutex<Vec<String>>,
}

/// A counter.
#[derive(Debug, Default)]
pub struct Count(AtomicI64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more, or fewer.
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Says that code which panics is about to come into service, or is gone again: channels may end in between.
    pub fn turn_window(&self) {
        self.windows.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a window was opened or closed. Odd: one is open.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows.load(Ordering::Relaxed)
    }

    /// Counts where a number stands; says what is wrong, if anything, in the words of `what`.
    pub fn place(&self, place: Place, what: impl FnOnce() -> String) {
        self.received.one();
        match place {
            Place::Next => return,
            Place::Ahead(missed) => self.lost.add(i64::try_from(missed).unwrap_or(i64::MAX)),
            Place::Late => {
                self.lost.add(-1);
                self.reordered.one();
            }
            Place::Again => self.doubled.one(),
        }
        self.find(|| format!("{}: {place:?}", what()));
    }

    /// Keeps a finding in words, unless there are enough.
    pub fn find(&self, what: impl FnOnce() -> String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < MAX_FINDINGS {
            findings.push(what());
        }
    }

    /// The first findings.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
