//! Which code is in service: loads it, replaces it, retires it.
//!
//! One thread does all of this, one thing at a time, so that two changes of the same plugin never meet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bennu_plugin::abi::reason;

use super::env::Env;
use super::generation::Generation;
use super::health::{FaultSignal, Health};
use super::manifest::Manifest;
use super::pipeline::{Pipeline, Refusal, Trail, Wanted};
use super::probation::{AllPanics, AllProving};
use super::sample::{self, Samples};
use super::slot::PluginSlot;
use super::stage::Contents;
use super::swap::{Snapshots, SwapReport, swap};
use crate::config::ContentHash;
use crate::config::{self, Reload};
use crate::runtime::channel::{Input, Notice};
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::Hub;

/// All plugins of a host.
#[derive(Debug)]
pub(crate) struct Plugins {
    hub: Arc<Hub>,
    pub(super) pipeline: Pipeline,
    pub(super) slots: BTreeMap<String, Arc<PluginSlot>>,
    /// Generations that may still have topics, by plugin; the last one is in service.
    pub(super) live: BTreeMap<String, Vec<Arc<Generation>>>,
    /// Generations without topics, and since when.
    pub(super) retiring: Vec<(Arc<PluginSlot>, Arc<Generation>, Instant)>,
    pub(super) retirements: Vec<std::thread::JoinHandle<()>>,
    /// Libraries that `dev` built, which go before what the configuration names.
    built: BTreeMap<String, PathBuf>,
    /// The contents that were taken up last, by plugin: they are in service, or were refused.
    taken: BTreeMap<String, ContentHash>,
    next_index: u32,
    /// Generations that have to prove themselves, by plugin.
    pub(super) proving: AllProving,
    pub(super) panics: AllPanics,
    pub(super) fault_signal: Arc<FaultSignal>,
    /// Libraries that were staged so far.
    attempts: u64,
    /// The generation that came into service last, by plugin.
    generations: BTreeMap<String, u64>,
}

/// Why a library is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// It has changed, perhaps.
    Changed,
    /// An operator asks for it.
    Asked,
    /// The plugin cannot do without one. Where it is in quarantine, the last good one will do.
    Needed,
}

/// New code that runs already, but serves nothing yet. Ends if it is dropped.
#[derive(Debug)]
pub(crate) struct Prepared {
    slot: Arc<PluginSlot>,
    generation: Option<Arc<Generation>>,
    trail: Trail,
    /// It is not what lies in the library's place, as that was refused.
    instead: bool,
}

impl Prepared {
    fn new(slot: &Arc<PluginSlot>, generation: Generation, trail: Trail, instead: bool) -> Self {
        Self {
            slot: Arc::clone(slot),
            generation: Some(Arc::new(generation)),
            trail,
            instead,
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(generation) = self.generation.take() {
            generation.retire();
        }
    }
}

/// What came into service.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The plugin.
    pub(crate) plugin: String,
    /// Its version, as its crate says.
    pub(crate) version: String,
    /// The generation.
    pub(crate) generation: u64,
    /// The steps before the swap.
    pub(crate) trail: Trail,
    /// What became of the topics.
    pub(crate) swap: SwapReport,
}

impl Loaded {
    /// Says in the log what came into service.
    pub(crate) fn announce(&self) {
        let Self {
            plugin,
            version,
            generation,
            trail,
            swap,
        } = self;
        tracing::info!(
            plugin,
            version,
            generation,
            probed_ms = milliseconds(trail.took("probe")),
            topics = swap.moved,
            swap_ms = milliseconds(swap.took),
            longest_pause_us = swap.longest_hold_us,
            "plugin in service"
        );
        if let Some(failure) = &swap.first_failure {
            tracing::error!(
                plugin,
                failed = swap.failed,
                "topics could not be carried over; the first: {failure}"
            );
        }
    }
}

