//! What happened to a plugin's libraries, for those who ask: the log tells it once, this keeps the last of each.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::left::Left;
use super::pipeline::{Refusal, Trail};
use super::quarantine::unix_seconds;
use super::stage::ContentHash;
use super::swap::SwapReport;

/// The journal of one plugin.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<Entries>,
}

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// Why the newest library is not in service, if it is not.
    pub refusal: Option<Refusal>,
    /// The last library that came into service.
    pub reload: Option<Reload>,
    /// The last time that code had to go back to what was there before.
    pub rollback: Option<Rollback>,
    /// Generations that have ended and are still in memory, by number.
    pub left: BTreeMap<u64, Left>,
    /// The code in service has yet to prove itself.
    pub on_probation: bool,
    /// How often each step was passed.
    pub passed: BTreeMap<&'static str, u64>,
    /// How often a step refused, by step and code.
    pub refusals: BTreeMap<(&'static str, String), u64>,
}

/// A library that came into service.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Its generation.
    pub generation: u64,
    /// When, in seconds since 1970.
    pub at_unix_s: u64,
    /// The steps before the swap, and how long each took.
    pub steps: Vec<(&'static str, Duration)>,
    /// The swap.
    pub swap: SwapReport,
}

/// A generation that gave its topics back.
#[derive(Clone, Debug)]
pub struct Rollback {
    /// Which.
    pub from: u64,
    /// The one in service since.
    pub to: u64,
    /// Its contents.
    pub hash: ContentHash,
    /// What it did.
    pub why: String,
    /// When, in seconds since 1970.
    pub at_unix_s: u64,
    /// How that went.
    pub swap: SwapReport,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no holder panics")
    }

    /// All of it, as it is now.
    #[must_use]
    pub fn read(&self) -> Entries {
        self.entries().clone()
    }

    /// A library was refused after it had passed what `trail` says.
    pub fn refused(&self, refusal: Refusal, trail: &Trail) {
        let mut entries = self.entries();
        entries.count(trail);
        let count = entries.refusals.entry((refusal.step, refusal.code.clone()));
        *count.or_default() += 1;
        entries.refusal = Some(refusal);
    }

    /// What lies in the library's place is in service: nothing is refused any more.
    pub fn settled(&self) {
        self.entries().refusal = None;
    }

    /// A step was passed.
    pub fn passed(&self, plugin: &str, step: &'static str) {
        tracing::debug!(plugin, step, "step passed");
        *self.entries().passed.entry(step).or_default() += 1;
    }

    /// Whether the code in service has yet to prove itself.
    pub fn proves_itself(&self, on_probation: bool) {
        self.entries().on_probation = on_probation;
    }

    /// A generation has ended, and something of it is still in memory.
    pub fn left_behind(&self, generation: u64, left: Left) {
        self.entries().left.insert(generation, left);
    }

    /// Looks again at what was left: the system takes some away when another library is closed. Returns those that are gone.
    pub fn gone_since(&self) -> Vec<u64> {
        let left = self.read().left;
        let gone: Vec<u64> = left
            .into_iter()
            .filter(|(_, left)| !left.is_there())
            .map(|(number, _)| number)
            .collect();
        self.entries().left.retain(|number, _| !gone.contains(number));
        gone
    }

    /// Code gave its topics back.
    pub fn rolled_back(&self, rollback: Rollback) {
        self.entries().rollback = Some(rollback);
    }

    /// A library came into service.
    pub fn reloaded(&self, generation: u64, trail: &Trail, swap: &SwapReport) {
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

impl Entries {
    fn count(&mut self, trail: &Trail) {
        for (step, _) in &trail.passed {
            *self.passed.entry(step).or_default() += 1;
        }
    }
}
