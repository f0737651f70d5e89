//! How new code proves itself, and what follows when it does not.
//!
//! For `probation_ms` after a swap the code before stays in memory. Past a threshold of panics or errors it takes its
//! topics back, and the new contents go into quarantine. Contents that get through are kept as good ones. Repeated panics
//! at any other time have the consequence that the configuration names.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generation::Generation;
use super::health::Health;
use super::journal::Rollback;
use super::manager::{Loaded, Plugins};
use super::pipeline::{Refusal, Trail};
use super::quarantine::{Quarantined, unix_seconds};
use super::slot::PluginSlot;
use super::stage::{Contents, Image, MAX_LIBRARY_BYTES};
use super::swap::{Snapshots, SwapReport, swap_back};
use crate::config::ContentHash;
use crate::config::{self, OnPanics, Reload};
use crate::runtime::metrics::milliseconds;

/// Panics of one generation whose time is remembered: no threshold is larger.
const MAX_REMEMBERED: usize = 100_000;

/// New code on probation.
#[derive(Debug)]
pub(super) struct Proving {
    pub(super) new: Arc<Generation>,
    /// What takes over if it fails; `None`: nothing was there before.
    pub(super) before: Option<Arc<Generation>>,
    pub(super) snapshots: Snapshots,
    /// Panics of the code before in as much time.
    usual_panics: u64,
    until: Instant,
}

/// When a generation panicked, as far as that matters.
#[derive(Debug, Default)]
pub(super) struct Panics {
    counted: u64,
    times: VecDeque<Instant>,
}

impl Panics {
    fn look(&mut self, health: &Health, most: usize) {
        let (now, counted) = (Instant::now(), health.panics());
        let new = usize::try_from(counted - self.counted).unwrap_or(usize::MAX);
        self.counted = counted;
        self.times.extend(std::iter::repeat_n(now, new.min(most)));
        let over = self.times.len().saturating_sub(most);
        self.times.drain(..over);
    }

    fn within(&self, window: Duration) -> usize {
        let fresh = |time: &&Instant| time.elapsed() <= window;
        self.times.iter().rev().take_while(fresh).count()
    }
}

/// What became of a plugin whose code did not do.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Other code is in service in its place.
    RolledBack(Arc<PluginSlot>, Rollback),
    /// The same contents started anew, or others were loaded.
    Loaded(Loaded),
    /// Nothing is in service.
    OutOfService(Arc<PluginSlot>, String),
    /// What was to follow did not work; the code in service goes on.
    Failed(Arc<PluginSlot>, String),
}

impl Plugins {
    /// Puts code on probation that has just come into service. It is good at once where there is none.
    pub(super) fn put_on_probation(
        &mut self,
        slot: &Arc<PluginSlot>,
        new: &Arc<Generation>,
        before: Option<Arc<Generation>>,
        snapshots: Snapshots,
    ) {
        let config = slot.config();
        // What was on probation until now has nothing to prove any more.
        self.proving.remove(&slot.name);
        slot.journal.proves_itself(!config.probation.is_zero());
        if config.probation.is_zero() {
            return self.keep(slot, new);
        }
        let usual_panics = before.as_ref().map_or(0, |before| {
            let panics = self.panics.entry((slot.name.clone(), before.number)).or_default();
            panics.look(&before.health, MAX_REMEMBERED);
            panics.within(config.probation) as u64
        });
        let proving = Proving {
            new: Arc::clone(new),
            before,
            snapshots,
            usual_panics,
            until: Instant::now() + config.probation,
        };
        self.proving.insert(slot.name.clone(), proving);
    }

    /// When somebody's probation ends next.
    #[must_use]
    pub(crate) fn next_proven(&self) -> Option<Instant> {
        self.proving.values().map(|proving| proving.until).min()
    }

    /// Looks how all generations fare, and does what has to follow.
    pub(crate) fn look_after(&mut self) -> Vec<Verdict> {
        self.fault_signal.heard();
        let mut verdicts = Vec::new();
        for name in self.slots().keys().cloned().collect::<Vec<_>>() {
            if let Some(proving) = self.failed_probation(&name) {
                verdicts.extend(self.roll_back(&name, proving));
            } else {
                self.end_probation(&name);
                verdicts.extend(self.after_panics(&name));
            }
        }
        self.panics.retain(|(name, number), _| {
            self.live
                .get(name)
                .is_some_and(|live| live.iter().any(|l| l.number == *number))
        });
        verdicts
    }

    fn failed_probation(&mut self, name: &str) -> Option<(Proving, String)> {
        let proving = self.proving.get(name).filter(|proving| proving.before.is_some())?;
        let config = self.slots().get(name)?.config();
        let (panics, errors) = (proving.new.health.panics(), proving.new.health.errors());
        let why = if panics >= config.probation_panics && panics > proving.usual_panics {
            format!("{panics} panics on probation")
        } else if config.probation_errors > 0 && errors >= config.probation_errors {
            format!("{errors} errors on probation")
        } else {
            return None;
        };
        self.proving.remove(name).map(|proving| (proving, why))
    }

    fn end_probation(&mut self, name: &str) {
        if self
            .proving
            .get(name)
            .is_none_or(|proving| Instant::now() < proving.until)
        {
            return;
        }
        let (Some(proving), Some(slot)) = (self.proving.remove(name), self.slots().get(name).cloned()) else {
            return;
        };
        slot.journal.proves_itself(false);
        slot.journal.passed(name, "probation");
        self.keep(&slot, &proving.new);
    }

