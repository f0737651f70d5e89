//! The folder that a process stages its libraries in. Removes the folders of processes that were killed or have crashed.
//!
//! Each folder contains a file that its process keeps locked. The system unlocks it however the process ends, so an unlocked folder
//! belongs to nobody. Process numbers would not tell, as they are used again.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use tempfile::TempDir;

/// How the names of all such folders begin.
const PREFIX: &str = "bennu-stage-";
/// The locked file.
const OWNER: &str = "owner";

/// A folder of this process, for this user only, with a name that nobody can guess, because its files are executed. Dropping this
/// removes it.
#[derive(Debug)]
pub(crate) struct StageFolder {
    folder: TempDir,
    _owner: File,
}

impl StageFolder {
    /// Makes a folder in `dir`, which is made if it is missing, and removes those that nobody owns any more.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn make(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        remove_left(dir);
        let mut builder = tempfile::Builder::new();
        let folder = builder
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(dir)?;
        // It gets its name once it is locked. Before that, another process might take the folder for an abandoned one.
        let new = folder.path().join("new");
        let owner = File::create_new(&new)?;
        owner.try_lock()?;
        fs::rename(new, folder.path().join(OWNER))?;
        Ok(Self { folder, _owner: owner })
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whether its file system is mounted noexec: the system then maps no code from it.
    #[must_use]
    pub(crate) fn is_noexec(&self) -> bool {
        is_noexec(self.path())
    }
}

/// Whether the file system of `path` is mounted noexec.
pub(crate) fn is_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Removes the folders in `dir` whose process is gone, except those of other users.
fn remove_left(dir: &Path) {
    let own = rustix::process::geteuid().as_raw();
    let folders = fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| {
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // The entry's own metadata: a link leads elsewhere.
        named && entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
    });
    for folder in folders.map(|entry| entry.path()) {
        let Ok(owner) = File::open(folder.join(OWNER)) else {
            continue;
        };
        if owner.try_lock().is_err() {
            continue;
        }
        let folder_shown = folder.display();
        match fs::remove_dir_all(&folder) {
            Ok(()) => tracing::info!(folder = %folder_shown, "removed library copies of an earlier process"),
            Err(error) => {
                tracing::warn!(folder = %folder_shown, %error, "cannot remove library copies of an earlier process")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plugin::testing::Folder;

    #[test]
    fn what_is_not_locked_is_removed_and_nothing_else() {
        let dir = Folder::new();
        let living = StageFolder::make(&dir).unwrap();
        let left = dir.join("bennu-stage-left");
        for folder in [&left, &dir.join("bennu-stage-begun"), &dir.join("other")] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(left.join("room-1.so"), "bytes").unwrap();
        for folder in [&left, &dir.join("other")] {
            fs::write(folder.join(OWNER), "").unwrap();
        }
        let next = StageFolder::make(&dir).unwrap();
        assert!(!left.exists());
        for there in [
            living.path(),
            next.path(),
            &dir.join("bennu-stage-begun"),
            &dir.join("other"),
        ] {
            assert!(there.exists(), "{}", there.display());
        }
        assert_eq!(fs::metadata(next.path()).unwrap().mode() & 0o777, 0o700);
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
