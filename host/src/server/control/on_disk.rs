//! The files on disk decide: no library is judged by settings that are no longer in the configuration's file.
//!
//! A library and its settings often change together, in either order, and each may be rejected without the other. So before
//! a library is looked at, the configuration is read anew if its file has changed, or if this plugin was why it was rejected.

use std::fs;

use super::OF_REJECTED;
use super::keeper::Keeper;
use crate::config::{Config, ContentHash, Mode};
use crate::runtime::plugin::step::Rejection;

/// Changes what is logged to this `[log] level`.
pub(crate) type SetLogLevel = Box<dyn Fn(&str) + Send>;

/// Why the configuration on disk is not in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    /// What the file held.
    contents: Option<ContentHash>,
    /// The plugins that rejected it. Empty: the file itself has mistakes.
    plugins: Vec<String>,
    /// As people read it.
    reason: String,
}

impl Keeper {
    /// Takes up the configuration on disk before a library of `plugin` is looked at, if that may change anything. Returns
    /// whether this has put new code of the plugin in service: the library as it is now.
    pub(super) fn config_on_disk_first(&mut self, plugin: &str) -> bool {
        let in_force = self.endpoint.state.routing();
        // A file that is gone or empty changes nothing: somebody may be replacing it.
        let Some(on_disk) = contents_of(&in_force.config) else {
            return false;
        };
        let is_tried = self.rejected.as_ref().is_some_and(|rejected| {
            rejected.contents == Some(on_disk) && !rejected.plugins.iter().any(|name| name == plugin)
        });
        if on_disk == in_force.config.contents() || is_tried {
            return false;
        }
        let generation = |keeper: &Self| {
            let slot = keeper.plugins.slot(plugin);
            slot.and_then(|slot| slot.current()).map(|current| current.number)
        };
        let before = generation(self);
        self.config();
        generation(self) != before
    }

    /// The configuration's file has changed. It may have been taken up by now.
    pub(super) fn config_changed(&mut self) {
        let in_force = self.endpoint.state.routing();
        let is_in_force = contents_of(&in_force.config) == Some(in_force.config.contents());
        if !is_in_force || self.rejected.is_some() {
            self.config();
        }
    }

    /// A library has changed that only the rejected configuration names.
    pub(super) fn library_of_rejected(&mut self) {
        if self.rejected.is_some() {
            self.config();
        }
    }

    /// Watches the libraries that only this configuration names, until it is in force: it may be rejected because they are not
    /// there.
    pub(super) fn watch_rejected(&mut self, config: &Config) {
        self.unwatch_rejected();
        if self.mode == Mode::Dev {
            return;
        }
        let in_force = self.endpoint.state.routing();
        for (name, plugin) in &config.plugins {
            let known = in_force
                .config
                .plugins
                .get(name)
                .and_then(|known| known.library.as_ref());
            if let Some(library) = plugin.library.as_ref().filter(|library| Some(*library) != known) {
                let watched = format!("{OF_REJECTED}{name}");
                self.watcher.file(&watched, library);
                self.of_rejected.push(watched);
            }
        }
    }

    /// This configuration, which is the one on disk, is about to be in force.
    pub(super) fn config_in_force(&mut self, config: &Config) {
        self.rejected = None;
        self.unwatch_rejected();
        if config.log.level != self.endpoint.state.routing().config.log.level
            && let Some(set) = &self.set_log_level
        {
            set(&config.log.level);
        }
    }

    fn unwatch_rejected(&mut self) {
        for watched in self.of_rejected.drain(..) {
            self.watcher.forget(&watched);
        }
    }

    /// Notes why the configuration on disk was rejected. False: for the same reason as before, which was said then.
    pub(super) fn rejects_config(&mut self, plugins: Vec<String>, reason: &str) -> bool {
        let rejected = Rejected {
            contents: contents_of(&self.endpoint.state.routing().config),
            plugins,
            reason: reason.to_owned(),
        };
        let is_news = { self.rejected.as_ref() }.is_none_or(|before| before.reason != rejected.reason);
        self.rejected = Some(rejected);
        is_news
    }

    /// A rejection as people read it. Quotes settings only if they are the ones in the file.
    pub(super) fn shown(&self, rejection: &Rejection, plugin: &str) -> String {
        let routing = self.endpoint.state.routing();
        let in_force = &routing.config;
        if rejection.settings.is_none() || self.rejected.is_none() {
            return rejection.shown(in_force, plugin);
        }
        let settings = |config: &Config| config.plugins.get(plugin).map(|plugin| plugin.settings.clone());
        match in_force.examine_again(self.mode) {
            Ok((on_disk, _)) if settings(&on_disk) == settings(in_force) => rejection.shown(&on_disk, plugin),
            _ => format!(
                "{} (with the settings in force, as the ones in {} were rejected)",
                rejection.message,
                in_force.file.display()
            ),
        }
    }
}

/// What the file of a configuration holds now. `None`: it is gone or empty, or the configuration did not come from it.
fn contents_of(config: &Config) -> Option<ContentHash> {
    let bytes = fs::read(config.path.as_deref()?).ok()?;
    (!bytes.is_empty()).then(|| ContentHash::of(&bytes))
}
