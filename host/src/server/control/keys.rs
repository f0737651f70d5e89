//! Watches the files of keys for tokens and of certificates, and has them read again.

use std::path::Path;

use super::keeper::Keeper;
use super::{KEYS, TLS};
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

    /// Watches the files of the certificates, which are the same as long as the server runs.
    pub(super) fn watch_certificates(&self) {
        for (file, contents) in { self.endpoint.certificates.iter() }.flat_map(|certificates| certificates.files()) {
            let name = format!("{TLS}{}", file.display());
            self.watcher.file(&name, &file);
            self.watcher.took(&name, contents);
        }
    }

    /// A file of a certificate was saved.
    pub(super) fn certificate(&self, file: &Path) {
        if let Some(certificates) = &self.endpoint.certificates {
            certificates.reload(file);
        }
    }

    /// A file of keys was saved.
    pub(super) fn keys(&self, file: &Path) {
        self.endpoint.state.routing().guards.reload(file);
    }
}
