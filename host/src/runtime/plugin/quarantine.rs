//! Contents that have done harm, by their hash. Bennu does not load them again before an operator says so.
//!
//! Each has a file in the folder `quarantine` of the state folder, named after the hash. So the quarantine outlives the host, and
//! removing the file lifts it. Bennu looks on the disk each time, so it need not be told. If the folder cannot be written, this
//! process remembers.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::ContentHash;

/// Why contents are not loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quarantined {
    /// The plugin that they were loaded as.
    pub(crate) plugin: String,
    /// Stable, machine-readable code for the kind of harm.
    pub(crate) code: String,
    /// One line for people.
    pub(crate) reason: String,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub(crate) at_unix_s: u64,
}

impl Quarantined {
    /// From now on.
    #[must_use]
    pub(crate) fn now(plugin: &str, code: &str, reason: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
            code: code.to_owned(),
            reason: reason.to_owned(),
            at_unix_s: unix_seconds(),
        }
    }
}

/// The time, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Quarantine {
    dir: PathBuf,
    /// The oldest goes when there are more.
    most: usize,
    /// What could not be written.
    unwritten: Mutex<BTreeMap<ContentHash, Quarantined>>,
}

impl Quarantine {
    /// The quarantine in `state_dir`, which need not exist yet, with at most `most` entries.
    #[must_use]
    pub(crate) fn new(state_dir: &Path, most: usize) -> Self {
        Self {
            dir: state_dir.join("quarantine"),
            most,
            unwritten: Mutex::default(),
        }
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<ContentHash, Quarantined>> {
        self.unwritten.lock().expect("no holder panics")
    }

    /// Where an operator finds the entry for `hash`.
    #[must_use]
    pub(crate) fn file(&self, hash: ContentHash) -> PathBuf {
        self.dir.join(format!("{hash:#}.json"))
    }

    /// Refuses these contents from now on. If the entry cannot be written, that is logged, and it holds for this process.
    pub(crate) fn add(&self, hash: ContentHash, why: &Quarantined) {
        if let Err(error) = self.write(hash, why) {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "cannot write the quarantine to disk; it lasts until the server stops");
            let mut unwritten = self.unwritten();
            unwritten.insert(hash, why.clone());
            if unwritten.len() > self.most {
                let oldest = unwritten.iter().min_by_key(|(_, why)| why.at_unix_s);
                let oldest = oldest.map(|(hash, _)| *hash);
                oldest.and_then(|hash| unwritten.remove(&hash));
            }
        }
        self.forget_oldest();
    }

    fn write(&self, hash: ContentHash, why: &Quarantined) -> io::Result<()> {
        private_dir(&self.dir)?;
        write_whole(&self.file(hash), &serde_json::to_vec_pretty(why)?)
    }

    /// Why these contents are refused, if they are.
    #[must_use]
    pub(crate) fn find(&self, hash: ContentHash) -> Option<Quarantined> {
        read(&self.file(hash)).or_else(|| self.unwritten().get(&hash).cloned())
    }

    /// Allows these contents again. `false` if they were not refused.
    ///
    /// # Errors
    ///
    /// If the entry cannot be removed.
    pub(crate) fn lift(&self, hash: ContentHash) -> io::Result<bool> {
        let known = self.unwritten().remove(&hash).is_some();
        match fs::remove_file(self.file(hash)) {
            Ok(()) => Ok(true),
            // There is no entry, or no folder that could have one.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(known),
            Err(error) => Err(error),
        }
    }

    /// All entries, the newest first.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<(ContentHash, Quarantined)> {
        let mut all = self.unwritten().clone();
        all.extend(self.hashes().filter_map(|hash| Some((hash, read(&self.file(hash))?))));
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(_, why)| std::cmp::Reverse(why.at_unix_s));
        all
    }

    fn hashes(&self) -> impl Iterator<Item = ContentHash> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.filter_map(|file| ContentHash::parse(file.file_name().to_str()?.strip_suffix(".json")?))
    }

    fn forget_oldest(&self) {
        for (hash, _) in self.list().into_iter().skip(self.most) {
            // Somebody else may have removed it.
            let _ = self.lift(hash);
        }
    }
}

/// A file is an entry whatever it contains: somebody put it there.
fn read(file: &Path) -> Option<Quarantined> {
    let bytes = fs::read(file).ok()?;
    let unclear = || Quarantined {
        plugin: String::new(),
        code: "unknown".to_owned(),
        reason: format!("{} does not say why", file.display()),
        at_unix_s: 0,
    };
    Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| unclear()))
}

/// Makes a folder that only this user may put files in.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file completely or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(bytes)?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plugin::testing::Folder;

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn why(at_unix_s: u64) -> Quarantined {
        Quarantined {
            at_unix_s,
            ..Quarantined::now("room", "panics", "3 panics in probation")
        }
    }

    #[test]
    fn what_is_in_quarantine_outlives_the_host_until_it_is_lifted() {
        let dir = Folder::new();
        Quarantine::new(&dir, 10).add(hash("bad"), &why(1));
        let next = Quarantine::new(&dir, 10);
        assert_eq!(next.find(hash("bad")), Some(why(1)));
        assert_eq!(next.find(hash("good")), None);
        assert!(next.lift(hash("bad")).unwrap());
        assert_eq!(next.find(hash("bad")), None);
        assert!(!next.lift(hash("bad")).unwrap());
    }

    #[test]
    fn removing_the_file_lifts_it_and_any_file_refuses() {
        let dir = Folder::new();
        let quarantine = Quarantine::new(&dir, 10);
        quarantine.add(hash("bad"), &why(1));
        fs::remove_file(quarantine.file(hash("bad"))).unwrap();
        assert_eq!(quarantine.find(hash("bad")), None);
        fs::write(quarantine.file(hash("other")), "").unwrap();
        assert_eq!(quarantine.find(hash("other")).unwrap().code, "unknown");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let dir = Folder::new();
        let quarantine = Quarantine::new(&dir, 2);
        for (at, text) in [(3, "c"), (1, "a"), (2, "b")] {
            quarantine.add(hash(text), &why(at));
        }
        let left: Vec<_> = quarantine.list().into_iter().map(|(hash, _)| hash).collect();
        assert_eq!(left, [hash("c"), hash("b")]);
    }

    #[test]
    fn without_a_folder_this_process_remembers() {
        let dir = Folder::new();
        fs::write(dir.join("file"), "").unwrap();
        let quarantine = Quarantine::new(&dir.join("file"), 1);
        quarantine.add(hash("a"), &why(1));
        quarantine.add(hash("b"), &why(2));
        assert_eq!(quarantine.find(hash("b")), Some(why(2)));
        assert_eq!(quarantine.list().len(), 1);
        assert!(quarantine.lift(hash("b")).unwrap());
    }
}