impl Plugins {
    /// No plugins yet.
    #[must_use]
    pub(crate) fn new(hub: Arc<Hub>, pipeline: Pipeline) -> Self {
        Self {
            hub,
            pipeline,
            slots: BTreeMap::new(),
            live: BTreeMap::new(),
            retiring: Vec::new(),
            retirements: Vec::new(),
            built: BTreeMap::new(),
            taken: BTreeMap::new(),
            next_index: 0,
            proving: AllProving::new(),
            panics: AllPanics::new(),
            fault_signal: Arc::default(),
            attempts: 0,
            generations: BTreeMap::new(),
        }
    }

    /// The plugins by name.
    #[must_use]
    pub(crate) fn slots(&self) -> &BTreeMap<String, Arc<PluginSlot>> {
        &self.slots
    }

    /// Says where `dev` has built a plugin.
    pub(crate) fn set_built(&mut self, name: &str, library: PathBuf) {
        self.built.insert(name.to_owned(), library);
    }

    /// Says that `dev` could not build a plugin. What it builds next is looked at, even if the same was refused before.
    pub(crate) fn not_built(&mut self, name: &str, refusal: Refusal) {
        self.taken.remove(name);
        if let Some(slot) = self.slots.get(name) {
            slot.journal.refused(refusal, &Trail::default());
        }
    }

    /// Where the library of a plugin is, if anything says so.
    #[must_use]
    pub(crate) fn library(&self, name: &str, config: &config::Plugin) -> Option<PathBuf> {
        self.built.get(name).cloned().or_else(|| config.library.clone())
    }

