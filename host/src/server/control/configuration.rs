//! Reads the configuration again when its file changes, and carries it out completely or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::CONFIG;
use super::keeper::Keeper;
use super::restart::needs_restart;
use crate::config::Config;
use crate::runtime::plugin::plan::Plan;
use crate::runtime::plugin::step::Rejection;
use crate::server::auth::{BadKeys, Guards};
use crate::server::changes::ChangeKind;
use crate::server::io::Rerouted;
use crate::server::routing::Routing;

/// How long I/O threads have to take up new routes before the plugins without routes end.
const REROUTE_PATIENCE: Duration = Duration::from_secs(2);

impl Keeper {
    /// The file may have changed. A rejected configuration changes nothing.
    pub(super) fn config(&mut self) {
        let Some(config) = self.read_config() else { return };
        // Before they are read, so that no change is missed.
        self.watch_rejected(&config);
        let guards = match Guards::new(&config, &self.endpoint.state.routing().guards) {
            Ok(guards) => guards,
            Err(bad) => return self.keys_rejected(&config, &bad),
        };
        let mut plan = match Plan::make(&mut self.plugins, &config) {
            Ok(plan) => plan,
            Err(rejected) => return self.libraries_rejected(&config, &rejected),
        };
        self.retries.forget(CONFIG);
        self.config_in_force(&config);
        let loaded = plan.carry_out(&mut self.plugins);
        self.watch(&config);
        self.say_durability(&config);
        self.reroute(config, guards);
        // After the routes: a plugin that ends closes its members, but those whose topics lead elsewhere now have to rejoin.
        for name in &plan.removed {
            self.watcher.forget(name);
            self.plugins.remove(name);
        }
        if let Some(follower) = &self.follower {
            follower.configured(&self.endpoint.state.routing().config);
        }
        for slot in self.plugins.settle() {
            let event = json!({ "plugin": slot.name, "in_service": true });
            self.news(("unchanged", event.to_string()));
        }
        tracing::info!("configuration replaced");
        let changes = &self.endpoint.state.changes;
        changes.note(ChangeKind::Configuration, None, "another configuration is in force");
        if let Some(board) = &self.endpoint.dev {
            board.configuration_replaced();
        }
        loaded.iter().for_each(|loaded| self.loaded(loaded));
        plan.again.iter().for_each(|name| self.again(name));
    }

    /// Reads everything again, whatever the watcher has noticed.
    pub(super) fn reread(&mut self) {
        tracing::info!("reading the configuration and all libraries again");
        // What was rejected for the same reason is logged again: the operator waits for an answer.
        self.rejected = None;
        self.config();
        for file in { self.endpoint.certificates.iter() }.flat_map(|certificates| certificates.files().into_keys()) {
            self.certificate(&file);
        }
        let slots: Vec<_> = self.plugins.slots().cloned().collect();
        for slot in slots {
            if let Some(library) = self.plugins.library(&slot.name, &slot.config()) {
                self.library(&slot.name, library, false);
            }
        }
    }

    /// The file was saved without a change. If it was rejected, it may be good by now.
    pub(super) fn config_saved(&mut self) {
        // Whoever saves it again wants to hear of it again.
        if self.rejected.take().is_some() {
            self.config();
        } else {
            tracing::info!("configuration unchanged");
        }
    }

