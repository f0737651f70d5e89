//! Who still points into a library that is about to be unmapped: threads, signal handlers, timers, exit hooks.
//!
//! Unmapping code that somebody runs, or will call, is a crash of the whole host. Nothing here is asked of the plugin: the
//! system knows all of it. Where it leaves a doubt, the library counts as referenced.

mod threads;
mod timers;

use std::fmt;

use self::threads::ThreadId;
pub(super) use self::threads::{called as threads_called, name_of_threads};
use super::loader::{Owner, signals};

/// What was there before a library was loaded, and so cannot be its doing.
#[derive(Debug)]
pub(super) struct Born {
    threads: Vec<ThreadId>,
    timers: Vec<u64>,
    /// It imports a function whose effect cannot be looked up or taken back.
    has_exit_hooks: bool,
}

impl Born {
    /// This moment.
    pub(super) fn now(has_exit_hooks: bool) -> Self {
        Self {
            threads: threads::all(),
            timers: timers::all().into_iter().map(|timer| timer.id).collect(),
            has_exit_hooks,
        }
    }
}

/// Who points into a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    threads: Vec<String>,
    timers: usize,
    signals: Vec<String>,
    exit_hooks: bool,
}

/// Looks who points into the library of `owner`, which came after `born`.
pub(super) fn of(born: &Born, owner: &'static Owner) -> References {
    for changed in signals::look() {
        changed.say();
    }
    References {
        threads: threads::of(&born.threads, owner),
        timers: timers::of(&born.timers, owner),
        signals: owner.handled().map(signals::name).collect(),
        exit_hooks: born.has_exit_hooks,
    }
}

impl References {
    /// Nobody.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether they may all go by themselves, as a thread that ends.
    #[must_use]
    pub(crate) fn may_go(&self) -> bool {
        self.signals.is_empty() && !self.exit_hooks
    }
}

/// What it is, and what the plugin's author can do about it.
impl fmt::Display for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.threads.is_empty() {
            parts.push(format!(
                "threads: {} (end them when the plugin's value is dropped)",
                self.threads.join(", ")
            ));
        }
        if !self.signals.is_empty() {
            parts.push(format!(
                "signal handlers: {} (signals belong to the host; do not handle them in a plugin)",
                self.signals.join(", ")
            ));
        }
        if self.timers > 0 {
            parts.push(format!(
                "timers: {} of timer_create (delete them when the plugin's value is dropped)",
                self.timers
            ));
        }
        if self.exit_hooks {
            parts.push("exit hooks: it uses on_exit, which nothing takes back (use atexit)".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}