    /// Makes room for a plugin of the configuration. It has no code yet.
    pub(crate) fn add(&mut self, name: &str, config: &config::Plugin) -> Arc<PluginSlot> {
        if let Some(slot) = self.slots.get(name) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(PluginSlot::new(name.to_owned(), self.next_index, config.clone()));
        self.next_index += 1;
        self.slots.insert(name.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Plugins that were only [added](Self::add) are none after all.
    pub(super) fn forget(&mut self, names: &[String]) {
        names.iter().for_each(|name| drop(self.slots.remove(name)));
    }

    /// Reads, checks and starts a library with the settings that it would get. Changes nothing in service.
    ///
    /// `None`: these bytes are in service already, or were the last to be refused, but for the state of live topics, and nobody
    /// asks for them once more.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub(crate) fn prepare(
        &mut self,
        slot: &Arc<PluginSlot>,
        library: &Path,
        config: &config::Plugin,
        occasion: Occasion,
    ) -> Result<Option<Prepared>, Refusal> {
        let mut trail = Trail::default();
        let refused = |refusal: Refusal, trail: &Trail| {
            slot.stats.refused_loads.inc();
            slot.journal.refused(refusal.clone(), trail);
            refusal
        };
        let contents = trail
            .step(&slot.name, "read", || self.pipeline.read(library))
            .map_err(|refusal| refused(refusal, &trail))?;
        let before = self.taken.insert(slot.name.clone(), contents.hash);
        if occasion == Occasion::Changed {
            let in_service = slot.current().is_some_and(|current| current.hash == contents.hash);
            if in_service {
                slot.journal.settled();
            }
            // What it was refused over may be gone.
            let over_state = || slot.journal.read().refusal.is_some_and(|refusal| refusal.over_state);
            if in_service || (before == Some(contents.hash) && !over_state()) {
                return Ok(None);
            }
        }
        let started = self.start(slot, &contents, config, &mut trail);
        let refusal = match started {
            Ok(generation) => return Ok(Some(Prepared::new(slot, generation, trail, false))),
            Err(refusal) => refused(refusal, &trail),
        };
        if occasion != Occasion::Needed || refusal.code != "quarantined" {
            return Err(refusal);
        }
        let Some(good) = self.last_good(slot, config, None) else {
            return Err(refusal);
        };
        tracing::error!(
            plugin = slot.name,
            step = refusal.step,
            code = refusal.code,
            instead = %good.hash,
            "library refused, the last good one is loaded: {}",
            refusal.message
        );
        let mut trail = Trail::default();
        let generation = self.start(slot, &good, config, &mut trail)?;
        Ok(Some(Prepared::new(slot, generation, trail, true)))
    }

    /// The contents in service, or else the newest good ones that may be loaded, but not `except`.
    pub(super) fn last_good(
        &self,
        slot: &PluginSlot,
        config: &config::Plugin,
        except: Option<ContentHash>,
    ) -> Option<Contents> {
        let Pipeline { kept, quarantine, .. } = &self.pipeline;
        let current = slot.current().map(|current| current.hash);
        let allowed = |hash| config.allow.as_ref().is_none_or(|allowed| allowed.contains(&hash));
        let good = |hash| Some(hash) != except && allowed(hash) && quarantine.find(hash).is_none();
        kept.newest(&slot.name, |hash| Some(hash) == current && good(hash))
            .or_else(|| kept.newest(&slot.name, good))
    }

    /// The contents of a plugin's library that were taken up last, in service or refused.
    #[must_use]
    pub(crate) fn taken(&self, name: &str) -> Option<ContentHash> {
        self.taken.get(name).copied()
    }

    /// Forgets what was refused of a configuration, for the plugins whose library as it lies there is in service now.
    pub(crate) fn settle(&self) -> Vec<Arc<PluginSlot>> {
        let is_settled = |slot: &&Arc<PluginSlot>| {
            let taken = self.taken(&slot.name);
            taken.is_some()
                && slot.current().map(|current| current.hash) == taken
                && slot.journal.read().refusal.is_some()
        };
        let settled: Vec<_> = self.slots.values().filter(is_settled).cloned().collect();
        settled.iter().for_each(|slot| slot.journal.settled());
        settled
    }

    /// Checks what was read and starts it.
    pub(super) fn start(
        &mut self,
        slot: &Arc<PluginSlot>,
        contents: &Contents,
        config: &config::Plugin,
        trail: &mut Trail,
    ) -> Result<Generation, Refusal> {
        let left = slot.journal.read().left;
        if left.len() >= config.max_leaked {
            let causes: Vec<_> = left.values().map(|left| &*left.cause).collect();
            let message = format!(
                "{} replaced libraries of this plugin are still in memory ({}): restart the host, or raise max_leaked",
                left.len(),
                causes.first().copied().unwrap_or_default()
            );
            return Err(Refusal::new("load", "leaked", message));
        }
        self.attempts += 1;
        let wanted = Wanted {
            plugin: &slot.name,
            attempt: self.attempts,
            settings: &config.settings,
            allow: config.allow.as_deref(),
            limits: config.probe,
        };
        let manifest = self.pipeline.check(&wanted, contents, trail)?;
        let mut samples = Samples::default();
        if let Some(current) = slot
            .current()
            .filter(|_| config.reload == Reload::Migrate && slot.topic_count() > 0)
        {
            reads_state_of(&manifest, &current).map_err(|refusal| refusal.over_state(&slot.name))?;
            let live = self.live.get(&slot.name).map_or(&[][..], Vec::as_slice);
            samples = sample::of(slot, live, &manifest.reads, config);
        }
        let staged = self.pipeline.try_out(&wanted, contents, samples.taken, trail)?;
        // It counts only once it is in service: a library that is refused uses up no number.
        let number = self.generations.get(&slot.name).map_or(1, |last| last + 1);
        let env = Env {
            generation: number,
            hub: Arc::clone(&self.hub),
            slot: Arc::clone(slot),
            health: Arc::new(Health::new(Arc::clone(&self.fault_signal), config.probation_errors > 0)),
        };
        let started = trail.step(&slot.name, "load", || {
            Generation::start(number, manifest, staged, config, &env)
                .map_err(|error| Refusal::by("load", "start", &error))
        });
        started.inspect(|generation| *generation.untried() = samples.untried)
    }

    /// Puts what was prepared in service and moves the topics over.
    pub(crate) fn put_in_service(&mut self, mut prepared: Prepared) -> Option<Loaded> {
        let (slot, new) = (Arc::clone(&prepared.slot), prepared.generation.take()?);
        if !prepared.instead {
            slot.journal.settled();
        }
        let (trail, reload) = (std::mem::take(&mut prepared.trail), slot.config().reload);
        Some(self.serve(&slot, new, trail, reload))
    }

    /// Has `new` take over what the plugin serves.
    pub(super) fn serve(
        &mut self,
        slot: &Arc<PluginSlot>,
        new: Arc<Generation>,
        trail: Trail,
        reload: Reload,
    ) -> Loaded {
        self.generations.insert(slot.name.clone(), new.number);
        let (config, before) = (slot.config(), slot.current());
        let live = self.live.entry(slot.name.clone()).or_default();
        let old = live.clone();
        live.push(Arc::clone(&new));
        self.tell_interceptors();
        let on_probation = before.is_some() && !config.probation.is_zero();
        let mut snapshots = Snapshots::up_to(if on_probation { config.max_rollback_bytes } else { 0 });
        let swap = swap(slot, &new, &old, reload, &mut snapshots);
        slot.stats.loads.inc();
        slot.journal.passed(&slot.name, "swap");
        slot.journal.reloaded(new.number, &trail, &swap);
        self.put_on_probation(slot, &new, before, snapshots);
        Loaded {
            plugin: slot.name.clone(),
            version: new.manifest.version.clone(),
            generation: new.number,
            trail,
            swap,
        }
    }

    /// Keeps a copy of a good library, for going back to it.
    pub(super) fn keep(&self, slot: &PluginSlot, generation: &Generation) {
        let kept = &self.pipeline.kept;
        if let Err(error) = kept.keep(&slot.name, generation.hash, generation.library()) {
            tracing::warn!(plugin = slot.name, %error, "no copy of a good library is kept");
        }
    }

    /// Ends all topics of a plugin and refuses joins.
    pub(super) fn take_out_of_service(&mut self, slot: &Arc<PluginSlot>) {
        self.proving.remove(&slot.name);
        slot.journal.proves_itself(false);
        slot.put_in_service(None);
        end_topics(slot, Notice::Error);
        for generation in self.live.remove(&slot.name).unwrap_or_default() {
            self.retiring.push((Arc::clone(slot), generation, Instant::now()));
        }
    }

    /// What rings when something panics.
    #[must_use]
    pub(crate) fn fault_signal(&self) -> &Arc<FaultSignal> {
        &self.fault_signal
    }

    /// Takes a plugin that the configuration no longer names out of service. Its members are told that they are closed.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(slot) = self.slots.remove(name) else { return };
        self.taken.remove(name);
        self.proving.remove(name);
        slot.put_in_service(None);
        end_topics(&slot, Notice::Close);
        for generation in self.live.remove(name).unwrap_or_default() {
            self.retiring.push((Arc::clone(&slot), generation, Instant::now()));
        }
    }

