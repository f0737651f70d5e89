//! Reads a library that has stopped changing, and keeps a private copy of exactly these bytes to load from.
//!
//! Never here: a link. The system's loader knows files by name and by inode, and gives back the library that it has.

mod folder;

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

pub(crate) use self::folder::{StageFolder, is_noexec};
use crate::config::ContentHash;

/// The largest library that is read. Beyond: refused.
pub(crate) const MAX_LIBRARY_BYTES: u64 = 1 << 30;
/// How often a file that keeps changing is looked at before this gives up.
const MAX_LOOKS: usize = 50;

/// The bytes of a file in memory of their own, which the system has back when they go. The heap would keep it.
#[derive(Debug)]
pub(crate) struct Image {
    memory: MmapMut,
    len: usize,
}

impl Image {
    /// Reads a file that is as long as it is now, and no more than `most_bytes`.
    ///
    /// # Errors
    ///
    /// If it can't be read, or there is no memory.
    pub(crate) fn read(mut file: &File, most_bytes: u64) -> io::Result<Self> {
        let most = usize::try_from(file.metadata()?.len().min(most_bytes)).map_err(io::Error::other)?;
        let mut image = Self {
            memory: MmapMut::map_anon(most.max(1))?,
            len: 0,
        };
        while image.len < most {
            match file.read(&mut image.memory[image.len..most])? {
                0 => break,
                read => image.len += read,
            }
        }
        Ok(image)
    }
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

/// The bytes of a library, read once: what is checked, probed and loaded.
pub(crate) struct Contents {
    /// All of them.
    pub(crate) bytes: Image,
    /// Their hash.
    pub(crate) hash: ContentHash,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("len", &self.bytes.len())
            .field("hash", &self.hash)
            .finish()
    }
}

/// Why a library could not be read or staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The library.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a pipe or the like.
    #[error("{} is {kind}", path.display())]
    NotAFile {
        /// The library.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It holds nothing, and goes on to.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// It is larger than [`MAX_LIBRARY_BYTES`].
    #[error("{} is larger than a library may be ({MAX_LIBRARY_BYTES} bytes)", .0.display())]
    TooLarge(PathBuf),
    /// It was different each time.
    #[error("{} keeps changing", .0.display())]
    Unsettled(PathBuf),
    /// The private copy can't be written.
    #[error("can't stage a copy at {}", path.display())]
    Write {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StageError {
    /// Whether the machine is to blame, not the file: too many open files, a disk that fails, no memory.
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        let there = |source: &io::Error| {
            !matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            )
        };
        matches!(self, Self::Read { source, .. } if there(source)) || matches!(self, Self::Write { .. })
    }

    /// A word for this kind of failure, the same for ever.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::NotAFile { .. } => "not_a_file",
            Self::Empty(_) => "empty",
            Self::TooLarge(_) => "too_large",
            Self::Unsettled(_) => "unsettled",
            Self::Write { .. } => "stage",
        }
    }
}

/// Reads `path` until two looks in a row find the same; `pause` runs before each second look (20 ms are enough).
///
/// # Errors
///
/// If it can't be read, is no file, is empty, is too large or keeps changing.
pub(crate) fn read_settled(path: &Path, mut pause: impl FnMut()) -> Result<Contents, StageError> {
    for _ in 0..MAX_LOOKS {
        let (contents, stamp) = look(path)?;
        pause();
        if look_again(path)? == (contents.hash, stamp) {
            let empty = contents.bytes.is_empty().then(|| StageError::Empty(path.to_owned()));
            return empty.map_or(Ok(contents), Err);
        }
    }
    Err(StageError::Unsettled(path.to_owned()))
}

/// What tells one state of a file from another without reading it: device, inode, size, and time of change.
type Stamp = (u64, u64, u64, i64, i64);

fn look(path: &Path) -> Result<(Contents, Stamp), StageError> {
    let unreadable = |source| StageError::Read {
        path: path.to_owned(),
        source,
    };
    let file = open_regular(path)?;
    let bytes = Image::read(&file, MAX_LIBRARY_BYTES + 1).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_LIBRARY_BYTES {
        return Err(StageError::TooLarge(path.to_owned()));
    }
    let meta = file.metadata().map_err(unreadable)?;
    let hash = ContentHash::of(&bytes);
    Ok((Contents { bytes, hash }, stamp(&meta)))
}

/// The same without keeping what is read.
fn look_again(path: &Path) -> Result<(ContentHash, Stamp), StageError> {
    let unreadable = |source| StageError::Read {
        path: path.to_owned(),
        source,
    };
    let file = open_regular(path)?;
    let stamp = stamp(&file.metadata().map_err(unreadable)?);
    let hash = ContentHash::of_file(file, MAX_LIBRARY_BYTES).map_err(unreadable)?;
    Ok((hash, stamp))
}

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
}

/// What it is, if it is no regular file.
pub(crate) fn not_a_file(meta: &Metadata) -> Option<&'static str> {
    match meta.file_type() {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a directory"),
        _ => Some("not a regular file"),
    }
}

