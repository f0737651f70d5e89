//! One plugin: its generations, and what the manager knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_plugin::abi::reason;

use crate::config::{ContentHash, Reload};
use crate::runtime::channel::{Input, Notice};
use crate::runtime::plugin::generation::Generation;
use crate::runtime::plugin::pipeline::Pipeline;
use crate::runtime::plugin::probation::{Panics, Proving};
use crate::runtime::plugin::slot::PluginSlot;
use crate::runtime::plugin::step::{Step, Trail};
use crate::runtime::plugin::survival::Survival;
use crate::runtime::plugin::swap::{Snapshots, SwapReport, swap};

/// One plugin of the configuration.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) slot: Arc<PluginSlot>,
    /// The contents that were read last: they are in service, or were rejected.
    pub(super) taken: Option<ContentHash>,
    /// Generations that may still have topics. The last one is in service, unless nothing is.
    pub(super) live: Vec<Arc<Generation>>,
    /// The generation in service, while it has to prove itself.
    proving: Option<Proving>,
    /// Whether the state of the code in service would survive a reload.
    survival: Survival,
    /// When they panicked, by generation.
    panics: BTreeMap<u64, Panics>,
}

impl Plugin {
    /// A plugin that has no code yet.
    pub(super) fn new(slot: Arc<PluginSlot>) -> Self {
        Self {
            slot,
            taken: None,
            live: Vec::new(),
            proving: None,
            survival: Survival::default(),
            panics: BTreeMap::new(),
        }
    }

    /// The events that any of its live code intercepts.
    pub(super) fn intercepts(&self) -> BTreeSet<&str> {
        let events = self.live.iter().flat_map(|generation| &generation.manifest.intercepts);
        events.map(String::as_str).collect()
    }

    /// Whether the contents that were read last are in service.
    pub(super) fn is_in_service(&self) -> bool {
        self.taken.is_some() && self.slot.current().map(|current| current.hash) == self.taken
    }

    /// [`Step::Swap`]: moves the topics to the last of the live generations, and puts it on probation. It has come by `trail`.
    pub(super) fn swap(&mut self, reload: Reload, trail: &Trail) -> SwapReport {
        let (config, before) = (self.slot.config(), self.slot.current());
        let Some((new, old)) = self.live.split_last() else {
            return SwapReport::default();
        };
        let on_probation = !config.probation.is_zero();
        let goes_back = before.is_some() && on_probation;
        let mut snapshots = Snapshots::up_to(if goes_back { config.max_rollback_bytes } else { 0 });
        let report = swap(&self.slot, new, old, reload, &mut snapshots);
        self.slot.stats.loads.inc();
        self.slot.journal.passed(&self.slot.name, Step::Swap);
        self.slot.journal.reloaded(new.number, trail, &report);
        self.slot.journal.proves_itself(on_probation);
        let new = Arc::clone(new);
        let usual_panics = before.as_ref().map_or(0, |before| {
            let panics = self.panics.entry(before.number).or_default();
            panics.look(&before.health);
            panics.within(config.probation) as u64
        });
        // What was on probation until now has nothing to prove any more.
        self.proving = on_probation.then(|| Proving::start(new, before, snapshots, usual_panics, &config));
        report
    }

    /// Whether the code in service has yet to prove itself.
    pub(super) fn is_on_probation(&self) -> bool {
        self.proving.is_some()
    }

    /// How long there is nothing to look at: until its probation ends, or its state is to be tried.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let probation = self.proving.as_ref().map(|proving| proving.rest().unwrap_or_default());
        let survival = self
            .survival
            .due()
            .map(|at| at.saturating_duration_since(Instant::now()));
        probation.into_iter().chain(survival).min()
    }

    /// Takes it off probation if its code has failed that. With what it did.
    pub(super) fn failed_probation(&mut self) -> Option<(Proving, String)> {
        let why = self.proving.as_ref()?.failure(&self.slot.config())?;
        self.slot.journal.proves_itself(false);
        Some((self.proving.take()?, why))
    }

    /// Takes it off probation if other code waits to take over.
    pub(super) fn end_probation(&mut self) -> Option<Proving> {
        let proving = self.proving.take_if(|proving| proving.before.is_some())?;
        self.slot.journal.proves_itself(false);
        Some(proving)
    }

    /// Takes it off probation if the time is over. Returns the code that has passed.
    pub(super) fn passed_probation(&mut self) -> Option<Arc<Generation>> {
        let proving = self.proving.take_if(|proving| proving.rest().is_none())?;
        self.slot.journal.proves_itself(false);
        Some(proving.new)
    }

    /// Looks whether the state of the code in service would survive a reload, if it is time.
    pub(super) fn try_survival(&mut self, pipeline: &Pipeline) {
        self.survival.look(pipeline, &self.slot);
    }

    /// The panics of the code in service up to now.
    pub(super) fn panics_of(&mut self, current: &Generation) -> &mut Panics {
        self.panics
            .retain(|number, _| self.live.iter().any(|live| live.number == *number));
        let panics = self.panics.entry(current.number).or_default();
        panics.look(&current.health);
        panics
    }

    /// Makes `good` the one in service among the live generations.
    pub(super) fn back_to(&mut self, good: &Arc<Generation>) {
        self.live.retain(|generation| generation.number != good.number);
        self.live.push(Arc::clone(good));
    }

    /// Takes the generations that no topic needs any more, and that nothing can go back to.
    pub(super) fn take_unneeded(&mut self) -> Vec<Arc<Generation>> {
        let Some(last) = self.live.last().map(|last| last.number) else {
            return Vec::new();
        };
        let before = self.proving.as_ref().and_then(|proving| proving.before.as_ref());
        let before = before.map(|before| before.number);
        let is_unneeded = |generation: &mut Arc<Generation>| {
            generation.number != last && Some(generation.number) != before && generation.residents() == 0
        };
        self.live.extract_if(.., is_unneeded).collect()
    }

    /// Refuses joins from now on and ends all topics, whose members are told `notice`. Returns the code that served them.
    pub(super) fn end(&mut self, notice: Notice) -> Vec<Arc<Generation>> {
        self.proving = None;
        self.slot.journal.proves_itself(false);
        self.slot.set_current(None);
        for topic in self.slot.topics() {
            topic.owe(Input::EndAll {
                reason: reason::REROUTED,
                notice,
            });
        }
        std::mem::take(&mut self.live)
    }
}
