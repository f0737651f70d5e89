//! What a changed configuration means for the plugins: found out whole before anything is changed.

use std::sync::Arc;

use super::manager::{Loaded, Occasion, Plugins, Prepared};
use super::slot::PluginSlot;
use super::step::Rejection;
use crate::config::{self, Config};

/// What a configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    prepared: Vec<Prepared>,
    configured: Vec<(Arc<PluginSlot>, config::Plugin)>,
    /// Plugins whose library was rejected, and may be taken with what else has changed: a longer `allow`, for example.
    pub(crate) again: Vec<String>,
    /// Plugins that the configuration no longer names: to be [removed](Plugins::remove) once nothing leads to them.
    pub(crate) removed: Vec<String>,
}

impl Plan {
    /// Finds out what a changed configuration means for the plugins, and starts every library that it would load.
    ///
    /// # Errors
    ///
    /// With each plugin whose library is rejected, and why; nothing has changed then.
    pub(crate) fn make(plugins: &mut Plugins, config: &Config) -> Result<Self, Vec<(String, Rejection)>> {
        let (mut plan, mut added, mut rejected) = (Self::default(), Vec::new(), Vec::new());
        let taken = plugins.all_taken();
        for (name, wanted) in &config.plugins {
            if plugins.slot(name).is_none() {
                added.push(name);
            }
            if let Err(rejection) = plan.add(plugins, name, wanted) {
                rejected.push((name.clone(), rejection));
            }
        }
        if !rejected.is_empty() {
            added.into_iter().for_each(|name| plugins.remove(name));
            plugins.set_all_taken(&taken);
            return Err(rejected);
        }
        let names = plugins.slots().map(|slot| &slot.name);
        plan.removed = names
            .filter(|name| !config.plugins.contains_key(*name))
            .cloned()
            .collect();
        Ok(plan)
    }

    /// Adds what the configuration says of one plugin.
    fn add(&mut self, plugins: &mut Plugins, name: &str, wanted: &config::Plugin) -> Result<(), Rejection> {
        let known = plugins.slot(name).map(|slot| slot.config());
        // Where `dev` has built one, it makes no difference what library the configuration names.
        let library = plugins.library(name, wanted);
        let load = known.is_none_or(|known| {
            let is_other = plugins.library(name, &known) != library;
            known.settings != wanted.settings || known.shards != wanted.shards || is_other
        });
        let slot = plugins.add(name, wanted);
        if let Some(library) = library.filter(|_| load) {
            let prepared = plugins.prepare(&slot, &library, wanted, Occasion::Needed)?;
            self.prepared.extend(prepared);
        } else if slot.journal.read().rejection.is_some() && *slot.config() != *wanted {
            self.again.push(name.to_owned());
        }
        self.configured.push((slot, wanted.clone()));
        Ok(())
    }

    /// Carries it out, but for removals.
    pub(crate) fn carry_out(&mut self, plugins: &mut Plugins) -> Vec<Loaded> {
        for (slot, config) in self.configured.drain(..) {
            slot.configure(config);
        }
        let prepared = self.prepared.drain(..);
        prepared
            .filter_map(|prepared| plugins.put_in_service(prepared))
            .collect()
    }
}
