//! What cargo has said of the workspace, for all who ask.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::sources::Change;
use crate::cargo::Workspace;
use crate::config::Config;
use crate::server::control::Follower;

/// The workspace as cargo described it last. The thread that builds replaces it, others only read it.
#[derive(Clone)]
pub(super) struct Known(Arc<Mutex<Arc<Workspace>>>);

impl Known {
    pub(super) fn new(workspace: Workspace) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(workspace))))
    }

    pub(super) fn now(&self) -> Arc<Workspace> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, workspace: Workspace) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(workspace);
    }
}

/// Passes configurations that the server reads on to the thread that builds.
pub(super) struct Builder {
    pub(super) known: Known,
    pub(super) changed: mpsc::Sender<Change>,
}

impl Follower for Builder {
    fn adapt(&self, config: &mut Config) {
        take_over(config, &self.known.now());
    }

    fn configured(&self, config: &Config) {
        // The thread that builds ends with the process.
        let _ = self.changed.send(Change::Configuration(Box::new(config.clone())));
    }
}

/// Removes the libraries that the configuration names for plugins of the workspace, because `dev` serves its own builds only, and
/// those that do not exist: only `serve` rejects a configuration over a missing file.
pub(super) fn take_over(config: &mut Config, workspace: &Workspace) {
    for (name, plugin) in &mut config.plugins {
        // A plugin that was made since cargo described the workspace has a folder already.
        let is_ours = workspace.has(name) || usual_folder(workspace, name).join("Cargo.toml").exists();
        plugin.library = plugin.library.take().filter(|library| !is_ours && library.exists());
    }
}

/// Where `bennu new` puts a plugin.
pub(super) fn usual_folder(workspace: &Workspace, plugin: &str) -> PathBuf {
    workspace.root().join("plugins").join(plugin)
}
