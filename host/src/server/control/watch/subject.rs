//! What is watched: one file, or the sources of something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::ContentHash;
use crate::runtime::plugin::stage::{MAX_LIBRARY_BYTES, not_a_file, recognise};

/// A folder that is never a source.
const NOT_SOURCES: &str = "node_modules";
/// Cargo and others put it into folders that they can make anew.
const CACHE_TAG: &str = "CACHEDIR.TAG";
/// How many files below the folders of one set are looked at.
const MAX_FILES: usize = 20_000;
/// How many folders of one set are looked at and listened to.
const MAX_FOLDERS: usize = 5_000;

/// Sources that are watched together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceSet {
    /// All files below these folders, links included. Not hidden ones, backups, `node_modules`, and folders that hold what was built:
    /// they are listed in `outputs` or have a `CACHEDIR.TAG`.
    pub(crate) folders: Vec<PathBuf>,
    /// Files wherever they are, whether they exist or not. A folder stands for all below it.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Folders that builds write to.
    pub(crate) outputs: Vec<PathBuf>,
}

impl SourceSet {
    /// The files that were written after `since`, and when. Not those with a time to come: it says nothing, and would be later than
    /// each build for as long as that.
    pub(crate) fn written_after(&self, since: SystemTime) -> BTreeMap<PathBuf, SystemTime> {
        Walk::over(self, Some(since)).newer
    }
}

/// Identifies contents. `None`: there were none yet.
pub(super) type Print = Option<ContentHash>;

/// A file's device, inode, size and times. While these stay the same, the file is not read again.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A file's inode, the time of its last write, its mode and its owner. Another save changes them, and so does whoever lets other
/// users write to the file, or no longer: a file that was refused for that may be good now.
pub(super) type Save = (u64, i64, i64, u32, u32);

/// What one name stands for.
pub(super) enum Subject {
    /// One file, and the libraries beside it that belong to it.
    File {
        path: PathBuf,
        beside: Vec<PathBuf>,
        stamps: Option<Vec<Stamp>>,
        saved: Option<Save>,
        seen: Print,
    },
    /// Sources, by names, sizes and times.
    Sources {
        set: SourceSet,
        found: BTreeSet<PathBuf>,
        seen: Print,
    },
}

impl Subject {
    /// A file as it is now.
    pub(super) fn file(path: &Path) -> Self {
        let mut subject = Self::File {
            path: path.to_owned(),
            beside: Vec::new(),
            stamps: None,
            saved: None,
            seen: None,
        };
        // It need not be there yet.
        let _ = subject.look();
        subject
    }

    /// Sources as they were at `since`. If one of them has changed after that, or for `None`, nothing counts as seen.
    pub(super) fn sources(set: SourceSet, since: Option<SystemTime>) -> Self {
        let Walk {
            folders: found,
            newer,
            print,
            ..
        } = Walk::over(&set, since);
        let is_seen = since.is_some() && newer.is_empty();
        let seen = is_seen.then(|| ContentHash::of(&print));
        Self::Sources { set, found, seen }
    }

