//! What follows when code in service panics or fails: a rollback on probation, and later what `on_panics` says.

use std::sync::Arc;

use bennu_wire::message;

use super::Plugins;
use super::load::Loaded;
use crate::config::{self, ContentHash, OnPanics, Reload};
use crate::runtime::channel::Notice;
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::generation::Generation;
use crate::runtime::plugin::journal::Rollback;
use crate::runtime::plugin::late;
use crate::runtime::plugin::probation::Proving;
use crate::runtime::plugin::quarantine::{Quarantined, unix_seconds};
use crate::runtime::plugin::slot::PluginSlot;
use crate::runtime::plugin::stage::Contents;
use crate::runtime::plugin::step::{Rejection, Step, Trail};
use crate::runtime::plugin::swap::{SwapReport, swap_back};

/// Why an operator's roll back happens.
const ASKED: &str = "an operator's request";

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
    /// Looks how all generations fare, and does what has to follow.
    pub(crate) fn look_after(&mut self) -> Vec<Verdict> {
        self.fault_signal.heard();
        let names: Vec<_> = self.plugins.keys().cloned().collect();
        names.iter().filter_map(|name| self.look_after_one(name)).collect()
    }

    fn look_after_one(&mut self, name: &str) -> Option<Verdict> {
        let plugin = self.plugins.get_mut(name)?;
        if let Some((proving, why)) = plugin.failed_probation() {
            return self.roll_back(name, proving, "panics", why);
        }
        if let Some(passed) = plugin.passed_probation() {
            plugin.slot.journal.passed(name, Step::Probation);
            self.pipeline.keep(&plugin.slot, &passed);
        }
        self.after_panics(name)
    }

    /// An operator wants the code before the one in service: the generation before it if that still waits for the end of the
    /// probation, or else the last good library that is stored. The code in service is not loaded again before somebody lifts its
    /// quarantine.
    ///
    /// # Errors
    ///
    /// If there is no such code, or it cannot be loaded. The code in service stays.
    pub(crate) fn roll_back_as_asked(&mut self, name: &str) -> Result<Verdict, String> {
        let plugin = self.plugins.get_mut(name).ok_or("the plugin was removed")?;
        if let Some(proving) = plugin.end_probation() {
            let why = ASKED.to_owned();
            return self
                .roll_back(name, proving, "operator", why)
                .ok_or_else(|| "no code was in service before".to_owned());
        }
        let slot = Arc::clone(&plugin.slot);
        let current = slot.current().ok_or("no code of the plugin is in service")?;
        let loaded = self.load_earlier(&slot, &current, &slot.config(), "operator", ASKED)?;
        let rollback = Rollback {
            from: current.number,
            to: loaded.generation,
            hash: current.hash,
            why: ASKED.to_owned(),
            at_unix_s: unix_seconds(),
            swap: loaded.swap,
            is_checked: false,
        };
        Ok(Verdict::RolledBack(slot, rollback))
    }

    /// The previous code takes its topics back.
    fn roll_back(&mut self, name: &str, proving: Proving, code: &str, why: String) -> Option<Verdict> {
        let plugin = self.plugins.get_mut(name)?;
        let slot = Arc::clone(&plugin.slot);
        let Proving {
            new: bad,
            before,
            mut snapshots,
            ..
        } = proving;
        let good = before?;
        let readable = late::takes_back(&self.pipeline, &slot, &good, &bad);
        let swap = swap_back(&slot, &good, &bad, readable, &mut snapshots);
        plugin.back_to(&good);
        // The same contents with other settings are in service now: it was not them.
        if bad.hash != good.hash {
            self.condemn(&slot, bad.hash, code, &why);
        }
        let rollback = Rollback {
            from: bad.number,
            to: good.number,
            hash: bad.hash,
            why,
            at_unix_s: unix_seconds(),
            swap,
            is_checked: good.manifest.checks_state() && good.manifest.state_version == bad.manifest.state_version,
        };
        Some(Verdict::RolledBack(slot, rollback))
    }

    /// Puts contents in quarantine, and says so where the newest library's fate is told.
    fn condemn(&self, slot: &PluginSlot, hash: ContentHash, code: &str, why: &str) {
        let quarantined = Quarantined::now(&slot.name, code, why);
        self.pipeline.quarantine.add(hash, &quarantined);
        let rejection = Rejection::new(Step::Probation, code, format!("rolled back after {why}"));
        slot.journal.rejected(rejection);
    }

    /// The consequence of repeated panics, where they are too many.
    fn after_panics(&mut self, name: &str) -> Option<Verdict> {
        let plugin = self.plugins.get_mut(name)?;
        let slot = Arc::clone(&plugin.slot);
        let (config, current) = (slot.config(), slot.current()?);
        let panics = plugin.panics_of(&current);
        let count = panics.within(config.panics_window);
        if config.on_panics == OnPanics::GoOn || count < config.max_panics {
            return None;
        }
        panics.forget();
        let why = format!("{count} panics in {} ms", config.panics_window.as_millis());
        tracing::error!(plugin = name, generation = current.number, "too many panics: {why}");
        let done = match config.on_panics {
            OnPanics::GoOn => return None,
            OnPanics::Restart => self.restart(&slot, &current, &config),
            OnPanics::RollBack => self.load_earlier(&slot, &current, &config, "panics", &why),
            OnPanics::OutOfService => return Some(self.take_out_of_service(slot, why)),
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
        let contents = Contents::read_from(current.library(), |_, _| Ok(()))
            .map_err(|error| format!("cannot read its copy: {error}"))?;
        self.replace_by(slot, &contents, config, Reload::Rejoin)
    }

    /// The last good contents before those in service, which are not loaded again.
    fn load_earlier(
        &mut self,
        slot: &Arc<PluginSlot>,
        current: &Generation,
        config: &config::Plugin,
        code: &str,
        why: &str,
    ) -> Result<Loaded, String> {
        let earlier = self.pipeline.last_good(slot, config, Some(current.hash));
        let contents = earlier.ok_or("no earlier good library is stored")?;
        // Its topics go over with their state where that is read, and without it otherwise.
        let loaded = self
            .replace_by(slot, &contents, config, Reload::Migrate)
            .or_else(|_| self.replace_by(slot, &contents, config, Reload::Rejoin))?;
        self.condemn(slot, current.hash, code, why);
        Ok(loaded)
    }

    /// Puts other contents in service than those in the library's place.
    fn replace_by(
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
        let prepared = self
            .load(slot, contents, &config, &mut Trail::of(&slot.name))
            .map_err(|rejection| rejection.message)?;
        self.put_in_service(prepared)
            .ok_or_else(|| "the plugin was removed".to_owned())
    }

    /// Ends all topics of a plugin and refuses joins.
    fn take_out_of_service(&mut self, slot: Arc<PluginSlot>, why: String) -> Verdict {
        self.end(&slot.name, Notice::Error(message::reason::UNAVAILABLE));
        let rejection = Rejection::new(Step::Service, "panics", format!("out of service after {why}"));
        slot.journal.rejected(rejection);
        Verdict::OutOfService(slot, why)
    }
}

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
    let what = "topics could not keep their current state";
    rollback.swap.failures.announce(&slot.name, what);
    tracing::error!(
        plugin = slot.name,
        from = rollback.from,
        generation = rollback.to,
        topics = moved,
        restored,
        rejoined,
        lost_events,
        swap_ms = milliseconds(took),
        "rolled back to generation {} after {}: {}",
        rollback.to,
        rollback.why,
        match rollback.swap.unread.shown() {
            _ if restored + rejoined == 0 && rollback.is_checked => "no state is lost".to_owned(),
            _ if restored + rejoined == 0 => "its topics keep the state that it can read".to_owned(),
            None => format!("the state changes of {lost_events} events are lost"),
            Some(why) => format!(
                "the state changes of {lost_events} events are lost, because it cannot read the current state: {why}"
            ),
        }
    );
}
