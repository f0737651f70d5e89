//! What happened to a plugin's libraries, for the admin pages and the metrics. The log says it once, the journal keeps the last of each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::left::Left;
use super::quarantine::unix_seconds;
use super::step::{Rejection, Step, Trail};
use super::swap::SwapReport;
use crate::config::ContentHash;

/// Panics of one plugin that are kept.
const MOST_PANICS: usize = 20;
/// How much of a panic's message is kept, in bytes.
const MOST_PANIC_TEXT: usize = 4096;

/// The journal of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Mutex<Entries>,
}

/// What it keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    /// Why the newest library is not in service, if it is not.
    pub(crate) rejection: Option<Rejection>,
    /// The last library that came into service.
    pub(crate) reload: Option<Reload>,
    /// The last roll back.
    pub(crate) rollback: Option<Rollback>,
    /// The last callbacks that panicked, the newest first. Equal ones count as one.
    pub(crate) panics: VecDeque<Panic>,
    /// Generations that have ended and are still in memory, by number.
    pub(crate) left: BTreeMap<u64, Left>,
    /// The code in service has yet to prove itself.
    pub(crate) on_probation: bool,
    /// How often each step was passed.
    pub(crate) passed: BTreeMap<Step, u64>,
    /// How often a step rejected, by step and code.
    pub(crate) rejections: BTreeMap<(Step, String), u64>,
}

/// A library that came into service.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    /// Its generation.
    pub(crate) generation: u64,
    /// When, in seconds since 1970.
    pub(crate) at_unix_s: u64,
    /// The steps before the swap, and how long each took.
    pub(crate) steps: Vec<(Step, Duration)>,
    /// The swap.
    pub(crate) swap: SwapReport,
}

/// A callback that panicked.
#[derive(Clone, Debug)]
pub(crate) struct Panic {
    /// In which code.
    pub(crate) generation: u64,
    /// The callback's name, such as `handle_in`; or where the panic was, if in no callback.
    pub(crate) callback: &'static str,
    /// The event or message that it was called for; empty if there was none.
    pub(crate) event: String,
    /// The topic in which it happened last; empty if there was none.
    pub(crate) topic: String,
    /// The panic's message, and its place in the source.
    pub(crate) message: String,
    /// How often.
    pub(crate) count: u64,
    /// When last, in seconds since 1970.
    pub(crate) at_unix_s: u64,
}

