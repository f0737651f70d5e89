//! How far a batch is carried out, and what is left of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::runtime::channel::Input;

/// How far a plan is carried out. Its shard writes it. Another thread reads it only once the shard is abandoned.
#[derive(Debug, Default)]
pub(in crate::runtime::plugin) struct Progress {
    at: AtomicUsize,
    after: Mutex<After>,
}

/// What is left to do when a batch ends.
#[derive(Debug, Default)]
pub(in crate::runtime::plugin) struct After {
    /// Inputs that go in front of the mailboxes, by topic.
    pub(in crate::runtime::plugin) followups: Vec<(usize, Input)>,
    /// Topics that the plugin has closed.
    pub(in crate::runtime::plugin) closed: Vec<usize>,
    /// Topics that leave memory next.
    pub(in crate::runtime::plugin) leaving: Vec<usize>,
    /// It ends before its last step: the others have to be planned again.
    pub(in crate::runtime::plugin) ended: bool,
}

impl After {
    fn is_some(&self) -> bool {
        self.ended || !(self.followups.is_empty() && self.closed.is_empty() && self.leaving.is_empty())
    }

    fn add(&mut self, more: Self) {
        self.followups.extend(more.followups);
        self.closed.extend(more.closed);
        self.leaving.extend(more.leaving);
        self.ended |= more.ended;
    }
}

impl Progress {
    /// All steps before `at` are done, and leave this to do.
    pub(in crate::runtime::plugin) fn note(&self, at: usize, more: After) {
        self.at.store(at, Ordering::Release);
        if more.is_some() {
            self.after.lock().expect("no holder panics").add(more);
        }
    }

    /// How many steps are done.
    pub(in crate::runtime::plugin) fn at(&self) -> usize {
        self.at.load(Ordering::Acquire)
    }

    /// What is left to do behind them.
    pub(in crate::runtime::plugin) fn take_after(&self) -> After {
        std::mem::take(&mut *self.after.lock().expect("no holder panics"))
    }
}
