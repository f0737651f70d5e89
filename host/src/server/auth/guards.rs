//! The guards of all mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Guard, KeysError};
use crate::config::{Config, ContentHash};

/// The guards of a configuration, by the path of their mount.
#[derive(Debug, Default)]
pub(crate) struct Guards(BTreeMap<String, Arc<Guard>>);

/// A mount whose keys cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the mount `{mount}` cannot check tokens: {why}")]
pub struct BadKeys {
    /// Its path.
    pub mount: String,
    /// Why.
    pub why: KeysError,
}

impl Guards {
    /// The guards of a configuration. Where a mount takes the same tokens as `before`, its guard stays, with its keys.
    ///
    /// # Errors
    ///
    /// For each mount whose keys cannot be read.
    pub(crate) fn new(config: &Config, before: &Self) -> Result<Self, Vec<BadKeys>> {
        let (mut guards, mut bad) = (BTreeMap::new(), Vec::new());
        for mount in &config.mounts {
            let Some(auth) = &mount.auth else { continue };
            let same = before.0.get(&mount.path).filter(|guard| guard.auth == *auth);
            match same.map_or_else(|| Guard::new(auth), |guard| Ok(Arc::clone(guard))) {
                Ok(guard) => drop(guards.insert(mount.path.clone(), guard)),
                Err(why) => bad.push(BadKeys {
                    mount: mount.path.clone(),
                    why,
                }),
            }
        }
        if bad.is_empty() { Ok(Self(guards)) } else { Err(bad) }
    }

    /// Starts to fetch the keys that come from addresses, unless that goes on already.
    pub(crate) fn start(&self) {
        #[cfg(feature = "jwks")]
        self.0.values().for_each(super::jwks::start);
    }

    /// The guard of a mount, if it checks tokens.
    #[must_use]
    pub(crate) fn of(&self, mount: &str) -> Option<&Arc<Guard>> {
        self.0.get(mount)
    }

    /// The files that keys come from, and what they held when they were read.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, ContentHash> {
        self.0.values().flat_map(|guard| guard.files()).collect()
    }

    /// Reads a file of keys again. The log says how it went; if it cannot be read, the keys in force stay.
    pub(crate) fn reload(&self, file: &Path) {
        for (mount, guard) in &self.0 {
            for loaded in guard.load(Some(file)) {
                let file = file.display();
                match loaded {
                    Ok(keys) => tracing::info!(mount, %file, keys, "keys replaced"),
                    Err(error) => tracing::error!(mount, %file, %error, "keys refused, those in force stay"),
                }
            }
        }
    }
}
