//! Reads a library that has stopped changing, and keeps a private copy of exactly these bytes to load from.
//!
//! Libraries that lie beside it and that it needs come with it (`companions.rs`); only the names of those differ in
//! the copies. Never here: a link. The system's loader knows files by name and by inode, and would return the library that it has.

mod folder;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

pub(crate) use self::folder::{StageFolder, is_noexec};
use super::companions::{self, CompanionError};
use super::elf::{Elf, Facts};
use crate::config::ContentHash;

/// The largest library that is read. Larger ones are refused.
pub(crate) const MAX_LIBRARY_BYTES: u64 = 1 << 30;
/// How often this looks at a file that keeps changing before it gives up.
const MAX_LOOKS: usize = 50;

/// The bytes of a file in a mapping of their own. The system gets the memory back when this is dropped; the heap would keep it.
#[derive(Debug)]
pub(crate) struct Image {
    memory: MmapMut,
    len: usize,
}

impl Image {
    /// Reads a file up to its present length, and at most `most_bytes`.
    ///
    /// # Errors
    ///
    /// If the file can't be read, or there is no memory.
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

    /// A copy that can be changed.
    fn to_changed(
        &self,
        change: impl FnOnce(&mut [u8]) -> Result<(), CompanionError>,
    ) -> Result<Vec<u8>, CompanionError> {
        let mut bytes = self.to_vec();
        change(&mut bytes).map(|()| bytes)
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
    /// Their hash, that of the companions included.
    pub(crate) hash: ContentHash,
    /// The libraries that lie beside it and that it needs, by the names that it has for them.
    pub(crate) companions: BTreeMap<String, Image>,
}

impl Contents {
    /// A library that [`Contents::write_to`] or [`StagedFile::write`] has written. `check` sees each file before it is read.
    ///
    /// # Errors
    ///
    /// If one of its files can't be read, or `check` refuses it.
    pub(crate) fn read_from(library: &Path, check: impl Fn(&File, &Path) -> io::Result<()>) -> io::Result<Self> {
        let read = |path: &Path| {
            let file = File::open(path)?;
            check(&file, path)?;
            Image::read(&file, MAX_LIBRARY_BYTES)
        };
        let mut companions = BTreeMap::new();
        let folder = companions_of(library);
        if folder.is_dir() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                companions.insert(entry.file_name().to_string_lossy().into_owned(), read(&entry.path())?);
            }
        }
        let bytes = match companions.remove(LIBRARY) {
            Some(original) => original,
            None => read(library)?,
        };
        Ok(Self {
            hash: hash_of_all(&bytes, &companions),
            bytes,
            companions,
        })
    }

    /// Writes a library and its companions as they are, to be read by [`Contents::read_from`].
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub(crate) fn write_to(&self, library: &Path, write: impl Fn(&Path, &[u8]) -> io::Result<()>) -> io::Result<()> {
        if !self.companions.is_empty() {
            let folder = companions_of(library);
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            for (name, bytes) in &self.companions {
                write(&folder.join(name), bytes)?;
            }
        }
        write(library, &self.bytes)
    }
}

/// The folder that a library's companions are written to, beside it.
pub(crate) fn companions_of(library: &Path) -> PathBuf {
    library.with_extension("companions")
}

/// What the library itself is called among its companions, where its own copy has been changed. No needed library can be called so.
const LIBRARY: &str = ".library";

fn hash_of_all(bytes: &[u8], companions: &BTreeMap<String, Image>) -> ContentHash {
    let each = companions.iter().map(|(name, bytes)| (&**name, ContentHash::of(bytes)));
    companions::hash(ContentHash::of(bytes), each)
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
    #[error("cannot read {}", path.display())]
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
    /// It stays empty.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// It is larger than [`MAX_LIBRARY_BYTES`].
    #[error("{} is larger than a library may be ({MAX_LIBRARY_BYTES} bytes)", .0.display())]
    TooLarge(PathBuf),
    /// It was different at each look.
    #[error("{} changed while Bennu read it, {MAX_LOOKS} times", .0.display())]
    Unsettled(PathBuf),
    /// The libraries that lie beside it cannot come with it.
    #[error(transparent)]
    Companion(#[from] CompanionError),
    /// The private copy can't be written.
    #[error("cannot write a copy to {}", path.display())]
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

    /// Stable, machine-readable code.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::NotAFile { .. } => "not_a_file",
            Self::Empty(_) => "empty",
            Self::TooLarge(_) => "too_large",
            Self::Unsettled(_) => "unsettled",
            Self::Companion(_) => "companion",
            Self::Write { .. } => "stage",
        }
    }
}

/// Reads `path` and its companions until two looks in a row find the same; `pause` runs before each second look (20 ms are enough).
///
/// # Errors
///
/// If the file can't be read, is no file, is empty, is too large or keeps changing; the same of a companion.
pub(crate) fn read_settled(path: &Path, mut pause: impl FnMut()) -> Result<Contents, StageError> {
    for _ in 0..MAX_LOOKS {
        let (contents, stamps) = look(path)?;
        pause();
        if look_again(path)? == (contents.hash, stamps) {
            let empty = contents.bytes.is_empty().then(|| StageError::Empty(path.to_owned()));
            return empty.map_or(Ok(contents), Err);
        }
    }
    Err(StageError::Unsettled(path.to_owned()))
}