/// A generation that gave its topics back.
#[derive(Clone, Debug)]
pub(crate) struct Rollback {
    /// Which.
    pub(crate) from: u64,
    /// The one in service since.
    pub(crate) to: u64,
    /// Its contents.
    pub(crate) hash: ContentHash,
    /// Why.
    pub(crate) why: String,
    /// When, in seconds since 1970.
    pub(crate) at_unix_s: u64,
    /// How that went.
    pub(crate) swap: SwapReport,
    /// The kit has compared what the previous code reads with what was written. A migration decides itself what it keeps.
    pub(crate) is_checked: bool,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no holder panics")
    }

    /// All of it, as it is now.
    #[must_use]
    pub(crate) fn read(&self) -> Entries {
        self.entries().clone()
    }

    /// A library has passed these steps.
    pub(crate) fn came(&self, trail: &Trail) {
        self.entries().count(trail);
    }

    /// A library was rejected.
    pub(crate) fn rejected(&self, rejection: Rejection) {
        let mut entries = self.entries();
        let count = entries.rejections.entry((rejection.step, rejection.code.clone()));
        *count.or_default() += 1;
        entries.rejection = Some(rejection);
    }

    /// The library in place is in service. Forgets the last rejection; returns whether there was one.
    pub(crate) fn settled(&self) -> bool {
        self.entries().rejection.take().is_some()
    }

    /// A step was passed.
    pub(crate) fn passed(&self, plugin: &str, step: Step) {
        tracing::debug!(plugin, step = step.name(), "step passed");
        *self.entries().passed.entry(step).or_default() += 1;
    }

    /// A callback panicked. Sets `count` and `at_unix_s`.
    pub(crate) fn panicked(&self, mut panic: Panic) {
        panic
            .message
            .truncate(panic.message.floor_char_boundary(MOST_PANIC_TEXT));
        let mut entries = self.entries();
        let alike = entries.panics.iter().position(|known| known.is_like(&panic));
        let known = alike.and_then(|at| entries.panics.remove(at));
        panic.count = 1 + known.map_or(0, |known| known.count);
        panic.at_unix_s = unix_seconds();
        entries.panics.push_front(panic);
        entries.panics.truncate(MOST_PANICS);
    }

    /// Whether the code in service has yet to prove itself.
    pub(crate) fn proves_itself(&self, on_probation: bool) {
        self.entries().on_probation = on_probation;
    }

    /// A generation has ended, and something of it is still in memory.
    pub(crate) fn left_behind(&self, generation: u64, left: Left) {
        self.entries().left.insert(generation, left);
    }

    /// Looks again at what was left: the system may unmap a library when another one is closed. Returns those that are gone.
    pub(crate) fn gone_since(&self) -> Vec<u64> {
        let left = self.read().left;
        let gone: Vec<u64> = left
            .into_iter()
            .filter(|(_, left)| !left.is_there())
            .map(|(number, _)| number)
            .collect();
        // Two generations may be retired at once: each is told of what it has found first.
        let mut entries = self.entries();
        gone.into_iter()
            .filter(|number| entries.left.remove(number).is_some())
            .collect()
    }

    /// A generation gave its topics back.
    pub(crate) fn rolled_back(&self, rollback: Rollback) {
        self.entries().rollback = Some(rollback);
    }

    /// A library came into service.
    pub(crate) fn reloaded(&self, generation: u64, trail: &Trail, swap: &SwapReport) {
        let mut entries = self.entries();
        entries.count(trail);
        entries.reload = Some(Reload {
            generation,
            at_unix_s: unix_seconds(),
            steps: trail.passed.clone(),
            swap: swap.clone(),
        });
    }
}

impl Panic {
    /// Whether it is the same panic, in whatever topic.
    fn is_like(&self, other: &Self) -> bool {
        let key = |panic: &Self| (panic.generation, panic.callback);
        key(self) == key(other) && self.event == other.event && self.message == other.message
    }
}

impl Entries {
    fn count(&mut self, trail: &Trail) {
        for (step, _) in &trail.passed {
            *self.passed.entry(*step).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic(event: &str, topic: &str, message: &str) -> Panic {
        Panic {
            generation: 1,
            callback: "handle_in",
            event: event.to_owned(),
            topic: topic.to_owned(),
            message: message.to_owned(),
            count: 0,
            at_unix_s: 0,
        }
    }

    #[test]
    fn panics_that_are_alike_count_as_one_and_the_newest_comes_first() {
        let journal = Journal::default();
        for (event, topic) in [("a", "t:1"), ("b", "t:1"), ("a", "t:2")] {
            journal.panicked(panic(event, topic, "why"));
        }
        let kept = journal.read().panics;
        let kept: Vec<_> = kept.iter().map(|p| (&*p.event, &*p.topic, p.count)).collect();
        assert_eq!(kept, [("a", "t:2", 2), ("b", "t:1", 1)]);
    }

    #[test]
    fn no_more_panics_are_kept_than_are_looked_at() {
        let journal = Journal::default();
        for number in 0..100 {
            journal.panicked(panic("a", "t:1", &format!("{number} {}", "ü".repeat(MOST_PANIC_TEXT))));
        }
        let kept = journal.read().panics;
        assert_eq!(kept.len(), MOST_PANICS);
        assert!(kept[0].message.starts_with("99 ") && kept[0].message.len() <= MOST_PANIC_TEXT);
    }
}