/// Opens a file, and nothing that one could wait at.
fn open_regular(path: &Path) -> Result<File, StageError> {
    let unreadable = |source| StageError::Read {
        path: path.to_owned(),
        source,
    };
    if let Some(kind) = not_a_file(&fs::metadata(path).map_err(unreadable)?) {
        let path = path.to_owned();
        return Err(StageError::NotAFile { path, kind });
    }
    File::open(path).map_err(unreadable)
}

/// A private copy, readable by this user only. Removed when this goes.
#[derive(Debug)]
pub(crate) struct StagedFile {
    path: PathBuf,
    hash: ContentHash,
}

impl StagedFile {
    /// Writes `contents` to a file in `dir` that did not exist, called after plugin, number of the attempt and hash. Makes `dir`
    /// where it is missing.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub(crate) fn write(dir: &Path, plugin: &str, attempt: u64, contents: &Contents) -> Result<Self, StageError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StageError::Write { path, source }
        };
        // Nobody else may put files in it.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed(dir))?;
        // The name must be the one under which the system lists the mapping.
        let dir = dir.canonicalize().map_err(failed(dir))?;
        let (path, mut file) = create_new(
            &dir,
            &format!("{}-{attempt}-{}", plugin.replace('/', "_"), contents.hash),
        )?;
        let staged = Self {
            path,
            hash: contents.hash,
        };
        file.write_all(&contents.bytes).map_err(failed(&staged.path))?;
        Ok(staged)
    }

    /// Where it is: absolute, no link in it.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The hash of its bytes.
    #[must_use]
    pub(crate) fn hash(&self) -> ContentHash {
        self.hash
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "staged copy not removed");
        }
    }
}

/// Makes `stem.so`, or `stem.1.so` and so on where a process before this one left its copy.
fn create_new(dir: &Path, stem: &str) -> Result<(PathBuf, File), StageError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    for attempt in 0.. {
        let name = if attempt == 0 {
            format!("{stem}.so")
        } else {
            format!("{stem}.{attempt}.so")
        };
        let path = dir.join(name);
        match options.open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            Err(source) => return Err(StageError::Write { path, source }),
        }
    }
    unreachable!("the last attempt returns")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::runtime::plugin::testing::Folder;

    fn contents(bytes: &[u8]) -> Contents {
        let mut memory = MmapMut::map_anon(bytes.len().max(1)).unwrap();
        memory[..bytes.len()].copy_from_slice(bytes);
        let len = bytes.len();
        Contents {
            bytes: Image { memory, len },
            hash: ContentHash::of(bytes),
        }
    }

    #[test]
    fn a_file_that_is_still_written_is_read_when_it_is_whole() {
        let folder = Folder::new();
        let path = folder.join("room.so");
        fs::write(&path, "a").unwrap();
        let mut rest = vec!["abc", "ab"];
        let read = read_settled(&path, || {
            if let Some(text) = rest.pop() {
                fs::write(&path, text).unwrap();
            }
        })
        .unwrap();
        assert_eq!(*read.bytes, *b"abc");
        assert_eq!(read.hash, ContentHash::of(b"abc"));
    }

    #[test]
    fn a_file_that_never_settles_is_refused() {
        let folder = Folder::new();
        let path = folder.join("room.so");
        fs::write(&path, "").unwrap();
        let mut looks = 0;
        let error = read_settled(&path, || {
            looks += 1;
            fs::write(&path, looks.to_string()).unwrap();
        });
        assert_eq!(error.unwrap_err().code(), "unsettled");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = Folder::new();
        let code = |path: &Path| read_settled(path, || {}).unwrap_err().code();
        assert_eq!(code(&dir), "not_a_file");
        assert_eq!(code(&dir.join("none.so")), "read");
        fs::write(dir.join("empty.so"), "").unwrap();
        assert_eq!(code(&dir.join("empty.so")), "empty");
        assert_eq!(code(Path::new("/dev/zero")), "not_a_file");
    }

    #[test]
    fn a_staged_copy_is_private_and_goes_with_its_owner() {
        let folder = Folder::new();
        let dir = folder.join("new");
        let staged = StagedFile::write(&dir, "room", 7, &contents(b"bytes")).unwrap();
        let name = staged.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("room-7-{}.so", staged.hash()));
        assert_eq!(fs::read(staged.path()).unwrap(), b"bytes");
        assert_eq!(fs::metadata(staged.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let path = staged.path().to_owned();
        drop(staged);
        assert!(!path.exists());
    }

    #[test]
    fn a_copy_that_is_there_already_is_left_alone() {
        let dir = Folder::new();
        let old = StagedFile::write(&dir, "room", 1, &contents(b"bytes")).unwrap();
        let new = StagedFile::write(&dir, "room", 1, &contents(b"bytes")).unwrap();
        assert_ne!(old.path(), new.path());
    }

    #[test]
    fn a_plugins_name_leads_to_no_other_folder() {
        let dir = Folder::new();
        let staged = StagedFile::write(&dir, "../room", 1, &contents(b"")).unwrap();
        assert_eq!(staged.path().parent(), Some(&*dir));
    }
}
