//! All plugins of a host: which code of each is in service, which is on its way in, and which on its way out.
//!
//! One thread does all of this, one thing at a time, so that two changes of the same plugin never meet.

mod faults;
mod load;
mod plugin;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_plugin::abi;
use bennu_wire::message::reason;

use self::plugin::Plugin;
use super::durable::Durable;
use super::env::Code;
use super::generation::Generation;
use super::health::FaultSignal;
use super::hub::Hub;
use super::late;
use super::pipeline::Pipeline;
use super::retire::Retirement;
use super::slot::PluginSlot;
use super::step::Rejection;
use crate::config::{self, ContentHash};
use crate::runtime::channel::{Input, Notice};

pub(crate) use self::faults::{Verdict, announce_rollback};
pub(crate) use self::load::{Loaded, Occasion, Prepared};

/// How often a stop looks whether all topics have ended.
const LOOK: Duration = Duration::from_millis(5);

/// All plugins of a host.
#[derive(Debug)]
pub(crate) struct Plugins {
    hub: Arc<Hub>,
    pipeline: Pipeline,
    plugins: BTreeMap<String, Plugin>,
    /// The generation that came into service last, by plugin, also of plugins that the configuration no longer names.
    numbers: BTreeMap<String, u64>,
    /// Libraries that `dev` built, which go before what the configuration names.
    built: BTreeMap<String, PathBuf>,
    retirement: Retirement,
    fault_signal: Arc<FaultSignal>,
    next_index: u32,
    /// Libraries that were staged so far.
    attempts: u64,
}

impl Plugins {
    /// No plugins yet.
    #[must_use]
    pub(crate) fn new(hub: Arc<Hub>, pipeline: Pipeline) -> Self {
        Self {
            retirement: Retirement::new(Arc::clone(&hub)),
            hub,
            pipeline,
            plugins: BTreeMap::new(),
            numbers: BTreeMap::new(),
            built: BTreeMap::new(),
            fault_signal: Arc::default(),
            next_index: 0,
            attempts: 0,
        }
    }