    /// Reads the file. `None`: it is rejected, and the log says why.
    fn read_config(&mut self) -> Option<Config> {
        let old = self.endpoint.state.routing();
        let mut config = match old.config.read_again(self.mode) {
            Ok(config) => config,
            Err(errors) => {
                let shown = errors.render(false);
                if self.rejects_config(Vec::new(), &shown) {
                    tracing::error!(
                        "configuration rejected; the previous one stays in force. Correct it and save it again:\n{shown}"
                    );
                    self.configuration_rejected(shown);
                }
                return None;
            }
        };
        // The command line still holds.
        config.listen_instead = old.config.listen_instead;
        if let Some(follower) = &self.follower {
            follower.adapt(&mut config);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for place in needs_restart(&config, &old.config, &self.started) {
            tracing::warn!("{place}: restart the server to apply this change");
        }
        Some(config)
    }

    /// Says which plugins keep the durability that they had when they came: their topics are in memory with it.
    fn say_durability(&self, config: &Config) {
        let before = self.endpoint.state.routing();
        for slot in self.plugins.slots() {
            let wanted = |config: &Config| config.plugins.get(&slot.name).map(|plugin| plugin.durability);
            let (in_force, wanted, before) = (slot.durability(), wanted(config), wanted(&before.config));
            if let Some(wanted) = wanted
                && wanted != in_force
                && before != Some(wanted)
            {
                tracing::warn!(
                    plugin = slot.name,
                    "restart the server to apply `durability = {:?}`: {:?} stays in force",
                    wanted.name(),
                    in_force.name()
                );
            }
        }
    }

    /// Replaces the routes, and waits until all I/O threads have told the members whose topics lead elsewhere now.
    fn reroute(&mut self, config: Config, guards: Guards) {
        guards.start();
        self.watch_keys(&guards);
        self.endpoint.derive_keys(&config);
        let routing = Arc::new(Routing::new(Arc::new(config), guards, self.plugins.slots()));
        self.endpoint.state.set_routing(Arc::clone(&routing));
        let rerouted = self.endpoint.inboxes.set_routing(&routing);
        let deadline = Instant::now() + REROUTE_PATIENCE;
        let mut members = Rerouted::new();
        for _ in 0..self.endpoint.inboxes.count() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(ended) = rerouted.recv_timeout(left) else {
                tracing::warn!(
                    "an I/O thread has not taken over the new routes after {} s",
                    REROUTE_PATIENCE.as_secs()
                );
                break;
            };
            for (plugin, count) in ended {
                *members.entry(plugin).or_default() += count;
            }
        }
        for slot in self.plugins.slots() {
            if let Some(members) = members.get(&slot.index) {
                tracing::warn!(
                    plugin = slot.name,
                    members,
                    "the routes of these members do not lead to this plugin any more: they have left, and the state of a topic \
                     ends with its last member"
                );
            }
        }
    }

    /// Rejects the configuration, because these mounts have no keys.
    fn keys_rejected(&mut self, config: &Config, bad: &[BadKeys]) {
        let shown = bad
            .iter()
            .map(|bad| config.auth_error(&bad.mount, &bad.to_string()).render(false));
        let shown = shown.collect::<Vec<_>>().join("\n\n");
        if self.rejects_config(Vec::new(), &shown) {
            tracing::error!("configuration rejected; the previous one stays in force\n{shown}");
            self.configuration_rejected(shown);
        }
    }

    /// Rejects the configuration, because these libraries were rejected with it.
    fn libraries_rejected(&mut self, config: &Config, rejected: &[(String, Rejection)]) {
        // All of them have to pass, so the one with the fewest retries decides.
        let retries = rejected.iter().map(|(name, rejection)| {
            let plugin = config.plugins.get(name);
            plugin.map_or(0, |plugin| rejection.retries(plugin))
        });
        let again = retries.min().and_then(|most| self.retries.later(CONFIG, most));
        let shown = |(name, rejection): &(String, Rejection)| (name.clone(), rejection.shown(config, name));
        let shown: Vec<_> = rejected.iter().map(shown).collect();
        let all: Vec<_> = shown
            .iter()
            .map(|(name, why)| format!("plugin {name}: {why}"))
            .collect();
        let all = all.join("\n");
        let over_state = rejected.iter().filter(|(_, rejection)| rejection.over_state);
        self.over_state.extend(over_state.map(|(name, _)| name.clone()));
        let is_news = self.rejects_config(rejected.iter().map(|(name, _)| name.clone()).collect(), &all);
        if !is_news && again.is_none() {
            return;
        }
        for (name, why) in &shown {
            tracing::error!(
                plugin = name,
                again_in_s = again.map(|again| again.as_secs()),
                "configuration rejected; the previous one stays in force: {why}"
            );
        }
        self.configuration_rejected(all);
    }

    fn configuration_rejected(&self, reason: String) {
        let text = format!("configuration rejected: {}", reason.trim_start());
        self.endpoint.state.changes.note(ChangeKind::Rejection, None, &text);
        if let Some(board) = &self.endpoint.dev {
            board.configuration_rejected(reason);
        }
    }
}
