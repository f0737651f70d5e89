//! From a library to code in service. There is one way in: the start of the host, a changed library, a changed configuration
//! and a restart after panics all take it.
//!
//! [`Plugins::prepare`] reads a library, [`Plugins::load`] takes it through the steps up to [`Step::Load`], and
//! [`Plugins::put_in_service`] swaps. Nothing changes for clients before the swap.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Plugins;
use crate::config::{self, OnMigrateError, Reload};
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::env::{Code, Env};
use crate::runtime::plugin::generation::{Generation, GenerationError};
use crate::runtime::plugin::health::Health;
use crate::runtime::plugin::manifest::Manifest;
use crate::runtime::plugin::pipeline::{Approved, Wanted};
use crate::runtime::plugin::sample::{self, Samples, Unread};
use crate::runtime::plugin::slot::PluginSlot;
use crate::runtime::plugin::stage::Contents;
use crate::runtime::plugin::step::{Rejection, Step, Trail};
use crate::runtime::plugin::swap::{NOT_MOVED, SwapReport};

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
    reload: Reload,
    /// It is what lies in the library's place, not other contents that stand in for it.
    in_place: bool,
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
            probed_ms = milliseconds(trail.took(Step::Probe)),
            topics = swap.moved,
            swap_ms = milliseconds(swap.took),
            longest_pause_us = swap.longest_hold_us,
            "plugin in service"
        );
        swap.failures.announce(plugin, NOT_MOVED);
    }
}

impl Plugins {
    /// Reads, checks and starts a library with the settings that it would get. Changes nothing in service.
    ///
    /// `None`: these bytes are in service already, or were the last to be rejected, for a reason that lasts, and nobody asks
    /// for them once more.
    ///
    /// # Errors
    ///
    /// If it is rejected.
    pub(crate) fn prepare(
        &mut self,
        slot: &Arc<PluginSlot>,
        library: &Path,
        config: &config::Plugin,
        occasion: Occasion,
    ) -> Result<Option<Prepared>, Rejection> {
        let mut trail = Trail::of(&slot.name);
        let done = match self.pipeline.read(library, &mut trail) {
            Ok(contents) if self.is_known(slot, &contents, occasion) => return Ok(None),
            Ok(contents) => self.load(slot, &contents, config, &mut trail),
            Err(rejection) => Err(rejection),
        };
        let rejection = match done {
            Ok(mut prepared) => {
                prepared.in_place = true;
                return Ok(Some(prepared));
            }
            Err(rejection) => rejection,
        };
        slot.stats.refused_loads.inc();
        slot.journal.came(&trail);
        slot.journal.rejected(rejection.clone());
        if occasion != Occasion::Needed || rejection.code != "quarantined" {
            return Err(rejection);
        }
        let Some(good) = self.pipeline.last_good(slot, config, None) else {
            return Err(rejection);
        };
        tracing::error!(
            plugin = slot.name,
            step = rejection.step.name(),
            code = rejection.code,
            instead = %good.hash,
            "library rejected; Bennu loads the last good one instead: {}",
            rejection.message
        );
        self.load(slot, &good, config, &mut Trail::of(&slot.name)).map(Some)
    }

    /// Notes that these contents were read. Whether nothing is to be done about them.
    fn is_known(&mut self, slot: &PluginSlot, contents: &Contents, occasion: Occasion) -> bool {
        let Some(plugin) = self.plugins.get_mut(&slot.name) else {
            return false;
        };
        let before = plugin.taken.replace(contents.hash);
        if occasion != Occasion::Changed {
            return false;
        }
        if plugin.is_in_service() {
            slot.journal.settled();
            return true;
        }
        // What it was rejected over may be gone: the state of topics, or a lack of the machine.
        let passes = |rejection: Rejection| rejection.over_state || rejection.may_pass;
        before == Some(contents.hash) && !slot.journal.read().rejection.is_some_and(passes)
    }

    /// [`Step::Check`] to [`Step::Load`].
    pub(super) fn load(
        &mut self,
        slot: &Arc<PluginSlot>,
        contents: &Contents,
        config: &config::Plugin,
        trail: &mut Trail,
    ) -> Result<Prepared, Rejection> {
        has_room(slot, config)?;
        self.attempts += 1;
        let wanted = Wanted {
            plugin: &slot.name,
            attempt: self.attempts,
            settings: &config.settings,
            allow: config.allow.as_deref(),
            carries: config.reload == Reload::Migrate,
            limits: config.probe,
        };
        let live = self.plugins.get(&slot.name).map_or(&[][..], |plugin| &plugin.live);
        let sample = |manifest: &Manifest| live_state(slot, live, manifest, config);
        let approved = self.pipeline.approve(&wanted, contents, sample, trail)?;
        let Approved {
            manifest,
            staged,
            untried,
        } = approved;
        let number = self.next_generation(&slot.name);
        let env = Env {
            generation: number,
            hub: Arc::clone(&self.hub),
            slot: Arc::clone(slot),
            code: Arc::new(Code::of(&manifest)),
            held: None,
            health: Arc::new(Health::new(Arc::clone(&self.fault_signal), config.probation_errors > 0)),
        };
        let generation = trail.step(Step::Load, || {
            Generation::start(number, manifest, staged, config, &env)
                .map_err(|error| self.pipeline.explained(not_started(error)))
        })?;
        *generation.untried() = untried;
        Ok(Prepared {
            slot: Arc::clone(slot),
            generation: Some(Arc::new(generation)),
            trail: std::mem::take(trail),
            reload: config.reload,
            in_place: false,
        })
    }

