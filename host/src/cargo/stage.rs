//! Copies of libraries, made while our own cargo still holds the lock of the target directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most `dev` processes of one workspace.
const MAX_PROCESSES: u32 = 64;

/// Where copies are put: beside the libraries that cargo writes, under a name that no other process uses.
#[derive(Debug)]
pub(crate) struct Stage {
    target: PathBuf,
    place: Mutex<Place>,
    /// The process that had place 1 when this one started.
    other: Option<String>,
}

/// The place of this process among those that build the same workspace.
#[derive(Debug)]
struct Place {
    /// From 1.
    number: u32,
    file: PathBuf,
    /// `file`, locked for as long as the process lives. It holds the process id.
    lock: File,
}

/// A library that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Library {
    /// Where its copy is.
    pub(crate) path: PathBuf,
    /// Whether its contents differ from those of the copy before.
    pub(crate) is_new: bool,
}

impl Stage {
    /// Takes the first free place in a target directory.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written to.
    pub(super) fn open(target: &Path) -> io::Result<Self> {
        let (place, other) = Place::take(target)?;
        Ok(Self {
            target: target.to_owned(),
            place: Mutex::new(place),
            other,
        })
    }

    /// The id of another `bennu dev` that builds this workspace, if there is one.
    pub(crate) fn other(&self) -> Option<&str> {
        self.other.as_deref()
    }

    /// Copies a library that cargo reports.
    pub(super) fn take(&self, library: &Path) -> io::Result<Library> {
        let name = library.file_stem().unwrap_or_default().to_string_lossy();
        let path = library.with_file_name(format!("{name}.dev-{}.so", self.number()?));
        let bytes = fs::read(library)?;
        let is_new = !fs::read(&path).is_ok_and(|before| before == bytes);
        if is_new {
            let whole = path.with_extension("new");
            let written = fs::write(&whole, bytes).and_then(|()| fs::rename(&whole, &path));
            // On a full disk, half a library would only take up more room.
            written.inspect_err(|_| drop(fs::remove_file(&whole)))?;
        }
        Ok(Library { path, is_new })
    }

    /// The number of our place. `cargo clean` removes the locked file, and another process may have taken the place since.
    fn number(&self) -> io::Result<u32> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if !place.is_ours()? {
            (*place, _) = Place::take(&self.target)?;
        }
        Ok(place.number)
    }
}

impl Place {
    /// The first free place, and the process that has place 1 if that is another.
    fn take(target: &Path) -> io::Result<(Self, Option<String>)> {
        fs::create_dir_all(target)?;
        let mut other = None;
        for number in 1..=MAX_PROCESSES {
            let file = target.join(format!(".bennu-dev-{number}.lock"));
            let mut lock = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&file)?;
            match lock.try_lock() {
                Ok(()) => {
                    lock.set_len(0)?;
                    lock.rewind()?;
                    write!(lock, "{}", std::process::id())?;
                    return Ok((Self { number, file, lock }, other));
                }
                Err(TryLockError::WouldBlock) => {
                    let mut process = String::new();
                    let _ = lock.read_to_string(&mut process);
                    other.get_or_insert(process);
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!(
            "{MAX_PROCESSES} processes build this workspace already"
        )))
    }

    /// Whether the file that we have locked is still the one that others find.
    fn is_ours(&self) -> io::Result<bool> {
        let ours = self.lock.metadata()?;
        Ok(fs::metadata(&self.file).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())))
    }
}