    /// The plugins, in the order of their names.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<PluginSlot>> {
        self.plugins.values().map(|plugin| &plugin.slot)
    }

    /// The plugin of that name.
    #[must_use]
    pub(crate) fn slot(&self, name: &str) -> Option<&Arc<PluginSlot>> {
        Some(&self.plugins.get(name)?.slot)
    }

    /// Says where `dev` has built a plugin.
    pub(crate) fn set_built(&mut self, name: &str, library: PathBuf) {
        self.built.insert(name.to_owned(), library);
    }

    /// Says that `dev` could not build a plugin. What it builds next is looked at, even if the same was rejected before.
    pub(crate) fn not_built(&mut self, name: &str, rejection: Rejection) {
        if let Some(plugin) = self.plugins.get_mut(name) {
            plugin.taken = None;
            plugin.slot.journal.rejected(rejection);
        }
    }

    /// Where the library of a plugin is, if anything says so.
    #[must_use]
    pub(crate) fn library(&self, name: &str, config: &config::Plugin) -> Option<PathBuf> {
        self.built.get(name).cloned().or_else(|| config.library.clone())
    }

    /// Makes room for a plugin of the configuration. It has no code yet.
    pub(crate) fn add(&mut self, name: &str, config: &config::Plugin) -> Arc<PluginSlot> {
        if let Some(slot) = self.slot(name) {
            return Arc::clone(slot);
        }
        let plugin = Plugin::new(self.new_slot(name, config));
        let slot = Arc::clone(&plugin.slot);
        self.next_index += 1;
        self.plugins.insert(name.to_owned(), plugin);
        slot
    }

    fn new_slot(&self, name: &str, config: &config::Plugin) -> Arc<PluginSlot> {
        let slot = PluginSlot::new(name.to_owned(), self.next_index, config.clone());
        let durable =
            { self.hub.store() }.and_then(|store| Durable::new(name, config.durability, store.clone(), &self.hub));
        let slot = Arc::new(match durable {
            Some(durable) => slot.with(durable),
            None => slot,
        });
        if let Some(durable) = slot.durable() {
            durable.belongs_to(&slot);
        }
        slot
    }

    /// Takes a plugin that the configuration does not name out of service. Its members are told that they are closed.
    pub(crate) fn remove(&mut self, name: &str) {
        self.end(name, Notice::Close(Some(reason::UNMATCHED_TOPIC)));
        self.plugins.remove(name);
    }

    /// Takes a plugin out of service, and has its code end.
    fn end(&mut self, name: &str, notice: Notice) {
        let Some(plugin) = self.plugins.get_mut(name) else {
            return;
        };
        for generation in plugin.end(notice) {
            self.retirement.add(&plugin.slot, generation);
        }
    }

    /// The contents of a plugin's library that were read last, in service or rejected.
    #[must_use]
    pub(crate) fn taken(&self, name: &str) -> Option<ContentHash> {
        self.plugins.get(name)?.taken
    }

    /// All of these, by plugin.
    pub(super) fn all_taken(&self) -> BTreeMap<String, Option<ContentHash>> {
        let taken = |(name, plugin): (&String, &Plugin)| (name.clone(), plugin.taken);
        self.plugins.iter().map(taken).collect()
    }

    /// Goes back to these: nothing came of what was read since.
    pub(super) fn set_all_taken(&mut self, taken: &BTreeMap<String, Option<ContentHash>>) {
        for (name, taken) in taken {
            if let Some(plugin) = self.plugins.get_mut(name) {
                plugin.taken = *taken;
            }
        }
    }

    /// Whether the contents of a plugin's library that were read last are in service.
    #[must_use]
    pub(crate) fn is_in_service(&self, name: &str) -> bool {
        self.plugins.get(name).is_some_and(Plugin::is_in_service)
    }

    /// Forgets what was rejected of a configuration, for the plugins whose library as it lies there is in service now.
    pub(crate) fn settle(&self) -> Vec<Arc<PluginSlot>> {
        let settled = self.plugins.values().filter(|plugin| plugin.is_in_service());
        let settled = settled.map(|plugin| Arc::clone(&plugin.slot));
        settled.filter(|slot| slot.journal.settled()).collect()
    }

    /// The number of the next generation of a plugin. A library that is rejected uses up no number.
    fn next_generation(&self, name: &str) -> u64 {
        self.numbers.get(name).map_or(1, |last| last + 1)
    }

    /// What rings when something panics.
    #[must_use]
    pub(crate) fn fault_signal(&self) -> &Arc<FaultSignal> {
        &self.fault_signal
    }

    /// How long there is nothing to look at: until the next probation ends, or state is to be tried.
    #[must_use]
    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.plugins.values().filter_map(Plugin::next_look).min()
    }

    /// Tries some state of the code in service, where that is due: whether it would survive a reload.
    pub(crate) fn try_survival(&mut self) {
        for plugin in self.plugins.values_mut() {
            plugin.try_survival(&self.pipeline);
        }
    }

    /// Moves topics that were too busy to move with the others, once they are not.
    pub(crate) fn carry_late(&self) {
        for Plugin { slot, live, .. } in self.plugins.values() {
            late::carry(&self.pipeline, slot, live);
        }
    }

    /// Whether [`Plugins::retire`] has something to wait for.
    #[must_use]
    pub(crate) fn is_retiring(&self) -> bool {
        self.retirement.is_waiting() || self.plugins.values().any(|plugin| plugin.live.len() > 1)
    }

    /// Ends generations that no topic needs any more, once they have had their time for late work.
    pub(crate) fn retire(&mut self) {
        for plugin in self.plugins.values_mut() {
            for generation in plugin.take_unneeded() {
                self.retirement.add(&plugin.slot, generation);
            }
        }
        for (slot, generation) in self.retirement.take_due() {
            let plugin = self
                .plugins
                .get(&slot.name)
                .filter(|plugin| plugin.slot.index == slot.index);
            self.hub
                .intercept(&slot, &plugin.map(Plugin::intercepts).unwrap_or_default());
            self.retirement.end(slot, generation);
        }
    }

    /// Ends everything: the host stops. Topics that have a last word, or have to be stored, leave memory before their code ends.
    pub(crate) fn stop(mut self, deadline: Instant) {
        self.hub.stop_by(deadline);
        let slots: Vec<_> = self.slots().cloned().collect();
        for slot in &slots {
            slot.set_current(None);
        }
        let leaving = |plugin: &&Plugin| {
            let has_word = |generation: &Arc<Generation>| Code::of(&generation.manifest).closes;
            plugin.slot.durable().is_some() || plugin.live.iter().any(has_word)
        };
        let leaving: Vec<_> = { self.plugins.values() }
            .filter(leaving)
            .map(|plugin| Arc::clone(&plugin.slot))
            .collect();
        for topic in leaving.iter().flat_map(|slot| slot.topics()) {
            topic.owe(Input::EndAll {
                reason: abi::reason::DRAINING,
                notice: Notice::None,
            });
        }
        while Instant::now() < deadline && leaving.iter().any(|slot| slot.topic_count() > 0) {
            std::thread::sleep(LOOK);
        }
        for slot in &leaving {
            let topics = slot.topic_count();
            if topics > 0 {
                let plugin = &slot.name;
                tracing::error!(
                    plugin,
                    topics,
                    "the server stops before these topics have ended or are stored"
                );
            }
        }
        for plugin in std::mem::take(&mut self.plugins).into_values() {
            for generation in plugin.live {
                self.retirement.stop(Arc::clone(&plugin.slot), generation);
            }
        }
        self.retirement.wait(deadline);
        if let Some(store) = self.hub.store() {
            store.stop();
        }
    }
}