    /// The code before takes its topics back.
    fn roll_back(&mut self, name: &str, (mut proving, why): (Proving, String)) -> Option<Verdict> {
        let slot = Arc::clone(self.slots().get(name)?);
        slot.journal.proves_itself(false);
        let (bad, good) = (proving.new, proving.before?);
        let reads_present = self.takes_back(&slot, &good, &bad);
        let swap = swap_back(&slot, &good, &bad, reads_present, &mut proving.snapshots);
        // The one in service is the last.
        if let Some(live) = self.live.get_mut(name) {
            live.retain(|generation| generation.number != good.number);
            live.push(Arc::clone(&good));
        }
        // The same contents with other settings are in service now: it was not them.
        if bad.hash != good.hash {
            self.condemn(&slot, bad.hash, &why);
        }
        let rollback = Rollback {
            from: bad.number,
            to: good.number,
            hash: bad.hash,
            why,
            at_unix_s: unix_seconds(),
            swap,
        };
        Some(Verdict::RolledBack(slot, rollback))
    }

    /// Puts contents in quarantine, and says so where the newest library's fate is told.
    fn condemn(&self, slot: &PluginSlot, hash: ContentHash, why: &str) {
        self.pipeline
            .quarantine
            .add(hash, &Quarantined::now(&slot.name, "panics", why));
        let refusal = Refusal::new("probation", "panics", format!("rolled back after {why}"));
        slot.journal.refused(refusal, &Trail::default());
    }

    /// The consequence of repeated panics, where they are too many.
    fn after_panics(&mut self, name: &str) -> Option<Verdict> {
        let slot = Arc::clone(self.slots().get(name)?);
        let (config, current) = (slot.config(), slot.current()?);
        let panics = self.panics.entry((name.to_owned(), current.number)).or_default();
        panics.look(&current.health, MAX_REMEMBERED);
        let count = panics.within(config.panics_window);
        if config.on_panics == OnPanics::GoOn || count < config.max_panics {
            return None;
        }
        panics.times.clear();
        let why = format!("{count} panics in {} ms", config.panics_window.as_millis());
        tracing::error!(plugin = name, generation = current.number, "too many panics: {why}");
        let done = match config.on_panics {
            OnPanics::GoOn => return None,
            OnPanics::Restart => self.restart(&slot, &current, &config),
            OnPanics::RollBack => self.load_earlier(&slot, &current, &config, &why),
            OnPanics::OutOfService => {
                self.take_out_of_service(&slot);
                let refusal = Refusal::new("service", "panics", format!("out of service after {why}"));
                slot.journal.refused(refusal, &Trail::default());
                return Some(Verdict::OutOfService(slot, why));
            }
        };
        Some(match done {
            Ok(loaded) => Verdict::Loaded(loaded),
            Err(what) => Verdict::Failed(slot, what),
        })
    }

    /// The same contents once more, without any state.
    fn restart(
        &mut self,
        slot: &Arc<PluginSlot>,
        current: &Generation,
        config: &config::Plugin,
    ) -> Result<Loaded, String> {
        let bytes = File::open(current.library())
            .and_then(|file| Image::read(&file, MAX_LIBRARY_BYTES))
            .map_err(|error| format!("its copy cannot be read: {error}"))?;
        let contents = Contents {
            bytes,
            hash: current.hash,
        };
        self.load_now(slot, &contents, config, Reload::Rejoin)
    }

    /// The last good contents before those in service, which are not loaded again.
    fn load_earlier(
        &mut self,
        slot: &Arc<PluginSlot>,
        current: &Generation,
        config: &config::Plugin,
        why: &str,
    ) -> Result<Loaded, String> {
        let earlier = self.last_good(slot, config, Some(current.hash));
        let contents = earlier.ok_or("no earlier good library is kept")?;
        // Its topics go over with their state where that is read, and without it otherwise.
        let loaded = self
            .load_now(slot, &contents, config, Reload::Migrate)
            .or_else(|_| self.load_now(slot, &contents, config, Reload::Rejoin))?;
        self.condemn(slot, current.hash, why);
        Ok(loaded)
    }

    fn load_now(
        &mut self,
        slot: &Arc<PluginSlot>,
        contents: &Contents,
        config: &config::Plugin,
        reload: Reload,
    ) -> Result<Loaded, String> {
        let config = config::Plugin {
            reload,
            ..config.clone()
        };
        let mut trail = Trail::default();
        let generation = self
            .start(slot, contents, &config, &mut trail)
            .map_err(|refusal| refusal.message)?;
        Ok(self.serve(slot, Arc::new(generation), trail, reload))
    }
}

/// All that is known of generations on probation and of panics.
pub(super) type AllProving = BTreeMap<String, Proving>;
/// By plugin and generation.
pub(super) type AllPanics = BTreeMap<(String, u64), Panics>;

/// One line about what became of a plugin.
pub(crate) fn announce_rollback(slot: &PluginSlot, rollback: &Rollback) {
    let SwapReport {
        moved,
        restored,
        rejoined,
        lost_events,
        took,
        ..
    } = rollback.swap;
    tracing::error!(
        plugin = slot.name,
        from = rollback.from,
        generation = rollback.to,
        topics = moved,
        restored,
        rejoined,
        lost_events,
        swap_ms = milliseconds(took),
        "rolled back after {}: generation {} serves again, {}",
        rollback.why,
        rollback.to,
        match (restored + rejoined, lost_events) {
            (0, _) => "nothing is lost".to_owned(),
            (_, lost) => format!("{lost} events are lost"),
        }
    );
}
