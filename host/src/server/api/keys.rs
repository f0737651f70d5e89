//! The keys of the API, and their secrets as they are on disk now.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bennu_wire::pattern::TopicPattern;

use crate::config::api_secret::{ApiSecrets, digest};
use crate::config::{self, ApiKey, Scope};

/// A file that changed so lately may change again without another time of change.
const SETTLES: Duration = Duration::from_secs(2);

/// All keys.
#[derive(Debug)]
pub(super) struct Keys {
    made_up: Option<Known>,
    configured: Mutex<Configured>,
}

#[derive(Debug, Default)]
struct Configured {
    /// The keys of the configuration that `known` was made from.
    from: Option<Arc<[Arc<ApiKey>]>>,
    known: Vec<Known>,
}

/// A key and its secrets.
#[derive(Debug)]
struct Known {
    key: Arc<ApiKey>,
    /// Its file when that was read. `None`: read it again.
    stamp: Option<Stamp>,
    /// None while the file cannot be used.
    secrets: ApiSecrets,
    /// The log has said that the secret cannot be used, with these words.
    complaint: Option<String>,
    /// A key before has one of the secrets, too: what a request may do would depend on their order.
    is_shared: bool,
}

/// Tells versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Keys {
    /// No key but this one, which may do everything.
    pub(super) fn new(made_up: Option<&str>) -> Self {
        let known = |secret: &str| Known {
            key: Arc::new(ApiKey {
                name: "dev".to_owned(),
                secret_file: None,
                allow: Scope::ALL.into(),
                topics: TopicPattern::parse("*").into_iter().collect(),
            }),
            stamp: None,
            secrets: ApiSecrets::of(secret).unwrap_or_default(),
            complaint: None,
            is_shared: false,
        };
        Self {
            made_up: made_up.map(known),
            configured: Mutex::default(),
        }
    }

    /// Takes up the keys of the configuration, and the secrets of files that have changed. A key whose secret cannot be used now is
    /// nobody's: whoever removes the file has taken the key away.
    pub(super) fn refresh(&self, config: &config::Api) {
        let mut configured = self.configured();
        let is_same = |from: &Arc<[Arc<ApiKey>]>| Arc::ptr_eq(from, &config.keys);
        if !configured.from.as_ref().is_some_and(is_same) {
            let mut before = std::mem::take(&mut configured.known);
            let known = |key: &Arc<ApiKey>| {
                let complaint = { before.iter_mut() }
                    .find(|known| known.key.name == key.name)
                    .and_then(|known| known.complaint.take());
                let mut known = Known {
                    key: Arc::clone(key),
                    stamp: None,
                    secrets: ApiSecrets::default(),
                    complaint,
                    is_shared: false,
                };
                known.read();
                known
            };
            configured.known = config.keys.iter().map(known).collect();
            configured.from = Some(Arc::clone(&config.keys));
            configured.find_shared();
            return;
        }
        for known in &mut configured.known {
            if known.key.secret_file.is_some() && (known.stamp.is_none() || known.stamp != known.stamp_now()) {
                known.read();
            }
        }
        configured.find_shared();
    }

    /// The key that has this secret. Compares with all of them, whichever it is.
    pub(super) fn find(&self, secret: &str) -> Option<Arc<ApiKey>> {
        let given = digest(secret);
        let configured = self.configured();
        let all = self.made_up.iter().chain(&configured.known);
        all.fold(None, |found, known| {
            let is_it = known.secrets.holds(&given) && !known.is_shared;
            found.or_else(|| is_it.then(|| Arc::clone(&known.key)))
        })
    }

    fn configured(&self) -> MutexGuard<'_, Configured> {
        self.configured.lock().expect("no holder of the keys panics")
    }
}

impl Configured {
    /// Refuses keys that have a secret of a key before. Says so once.
    fn find_shared(&mut self) {
        for at in 1..self.known.len() {
            let (before, rest) = self.known.split_at_mut(at);
            let known = &mut rest[0];
            let other = before.iter().find(|other| other.secrets.shares(&known.secrets));
            if let Some(other) = other
                && !known.is_shared
            {
                let (key, other) = (&*known.key.name, &*other.key.name);
                tracing::error!(key, other, "API key refused: the other key has the same secret");
            }
            known.is_shared = other.is_some();
        }
    }
}

