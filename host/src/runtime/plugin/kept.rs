//! The last good contents of each plugin, kept below the state folder for going back to.
//!
//! A library is kept once its probation is over. A host that finds, at its start, that the library in place is in
//! quarantine loads the newest of these instead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::quarantine::{private_dir, write_whole};
use super::stage::{Contents, Image, MAX_LIBRARY_BYTES};
use crate::config::ContentHash;
use crate::config::trust::{Use, check_file};

/// Good libraries by plugin.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    /// Of each plugin.
    most: usize,
}

impl Kept {
    /// Those below `state_dir`, which need not exist yet; `most` of each plugin.
    #[must_use]
    pub(crate) fn new(state_dir: &Path, most: usize) -> Self {
        Self {
            dir: state_dir.join("libraries"),
            most,
        }
    }

    /// Keeps a copy of the file `library`, whose contents have the hash `hash`, as the newest of `plugin`.
    ///
    /// # Errors
    ///
    /// If it cannot be copied.
    pub(crate) fn keep(&self, plugin: &str, hash: ContentHash, library: &Path) -> io::Result<()> {
        if self.most == 0 {
            return Ok(());
        }
        private_dir(&self.dir)?;
        let place = self.dir.join(format!("{}{hash:#}.so", prefix(plugin)));
        if !place.exists() {
            write_whole(&place, &Image::read(&File::open(library)?, MAX_LIBRARY_BYTES)?)?;
        }
        // It is the newest now, also where it was there before.
        File::open(&place)?.set_modified(SystemTime::now())?;
        for (old, _) in self.of(plugin).into_iter().skip(self.most) {
            // Another host may have been faster.
            let _ = fs::remove_file(old);
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
                let file = (meta.len() <= MAX_LIBRARY_BYTES).then(|| File::open(&path).ok())??;
                check_file(&file, &path, Use::State)
                    .inspect_err(|error| tracing::warn!(%error, "a kept library is not used"))
                    .ok()?;
                let bytes = Image::read(&file, MAX_LIBRARY_BYTES).ok()?;
                // What has changed on the disk is not what was good.
                (ContentHash::of(&bytes) == hash).then_some(Contents { bytes, hash })
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

/// What the files of a plugin begin with; its name leads to no other folder.
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