    /// Whether both are one file, whatever it holds.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        matches!((self, other), (Self::File { path, .. }, Self::File { path: other, .. }) if path == other)
    }

    /// What a change is reported with.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } => path,
            Self::Sources { set, .. } => set
                .folders
                .first()
                .or(set.files.first())
                .map_or(Path::new(""), PathBuf::as_path),
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
                beside,
                stamps,
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
                *saved = Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.mode(), meta.uid()));
                let stamps_of = |beside: &[PathBuf]| -> Option<Vec<Stamp>> {
                    let others = beside.iter().map(|path| fs::metadata(path).ok());
                    let all = [Some(meta.clone())].into_iter().chain(others);
                    all.map(|meta| Some(stamp(&meta?))).collect()
                };
                let is_same = stamps.is_some() && *stamps == stamps_of(beside);
                if !is_same && meta.len() <= MAX_LIBRARY_BYTES {
                    let (hash, found) = recognise(path).map_err(|error| format!("it cannot be read: {error}"))?;
                    *seen = Some(hash);
                    *beside = found;
                    // File times are coarse: another write at the same time would leave the same stamp.
                    let are_old = is_old(&meta)
                        && beside
                            .iter()
                            .all(|path| fs::metadata(path).is_ok_and(|meta| is_old(&meta)));
                    *stamps = stamps_of(beside).filter(|_| are_old);
                }
                Ok(*seen)
            }
            Self::Sources { set, found, seen } => {
                let walk = Walk::over(set, None);
                *found = walk.folders;
                *seen = Some(ContentHash::of(&walk.print));
                Ok(*seen)
            }
        }
    }

    /// Where events about this come from.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Self::File { path, beside, .. } => {
                let parent = |path: &Path| path.parent().map(Path::to_owned);
                // If the file is a link, also the directory of its target.
                let real = path.canonicalize().ok().and_then(|path| parent(&path));
                let others = beside.iter().map(|path| parent(path));
                [parent(path), real].into_iter().chain(others).flatten().collect()
            }
            Self::Sources { found, .. } => found.iter().cloned().collect(),
        }
    }

    /// Whether an event about `paths` may be about this. An event without any may be about anything.
    pub(super) fn concerns(&self, paths: &[PathBuf]) -> bool {
        paths.is_empty()
            || paths.iter().any(|changed| match self {
                Self::File { path, beside, .. } => {
                    // The directory itself, or a file by its own name or that of its target.
                    path.starts_with(changed)
                        || beside.iter().any(|path| path.file_name() == changed.file_name())
                        || changed.file_name() == path.file_name()
                        || path
                            .canonicalize()
                            .is_ok_and(|real| real.file_name() == changed.file_name())
                }
                Self::Sources { set, .. } => {
                    let is_below = |folder: &PathBuf| is_source(changed) && changed.starts_with(folder);
                    let is_in = |folder: &PathBuf| is_below(folder) || folder.starts_with(changed);
                    set.folders.iter().any(is_in) || set.files.iter().any(|file| is_about(changed, file))
                }
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

/// Whether an event at `changed` may be about a file, which may be behind a link.
fn is_about(changed: &Path, file: &Path) -> bool {
    file.starts_with(changed) || changed.starts_with(file) || changed.file_name() == file.file_name()
}

/// Editors' scratch files, version control and packages of other languages are no sources.
fn is_source(path: &Path) -> bool {
    let is_scratch =
        |name: &str| name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !is_scratch(name) && name != NOT_SOURCES)
}

/// A walk over sources, in the order of names; links come last.
struct Walk<'a> {
    outputs: &'a [PathBuf],
    folders: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
    /// The folders that were entered, by identity: a link may lead back to one of them.
    entered: BTreeSet<(u64, u64)>,
    files: usize,
    print: Vec<u8>,
    /// From when to when a file must have been written to be one of `newer`.
    span: Option<(SystemTime, SystemTime)>,
    newer: BTreeMap<PathBuf, SystemTime>,
}

impl<'a> Walk<'a> {
    fn over(set: &'a SourceSet, since: Option<SystemTime>) -> Self {
        let mut walk = Self {
            outputs: &set.outputs,
            folders: BTreeSet::new(),
            links: BTreeSet::new(),
            entered: BTreeSet::new(),
            files: 0,
            print: Vec::new(),
            span: since.map(|since| (since, SystemTime::now() + Duration::from_secs(1))),
            newer: BTreeMap::new(),
        };
        for folder in &set.folders {
            walk.folder(folder);
            // It may be moved away, and come back.
            walk.listen_above(folder);
        }
        while let Some(link) = walk.links.pop_first() {
            match fs::metadata(&link) {
                Ok(meta) if meta.is_dir() => walk.folder(&link),
                Ok(meta) => walk.counted(&link, &meta),
                Err(_) => {}
            }
        }
        set.files.iter().for_each(|file| walk.named(file));
        walk
    }

    fn folder(&mut self, dir: &Path) {
        let is_output = self.outputs.iter().any(|output| output == dir) || dir.join(CACHE_TAG).exists();
        let is_known = identity(dir).is_none_or(|identity| !self.entered.insert(identity));
        if is_output || is_known || self.folders.len() >= MAX_FOLDERS {
            return;
        }
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
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => self.folder(&path),
                Ok(meta) if meta.is_symlink() => drop(self.links.insert(path)),
                Ok(meta) => self.counted(&path, &meta),
                Err(_) => {}
            }
        }
    }

    /// A file that somebody named. Its folder is listened to, and so is that of the file that it links to.
    fn named(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return self.folder(path),
            Ok(meta) => self.file(path, &meta),
            // That it is not there is a state of it as well.
            Err(_) => self.print.extend_from_slice(path.as_os_str().as_bytes()),
        }
        let real = path.canonicalize().ok();
        for file in std::iter::once(path).chain(real.as_deref()) {
            self.listen_above(file);
        }
    }

    /// Has the nearest folder above `path` that exists listened to.
    fn listen_above(&mut self, path: &Path) {
        let there = path.ancestors().skip(1).find(|folder| folder.is_dir());
        self.folders.extend(there.map(Path::to_owned));
    }

    fn counted(&mut self, path: &Path, meta: &Metadata) {
        self.files += 1;
        if self.files <= MAX_FILES {
            self.file(path, meta);
        }
    }

    fn file(&mut self, path: &Path, meta: &Metadata) {
        if let (Some((since, now)), Ok(written)) = (self.span, meta.modified())
            && written > since
            && written <= now
        {
            self.newer.insert(path.to_owned(), written);
        }
        self.print.extend_from_slice(path.as_os_str().as_bytes());
        for number in [
            meta.ino(),
            meta.size(),
            meta.mtime().cast_unsigned(),
            meta.mtime_nsec().cast_unsigned(),
        ] {
            self.print.extend_from_slice(&number.to_le_bytes());
        }
    }
}