impl Known {
    /// Reads the secret anew. Says once why that cannot be.
    fn read(&mut self) {
        self.stamp = self.stamp_now();
        let key = &*self.key.name;
        match ApiSecrets::obtain(&self.key) {
            Ok(secrets) => {
                let is_new = self.secrets != ApiSecrets::default() && self.secrets != secrets;
                if is_new || self.complaint.take().is_some() {
                    tracing::info!(key, "API key read");
                }
                self.secrets = secrets;
            }
            // Somebody may be writing the file: what it held before counts until it rests.
            Err(_) if self.changes_now() => {}
            // The file is not to blame.
            Err(error) if error.may_pass() => self.stamp = None,
            Err(error) => {
                self.secrets = ApiSecrets::default();
                let complaint = format!("{:#}", anyhow::Error::new(error));
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        key,
                        error = complaint,
                        "API key refused: nobody can use it until its secret is mended"
                    );
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    /// The file as it is. `None` if it is gone, or changed just now.
    fn stamp_now(&self) -> Option<Stamp> {
        self.file_now()
            .and_then(|(meta, rests)| rests.then(|| Stamp::of(&meta)))
    }

    /// Whether the file is there, and changed just now.
    fn changes_now(&self) -> bool {
        self.file_now().is_some_and(|(_, rests)| !rests)
    }

    /// The file, and whether it has not changed just now. `None` if it is gone.
    fn file_now(&self) -> Option<(Metadata, bool)> {
        let meta = std::fs::metadata(self.key.secret_file.as_ref()?).ok()?;
        let age = { meta.modified().ok() }.and_then(|at| SystemTime::now().duration_since(at).ok());
        Some((meta, age.is_some_and(|age| age > SETTLES)))
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Config, Mode};

    const ONE: &str = "one-0123456789-0123456789-0123456789";
    const TWO: &str = "two-0123456789-0123456789-0123456789";

    fn api(file: &Path) -> config::Api {
        let text = format!(
            "[[api.keys]]\nname = \"web\"\nsecret_file = {file:?}\nallow = [\"read\"]\ntopics = [\"room:*\"]\n"
        );
        Config::parse(&PathBuf::from("/bennu.toml"), &text, Mode::Serve)
            .expect("a configuration")
            .api
    }

    #[track_caller]
    fn check(keys: &Keys, config: &config::Api, secret: &str, expected: Option<&str>) {
        keys.refresh(config);
        let found = keys.find(secret).map(|key| key.name.clone());
        assert_eq!(found.as_deref(), expected, "{secret}");
    }

    #[test]
    fn a_secret_holds_as_long_as_its_file_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let (keys, config) = (Keys::new(None), api(&file));
        check(&keys, &config, ONE, None);
        std::fs::write(&file, ONE).expect("written");
        check(&keys, &config, ONE, Some("web"));
        std::fs::write(&file, format!("{ONE}\n{TWO}\n")).expect("written");
        check(&keys, &config, ONE, Some("web"));
        check(&keys, &config, TWO, Some("web"));
        std::fs::write(&file, TWO).expect("written");
        check(&keys, &config, ONE, None);
        check(&keys, &config, TWO, Some("web"));
        // Whoever writes it in place empties it first.
        std::fs::write(&file, "").expect("written");
        check(&keys, &config, TWO, Some("web"));
        let open = std::fs::File::options().append(true).open(&file).expect("a file");
        open.set_modified(SystemTime::now() - 2 * SETTLES).expect("set");
        check(&keys, &config, TWO, None);
        check(&keys, &config, "", None);
        std::fs::remove_file(&file).expect("removed");
        check(&keys, &config, TWO, None);
    }

    #[test]
    fn a_key_with_the_secret_of_another_is_nobodys_until_it_has_its_own() {
        let (web, admin) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
        let (web, admin) = (web.expect("a file"), admin.expect("a file"));
        let write = |file: &tempfile::NamedTempFile, text: &str| std::fs::write(file, text).expect("written");
        let mut second = (*api(admin.path()).keys[0]).clone();
        second.name = "admin".to_owned();
        let first = api(web.path());
        let config = config::Api {
            keys: [Arc::clone(&first.keys[0]), Arc::new(second)].into(),
            ..first
        };
        let keys = Keys::new(None);
        write(&web, ONE);
        write(&admin, &format!("{ONE}\n{TWO}"));
        check(&keys, &config, ONE, Some("web"));
        check(&keys, &config, TWO, None);
        // The other file alone has changed.
        write(&web, &"w".repeat(40));
        check(&keys, &config, TWO, Some("admin"));
    }

    #[test]
    fn a_configuration_without_the_key_takes_it_away() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, ONE).expect("written");
        let (keys, config) = (Keys::new(Some(TWO)), api(file.path()));
        check(&keys, &config, ONE, Some("web"));
        check(&keys, &config, TWO, Some("dev"));
        let none = config::Api {
            keys: Arc::new([]),
            ..config
        };
        check(&keys, &none, ONE, None);
        check(&keys, &none, TWO, Some("dev"));
    }
}
