//! Keeps the last good contents of each plugin below the state folder, to go back to.
//!
//! A library is kept once its probation is over, with its companions. If the host finds at its start that the library in place is in
//! quarantine, it loads the newest of these instead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::quarantine::{private_dir, write_whole};
use super::stage::{Contents, MAX_LIBRARY_BYTES, companions_of};
use crate::config::ContentHash;
use crate::config::trust::{Use, check_file};

/// Good libraries by plugin.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    /// Libraries that are kept of each plugin.
    most: usize,
}

impl Kept {
    /// The libraries below `state_dir`, which need not exist yet; at most `most` of each plugin.
    #[must_use]
    pub(crate) fn new(state_dir: &Path, most: usize) -> Self {
        Self {
            dir: state_dir.join("libraries"),
            most,
        }
    }

    /// Keeps a copy of the staged file `library`, whose contents have the hash `hash`, as the newest of `plugin`.
    ///
    /// # Errors
    ///
    /// If a file cannot be copied.
    pub(crate) fn keep(&self, plugin: &str, hash: ContentHash, library: &Path) -> io::Result<()> {
        if self.most == 0 {
            return Ok(());
        }
        private_dir(&self.dir)?;
        let place = self.dir.join(format!("{}{hash:#}.so", prefix(plugin)));
        if !place.exists() {
            Contents::read_from(library, |_, _| Ok(()))?.write_to(&place, write_whole)?;
        }
        // It is the newest now, even if it was there before.
        File::open(&place)?.set_modified(SystemTime::now())?;
        for (old, _) in self.of(plugin).into_iter().skip(self.most) {
            // Another host may have been faster.
            let _ = (fs::remove_dir_all(companions_of(&old)), fs::remove_file(old));
        }
        Ok(())
    }

    /// The newest kept contents of `plugin` whose hash is `good`.
    pub(crate) fn newest(&self, plugin: &str, mut good: impl FnMut(ContentHash) -> bool) -> Option<Contents> {
        self.of(plugin)
            .into_iter()
            .filter(|(_, hash)| good(*hash))
            .find_map(|(path, hash)| {
                let meta = fs::metadata(&path).ok()?;
                let trusted = |file: &File, path: &Path| check_file(file, path, Use::State);
                let read = || Contents::read_from(&path, trusted);
                let contents = (meta.len() <= MAX_LIBRARY_BYTES).then(read)?;
                let contents = contents
                    .inspect_err(|error| tracing::warn!(%error, "cannot use a stored library"))
                    .ok()?;
                // A file that has changed on the disk is not the one that was good.
                (contents.hash == hash).then_some(contents)
            })
    }

    /// The files of a plugin, the newest first.
    fn of(&self, plugin: &str) -> Vec<(PathBuf, ContentHash)> {
        let prefix = prefix(plugin);
        let hash = |name: &str| ContentHash::parse(name.strip_prefix(&prefix)?.strip_suffix(".so")?);
        let mut found: Vec<_> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| {
                let hash = hash(file.file_name().to_str()?)?;
                Some((file.metadata().ok()?.modified().ok()?, file.path(), hash))
            })
            .collect();
        found.sort_by_key(|(time, ..)| std::cmp::Reverse(*time));
        found.into_iter().map(|(_, path, hash)| (path, hash)).collect()
    }
}

/// How the names of a plugin's files begin. A slash in the plugin's name must not lead to another folder.
fn prefix(plugin: &str) -> String {
    format!("{}-", plugin.replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plugin::testing::Folder;

    fn keep(dir: &Folder, kept: &Kept, plugin: &str, text: &str) -> ContentHash {
        dir.write("library.so", text);
        let hash = ContentHash::of(text.as_bytes());
        kept.keep(plugin, hash, &dir.join("library.so")).unwrap();
        hash
    }

    #[test]
    fn the_newest_good_one_is_found() {
        let dir = Folder::new();
        let kept = Kept::new(&dir, 2);
        let (one, two) = (keep(&dir, &kept, "room", "one"), keep(&dir, &kept, "room", "two"));
        let other = keep(&dir, &kept, "room-2", "other");
        let newest = |good: &dyn Fn(ContentHash) -> bool| kept.newest("room", good).map(|found| found.hash);
        assert_eq!(newest(&|_| true), Some(two));
        assert_eq!(newest(&|hash| hash != two), Some(one));
        assert_eq!(newest(&|hash| hash == other), None);
        keep(&dir, &kept, "room", "one");
        assert_eq!(newest(&|_| true), Some(one), "the one that was good last");
        keep(&dir, &kept, "room", "three");
        assert_eq!(newest(&|hash| hash == two), None, "only two are kept");
    }

    #[test]
    fn what_has_changed_on_the_disk_is_not_used() {
        let dir = Folder::new();
        let kept = Kept::new(&dir, 2);
        let hash = keep(&dir, &kept, "room", "one");
        dir.write(&format!("libraries/room-{hash:#}.so"), "changed");
        assert!(kept.newest("room", |_| true).is_none());
    }
}
