//! What a changed configuration means for the plugins: found out whole before anything is changed.

use std::sync::Arc;

use super::manager::{Loaded, Occasion, Plugins, Prepared};
use super::pipeline::Refusal;
use super::slot::PluginSlot;
use crate::config::{self, Config};

/// What a configuration changes, found out before anything is changed.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    prepared: Vec<Prepared>,
    configured: Vec<(Arc<PluginSlot>, config::Plugin)>,
    /// Plugins that the configuration no longer names: to be [removed](Plugins::remove) once nothing leads to them.
    pub(crate) removed: Vec<String>,
}

impl Plugins {
    /// Finds out what a changed configuration means for the plugins, and starts every library that it would load.
    ///
    /// # Errors
    ///
    /// With the plugin and the reason, if one of them is refused; nothing has changed then.
    pub(crate) fn plan(&mut self, config: &Config) -> Result<Plan, (String, Refusal)> {
        let mut plan = Plan::default();
        let mut added = Vec::new();
        for (name, wanted) in &config.plugins {
            let known = self.slots().get(name).map(|slot| slot.config());
            // Where `dev` has built one, it makes no difference what library the configuration names.
            let library = self.library(name, wanted);
            let load = known.as_ref().is_none_or(|known| {
                let is_other = self.library(name, known) != library;
                known.settings != wanted.settings || known.shards != wanted.shards || is_other
            });
            if known.is_none() {
                added.push(name.clone());
            }
            let slot = self.add(name, wanted);
            if load && let Some(library) = library {
                match self.prepare(&slot, &library, wanted, Occasion::Needed) {
                    Ok(prepared) => plan.prepared.extend(prepared),
                    Err(refusal) => {
                        self.forget(&added);
                        return Err((name.clone(), refusal));
                    }
                }
            }
            plan.configured.push((slot, wanted.clone()));
        }
        let unnamed = self.slots().keys().filter(|name| !config.plugins.contains_key(*name));
        plan.removed = unnamed.cloned().collect();
        Ok(plan)
    }

    /// Carries out a plan, but for removals.
    pub(crate) fn carry_out(&mut self, plan: &mut Plan) -> Vec<Loaded> {
        for (slot, config) in plan.configured.drain(..) {
            slot.configure(config);
        }
        plan.prepared
            .drain(..)
            .filter_map(|prepared| self.put_in_service(prepared))
            .collect()
    }
}