    /// [`Step::Swap`]: has new code take over what the plugin serves. `None`: the plugin is gone.
    pub(crate) fn put_in_service(&mut self, mut prepared: Prepared) -> Option<Loaded> {
        let slot = Arc::clone(&prepared.slot);
        let plugin = self.plugins.get_mut(&slot.name)?;
        let new = prepared.generation.take()?;
        let trail = std::mem::take(&mut prepared.trail);
        if prepared.in_place {
            slot.journal.settled();
        }
        self.numbers.insert(slot.name.clone(), new.number);
        plugin.live.push(Arc::clone(&new));
        self.hub.intercept(&slot, &plugin.intercepts());
        let swap = plugin.swap(prepared.reload, &trail);
        if !plugin.is_on_probation() {
            self.pipeline.keep(&slot, &new);
        }
        Some(Loaded {
            plugin: slot.name.clone(),
            version: new.manifest.version.clone(),
            generation: new.number,
            trail,
            swap,
        })
    }
}

/// Why a generation did not start. The probe has loaded the same bytes just now: what the system lacks, it may have soon.
fn not_started(error: GenerationError) -> Rejection {
    let rejection = Rejection::by(Step::Load, "start", &error);
    let lacks = ["Cannot allocate memory", "Too many open files"];
    match error {
        GenerationError::Thread(_) => rejection.passing(),
        GenerationError::Load(_) if lacks.iter().any(|what| rejection.message.contains(what)) => rejection.passing(),
        _ => rejection,
    }
}

/// Whether another generation may come into memory, beside those that do not leave it.
fn has_room(slot: &PluginSlot, config: &config::Plugin) -> Result<(), Rejection> {
    let left = slot.journal.read().left;
    if left.len() < config.max_leaked {
        return Ok(());
    }
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    left.values()
        .for_each(|left| *causes.entry(&left.cause).or_default() += 1);
    let causes: Vec<_> = causes
        .iter()
        .map(|(cause, count)| format!("{count} × {cause}"))
        .collect();
    let message = format!(
        "{} replaced libraries of this plugin are still in memory ({}): restart the server, or raise max_leaked",
        left.len(),
        causes.join("; ")
    );
    Err(Rejection::new(Step::Load, "leaked", message))
}

/// A sample of the state that topics would move with, if they do, and of what is stored.
fn live_state(
    slot: &PluginSlot,
    live: &[Arc<Generation>],
    manifest: &Manifest,
    config: &config::Plugin,
) -> Result<Samples, Rejection> {
    let (stored, unread) = sample::stored(slot, &manifest.reads, config);
    if let Some(unread) = unread {
        reads_stored(slot, manifest, config, &unread)?;
    }
    let carries = config.reload == Reload::Migrate && slot.topic_count() > 0;
    let Some(current) = slot.current().filter(|_| carries) else {
        return Ok(Samples::of_stored(stored));
    };
    reads_state_of(manifest, &current).map_err(|rejection| rejection.over_state(&slot.name))?;
    let mut samples = sample::of(slot, live, &manifest.reads, config);
    samples.taken.extend(stored);
    Ok(samples)
}

/// Whether new code may come into service although it does not read a stored topic. Not if the code in service does. Otherwise the log
/// says what clients will be told.
fn reads_stored(
    slot: &PluginSlot,
    manifest: &Manifest,
    config: &config::Plugin,
    unread: &Unread,
) -> Result<(), Rejection> {
    let Unread { topic, version } = unread;
    let (plugin, reads) = (&slot.name, &manifest.reads);
    let is_worse = slot
        .current()
        .is_some_and(|current| current.manifest.reads.contains(version));
    if is_worse && config.on_migrate_error != OnMigrateError::Rejoin {
        let message = format!(
            "it reads state of version {} to {}, stored topics have version {version}, such as {topic}; declare `READS_FROM` or \
             `READS_TO`, or forget them with `bennu topics --forget`",
            reads.start(),
            reads.end()
        );
        return Err(Rejection::new(Step::Manifest, "state_version", message));
    }
    tracing::warn!(
        plugin,
        topic,
        version,
        reads_from = reads.start(),
        reads_to = reads.end(),
        "stored topics have state of a version that this code does not read: their joins are refused, and what is stored stays"
    );
    Ok(())
}

/// Whether new code reads the state that the code in service writes.
fn reads_state_of(manifest: &Manifest, current: &Generation) -> Result<(), Rejection> {
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
    Err(Rejection::new(Step::Manifest, "state_version", message))
}
