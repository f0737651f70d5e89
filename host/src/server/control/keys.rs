//! Watches the files of keys for tokens, and has them read again.

use std::path::Path;

use super::KEYS;
use super::keeper::Keeper;
use crate::server::auth::Guards;

impl Keeper {
    /// Watches the files that these guards read, and no others.
    pub(super) fn watch_keys(&mut self, guards: &Guards) {
        let files = guards.files();
        let name = |file: &Path| format!("{KEYS}{}", file.display());
        for (file, contents) in &files {
            self.watcher.file(&name(file), file);
            // The file may have changed since it was read.
            self.watcher.took(&name(file), *contents);
        }
        let names = files.keys().map(|file| name(file)).collect();
        for gone in std::mem::replace(&mut self.keys, names).difference(&self.keys) {
            self.watcher.forget(gone);
        }
    }

    /// A file of keys was saved.
    pub(super) fn keys(&self, file: &Path) {
        self.endpoint.state.routing().guards.reload(file);
    }
}
