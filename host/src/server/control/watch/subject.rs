//! What is watched: one file, or folders of sources.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::ContentHash;
use crate::runtime::plugin::stage::{MAX_LIBRARY_BYTES, not_a_file};

/// Folders that hold what is built, not what it is built from.
const NOT_SOURCES: [&str; 2] = ["target", "node_modules"];
/// The most files of one plugin's sources that are looked at.
const MAX_FILES: usize = 20_000;

/// Identifies contents. `None`: there were none yet.
pub(super) type Print = Option<ContentHash>;

/// A file's device, inode, size and times. While these stay the same, the file is not read again.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A file's inode and the time of its last write. Another save changes them.
pub(super) type Save = (u64, i64, i64);

/// What one name stands for.
pub(super) enum Subject {
    /// One file.
    File {
        path: PathBuf,
        stamp: Option<Stamp>,
        saved: Option<Save>,
        seen: Print,
    },
    /// All sources below some folders, by names, sizes and times.
    Sources {
        dirs: Vec<PathBuf>,
        found: BTreeSet<PathBuf>,
        seen: Print,
    },
}

impl Subject {
    /// A file as it is now.
    pub(super) fn file(path: &Path) -> Self {
        let mut subject = Self::File {
            path: path.to_owned(),
            stamp: None,
            saved: None,
            seen: None,
        };
        // It need not be there yet.
        let _ = subject.look();
        subject
    }

    /// The sources below `dirs` as they are now.
    pub(super) fn sources(dirs: Vec<PathBuf>) -> Self {
        let mut subject = Self::Sources {
            dirs,
            found: BTreeSet::new(),
            seen: None,
        };
        let _ = subject.look();
        subject
    }

    /// Whether both are one file, whatever it holds.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        matches!((self, other), (Self::File { path, .. }, Self::File { path: other, .. }) if path == other)
    }

    /// What a change is reported with.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } => path,
            Self::Sources { dirs, .. } => dirs.first().map_or(Path::new(""), PathBuf::as_path),
        }
    }

    /// The last contents found.
    pub(super) fn seen(&self) -> &Print {
        match self {
            Self::File { seen, .. } | Self::Sources { seen, .. } => seen,
        }
    }

    /// When the last contents found were saved.
    pub(super) fn saved(&self) -> Option<Save> {
        match self {
            Self::File { saved, .. } => *saved,
            Self::Sources { .. } => None,
        }
    }

    /// The contents as they are now.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(super) fn look(&mut self) -> Result<Print, String> {
        match self {
            Self::File {
                path,
                stamp,
                saved,
                seen,
            } => {
                let unreadable = |error: io::Error| match error.kind() {
                    io::ErrorKind::NotFound => "there is no such file".to_owned(),
                    _ => format!("it cannot be read: {error}"),
                };
                let meta = fs::metadata(&*path).map_err(unreadable)?;
                // An empty file is one that is about to be written.
                let kind = not_a_file(&meta).or((meta.len() == 0).then_some("empty"));
                if let Some(kind) = kind {
                    return Err(format!("it is {kind}"));
                }
                let now = self::stamp(&meta);
                *saved = Some((meta.ino(), meta.mtime(), meta.mtime_nsec()));
                if *stamp != Some(now) && meta.len() <= MAX_LIBRARY_BYTES {
                    let file = File::open(&*path).map_err(unreadable)?;
                    *seen = Some(ContentHash::of_file(file, MAX_LIBRARY_BYTES).map_err(unreadable)?);
                    // File times are coarse: another write right now would leave the same stamp.
                    *stamp = is_old(&meta).then_some(now);
                }
                Ok(*seen)
            }
            Self::Sources { dirs, found, seen } => {
                let mut walk = Walk::default();
                dirs.iter().for_each(|dir| walk.folder(dir));
                *found = walk.folders;
                *seen = Some(ContentHash::of(&walk.print));
                Ok(*seen)
            }
        }
    }

    /// Where events about this come from.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Self::File { path, .. } => {
                let parent = |path: &Path| path.parent().map(Path::to_owned);
                // If the file is a link, also the directory of its target.
                let real = path.canonicalize().ok().and_then(|path| parent(&path));
                [parent(path), real].into_iter().flatten().collect()
            }
            Self::Sources { found, .. } => found.iter().cloned().collect(),
        }
    }

    /// Whether an event about `paths` may be about this. An event without any may be about anything.
    pub(super) fn concerns(&self, paths: &[PathBuf]) -> bool {
        paths.is_empty()
            || paths.iter().any(|changed| match self {
                Self::File { path, .. } => {
                    // The directory itself, or the file by its own name or that of its target.
                    path.starts_with(changed)
                        || changed.file_name() == path.file_name()
                        || path
                            .canonicalize()
                            .is_ok_and(|real| real.file_name() == changed.file_name())
                }
                Self::Sources { dirs, .. } => is_source(changed) && dirs.iter().any(|dir| changed.starts_with(dir)),
            })
    }
}

/// Identifies a directory: another one of the same name differs. `None`: there is none.
pub(super) fn identity(dir: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(dir).ok().filter(Metadata::is_dir)?;
    Some((meta.dev(), meta.ino()))
}

fn stamp(meta: &Metadata) -> Stamp {
    (
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// Whether the last write is so long ago that the next one gets another time.
fn is_old(meta: &Metadata) -> bool {
    meta.modified()
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(1)))
}

/// Editors' scratch files, version control and build output are no sources.
fn is_source(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !name.starts_with('.') && !name.ends_with('~') && !NOT_SOURCES.contains(&name))
}

/// A walk over folders, in the order of names.
#[derive(Default)]
struct Walk {
    folders: BTreeSet<PathBuf>,
    files: usize,
    print: Vec<u8>,
}

impl Walk {
    fn folder(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        self.folders.insert(dir.to_owned());
        let mut paths: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_source(path))
            .collect();
        paths.sort();
        for path in paths {
            // Does not follow links: they could lead in circles.
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => self.folder(&path),
                Ok(meta) => self.file(&path, &meta),
                Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: &Path, meta: &Metadata) {
        self.files += 1;
        if self.files > MAX_FILES {
            return;
        }
        self.print.extend_from_slice(path.as_os_str().as_bytes());
        for number in [
            meta.size(),
            meta.mtime().cast_unsigned(),
            meta.mtime_nsec().cast_unsigned(),
        ] {
            self.print.extend_from_slice(&number.to_le_bytes());
        }
    }
}