    /// Which events have to be looked at by whom, in all code that is live.
    pub(super) fn tell_interceptors(&self) {
        let mut interceptors: std::collections::HashMap<String, Vec<Arc<PluginSlot>>> =
            std::collections::HashMap::new();
        for (name, generations) in &self.live {
            let Some(slot) = self.slots.get(name) else { continue };
            let mut events: Vec<&String> = generations
                .iter()
                .flat_map(|generation| &generation.manifest.intercepts)
                .collect();
            events.sort();
            events.dedup();
            for event in events {
                interceptors.entry(event.clone()).or_default().push(Arc::clone(slot));
            }
        }
        self.hub.set_interceptors(interceptors);
    }
}

/// Ends whatever a plugin serves.
fn end_topics(slot: &PluginSlot, notice: Notice) {
    for topic in slot.topics() {
        topic.owe(Input::EndAll {
            reason: reason::REROUTED,
            notice,
        });
    }
}

/// Whether new code reads the state that the code in service writes.
fn reads_state_of(manifest: &Manifest, current: &Generation) -> Result<(), Refusal> {
    let (version, reads) = (current.manifest.state_version, &manifest.reads);
    if reads.contains(&version) {
        return Ok(());
    }
    let message = format!(
        "it reads state of version {} to {}, live topics have version {version}; declare `READS_FROM` or `READS_TO`, \
         or set reload = \"rejoin\"",
        reads.start(),
        reads.end()
    );
    Err(Refusal::new("manifest", "state_version", message))
}
