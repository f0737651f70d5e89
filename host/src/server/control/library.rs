//! What to do about a library: it was saved or built, an operator asks for it, or its file is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::keeper::Keeper;
use super::{CONFIG, KEYS};
use crate::config::ContentHash;
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::manager::{Loaded, Occasion};
use crate::runtime::plugin::step::{Rejection, Step};
use crate::server::changes::ChangeKind;

impl Keeper {
    /// These contents are no longer in quarantine. Tries them again if they are still in place.
    pub(super) fn lifted(&mut self, name: &str, hash: ContentHash) {
        if self.plugins.taken(name) == Some(hash) && !self.plugins.is_in_service(name) {
            self.again(name);
        }
    }

    /// Tries the library once more, as it is now.
    pub(super) fn again(&mut self, name: &str) {
        if self.config_on_disk_first(name) {
            return self.retries.forget(name);
        }
        let slot = self.plugins.slot(name).cloned();
        let Some((slot, path)) =
            slot.and_then(|slot| Some((Arc::clone(&slot), self.plugins.library(name, &slot.config())?)))
        else {
            return;
        };
        self.take_up(&slot, &path, Occasion::Asked);
    }

    /// The file was saved or built, with other contents or with the same.
    pub(super) fn library(&mut self, name: &str, path: PathBuf, built: bool) {
        if built {
            self.plugins.set_built(name, path.clone());
        }
        if self.config_on_disk_first(name) {
            return self.retries.forget(name);
        }
        let Some(slot) = self.plugins.slot(name).cloned() else {
            return;
        };
        // A file that is gone changes nothing: it may be about to come back.
        if !path.exists() {
            return;
        }
        self.retries.forget(name);
        self.take_up(&slot, &path, Occasion::Changed);
    }

    pub(super) fn not_built(&mut self, name: &str, rejection: Rejection) {
        let event = json!({ "plugin": name, "code": rejection.code, "reason": rejection.message });
        self.plugins.not_built(name, rejection);
        self.news(("build_failed", event.to_string()));
    }

    fn take_up(&mut self, slot: &Arc<PluginSlot>, path: &Path, occasion: Occasion) {
        slot.journal.passed(&slot.name, Step::Notice);
        let prepared = self.plugins.prepare(slot, path, &slot.config(), occasion);
        self.took(&slot.name);
        if !matches!(&prepared, Err(rejection) if rejection.may_pass) {
            self.retries.forget(&slot.name);
        }
        match prepared {
            Ok(Some(prepared)) => {
                if let Some(loaded) = self.plugins.put_in_service(prepared) {
                    self.loaded(&loaded);
                }
            }
            Ok(None) => self.unchanged(slot),
            Err(rejection) => self.library_rejected(slot, &rejection),
        }
    }

    /// What was saved or built is in service already, or was rejected before for a reason that lasts.
    fn unchanged(&self, slot: &PluginSlot) {
        let (plugin, in_service) = (&slot.name, self.plugins.is_in_service(&slot.name));
        match slot.journal.read().rejection.filter(|_| !in_service) {
            None => tracing::info!(plugin, in_service, "library unchanged"),
            Some(rejection) => tracing::warn!(
                plugin,
                in_service,
                step = rejection.step.name(),
                code = rejection.code,
                rejected_before = rejection.message,
                help = format!("`bennu plugins --reload {plugin}` tries it once more"),
                "library not loaded: it has not changed since it was rejected; {}",
                holds(slot)
            ),
        }
        let event = json!({ "plugin": slot.name, "in_service": in_service });
        self.news(("unchanged", event.to_string()));
    }

    pub(super) fn loaded(&self, loaded: &Loaded) {
        loaded.announce();
        let Loaded {
            plugin,
            version,
            generation,
            trail,
            swap,
        } = loaded;
        let text = format!(
            "generation {generation} (version {version}) in service, {} topics moved in {:.0} ms",
            swap.moved,
            milliseconds(swap.took)
        );
        self.changed(ChangeKind::Reload, plugin, &text);
        let event = json!({
            "plugin": plugin, "version": version, "generation": generation, "topics": swap.moved,
            "failed": swap.failures.topics(), "reason": swap.failures.shown(), "rejoined": swap.rejoined,
            "probed_ms": milliseconds(trail.took(Step::Probe)), "swap_ms": milliseconds(swap.took),
        });
        self.news(("reload", event.to_string()));
    }

    fn library_rejected(&mut self, slot: &PluginSlot, rejection: &Rejection) {
        let shown = self.shown(rejection, &slot.name);
        let holds = holds(slot);
        if rejection.over_state {
            self.over_state.insert(slot.name.clone());
        }
        let again = self.retries.later(&slot.name, rejection.retries(&slot.config()));
        let ends = match again {
            None if rejection.may_pass => format!(
                ". Save it again to have Bennu try it again, or run `bennu plugins --reload {}`",
                slot.name
            ),
            _ => String::new(),
        };
        tracing::error!(
            plugin = slot.name,
            step = rejection.step.name(),
            code = rejection.code,
            again_in_s = again.map(|again| again.as_secs()),
            "library rejected; {holds}: {shown}{ends}"
        );
        let text = format!("library rejected ({}): {}", rejection.step.name(), rejection.message);
        self.changed(ChangeKind::Rejection, &slot.name, &text);
        let event = json!({ "plugin": slot.name, "step": rejection.step, "reason": rejection.message });
        self.news(("refused", event.to_string()));
    }

    /// Logs that a file is gone or back, and what serves meanwhile.
    pub(super) fn away(&self, name: &str, path: &Path, why: Option<&str>) {
        let file = path.display();
        if name == CONFIG {
            match why {
                Some(why) => {
                    tracing::warn!(%file, "the configuration cannot be read: {why}; the previous one stays in force")
                }
                None => tracing::info!(%file, "the configuration file exists again"),
            }
            return;
        }
        if name.starts_with(KEYS) {
            match why {
                Some(why) => tracing::error!(%file, "the keys are gone: {why}; those in force stay"),
                None => tracing::info!(%file, "the keys are back"),
            }
            return;
        }
        let Some(why) = why else {
            tracing::info!(plugin = name, %file, "the library file exists again");
            return;
        };
        let current = self.plugins.slot(name).and_then(|slot| slot.current());
        let goes_on = current.map_or_else(
            || "no code of this plugin is in service".to_owned(),
            |current| format!("generation {} stays in service", current.number),
        );
        tracing::warn!(plugin = name, %file, "the library cannot be read: {why}; {goes_on}");
    }
}

/// What goes on although a library was rejected.
fn holds(slot: &PluginSlot) -> &'static str {
    match slot.current() {
        Some(_) => "the previous code stays in service",
        None => "no code of this plugin is in service",
    }
}