/// What tells one state of a file from another without reading it: device, inode, size, and time of change.
pub(super) type Stamp = (u64, u64, u64, i64, i64);

fn look(path: &Path) -> Result<(Contents, Vec<Stamp>), StageError> {
    let (bytes, stamp) = read(path)?;
    let (mut stamps, mut companions) = (vec![stamp], BTreeMap::new());
    for (name, path) in companions::find(path, &bytes)? {
        let (bytes, stamp) = read(&path)?;
        stamps.push(stamp);
        companions.insert(name, bytes);
    }
    let hash = hash_of_all(&bytes, &companions);
    let contents = Contents {
        bytes,
        hash,
        companions,
    };
    Ok((contents, stamps))
}

/// The same, without keeping what it reads.
fn look_again(path: &Path) -> Result<(ContentHash, Vec<Stamp>), StageError> {
    look(path).map(|(contents, stamps)| (contents.hash, stamps))
}

/// What a library is recognised by, and the files beside it that belong to it.
///
/// # Errors
///
/// If the library or a companion can't be read.
pub(crate) fn recognise(path: &Path) -> Result<(ContentHash, Vec<PathBuf>), StageError> {
    let (bytes, _) = read(path)?;
    // What cannot come with it is said when the library is read.
    let found = companions::find(path, &bytes).unwrap_or_default();
    let each = found
        .iter()
        .map(|(name, path)| Ok((&**name, ContentHash::of(&read(path)?.0))));
    let each: Vec<_> = each.collect::<Result<_, StageError>>()?;
    let hash = companions::hash(ContentHash::of(&bytes), each);
    Ok((hash, found.into_values().collect()))
}

/// Reads a regular file; opening anything else could wait for ever.
pub(super) fn read(path: &Path) -> Result<(Image, Stamp), StageError> {
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
    Ok((bytes, stamp(&meta)))
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

/// Opens a regular file only: opening a pipe could wait for ever.
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

/// A private copy of a library and its companions, readable by this user only. Dropping it removes the files.
#[derive(Debug)]
pub(crate) struct StagedFile {
    path: PathBuf,
    companions: Vec<PathBuf>,
    hash: ContentHash,
    facts: Facts,
}

impl StagedFile {
    /// Writes `contents` to a new file in `dir`, named after plugin, number of the attempt and hash. Makes `dir` if it is missing.
    ///
    /// # Errors
    ///
    /// If a file can't be written, or the names of companions can't be changed.
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
        let stem = format!("{}-{attempt}-{}", plugin.replace('/', "_"), contents.hash);
        let (path, mut file) = create_new(&dir, &stem)?;
        let mut staged = Self {
            path,
            companions: Vec::new(),
            hash: contents.hash,
            facts: Elf::check(&contents.bytes).map(|elf| elf.facts()).unwrap_or_default(),
        };
        if contents.companions.is_empty() {
            file.write_all(&contents.bytes).map_err(failed(&staged.path))?;
            return Ok(staged);
        }
        let names = companions::new_names(contents.companions.keys())?;
        for (name, bytes) in &contents.companions {
            let place = dir.join(&names[name]);
            let changed = bytes.to_changed(|bytes| companions::rename(bytes, &names))?;
            write_new(&place, &changed).map_err(failed(&place))?;
            staged.companions.push(place);
        }
        let changed = contents.bytes.to_changed(|bytes| companions::rename(bytes, &names))?;
        file.write_all(&changed).map_err(failed(&staged.path))?;
        staged.keep_originals(contents).map_err(failed(&staged.path))?;
        Ok(staged)
    }

    /// What was read, for whoever stages it once more.
    fn keep_originals(&self, contents: &Contents) -> io::Result<()> {
        let folder = companions_of(&self.path);
        DirBuilder::new().mode(0o700).create(&folder)?;
        for (name, bytes) in &contents.companions {
            write_new(&folder.join(name), bytes)?;
        }
        write_new(&folder.join(LIBRARY), &contents.bytes)
    }

    /// Where it is: absolute, no link in it.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is this companion of it.
    #[must_use]
    pub(crate) fn has(&self, companion: &Path) -> bool {
        self.companions.iter().any(|known| known == companion)
    }

    /// What its file says about loading and unloading it.
    #[must_use]
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The hash of what it was made from.
    #[must_use]
    pub(crate) fn hash(&self) -> ContentHash {
        self.hash
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        for path in self.companions.iter().chain([&self.path]) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a library copy");
            }
        }
        if !self.companions.is_empty() {
            // What is left goes with the folder.
            let _ = fs::remove_dir_all(companions_of(&self.path));
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(bytes)
}

/// Makes `stem.so`; or `stem.1.so` and so on if an earlier process has left its copy.
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
            companions: BTreeMap::new(),
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
