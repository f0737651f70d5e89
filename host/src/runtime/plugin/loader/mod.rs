//! Opens a library and turns its C functions into safe Rust: all unsafe code of the host stands here and below.
//!
//! 1. [`Library::load`] maps the staged file and finds the plugin's module. No layout is compared: that was done with
//!    the same bytes in the [probe](super::probe), by [`Library::open_checked`].
//! 2. [`Library::init`] makes the plugin's value, on the thread of shard 0: an [`Instance`].
//! 3. [`Instance::open_shard`] makes a [`ShardInstance`] on each shard's thread; it never leaves that thread.
//! 4. [`ShardInstance::handle`] hands over batches of events.
//! 5. [`ShardInstance::close`] on each shard, [`Instance::shutdown`] on shard 0, then the last [`Arc`] of the library
//!    goes and it is closed. Do that on a thread that never ran plugin code, after those that did have ended: thread-local
//!    destructors of the plugin keep a library mapped. [`Mapping::is_executable`] tells.
//!
//! Never here: `abi_stable`'s `load_from_*`, which load each module type once for ever; `check_layout` in the serving
//! process, which keeps pointers into the library.
#![allow(unsafe_code, reason = "calls into libraries by the contract of bennu_plugin::abi")]

mod calls;
pub(in crate::runtime::plugin) mod crash;
mod host_calls;
mod instance;
mod layout;
pub(in crate::runtime::plugin) mod stack;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use bennu_plugin::abi::{Bytes, ModuleRef};
use bennu_plugin::wire::SettingsError;
use libloading::os::unix;

pub(crate) use self::calls::{Calls, Effect, Event, Go, Outcome};
pub(crate) use self::host_calls::{COMPLETE, HostCalls, Line, SEND, Value};
pub(crate) use self::instance::{Instance, ShardInstance};
pub(crate) use self::layout::LayoutError;
use self::text::Text;
pub(in crate::runtime::plugin) use self::text::said;
use super::mapping::Mapping;
use super::stage::StagedFile;

/// A mapped library. Closed when the last [`Arc`] of it goes.
pub(crate) struct Library {
    // Fields are dropped in this order: the file goes after nothing is mapped from it.
    _handle: unix::Library,
    module: ModuleRef,
    path: PathBuf,
    _staged: Option<StagedFile>,
}

/// Why a library could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The system's loader refused it: a missing symbol or library, most often.
    #[error("the system's loader refused it: {0}")]
    Open(String),
    /// It exports no module.
    #[error("it exports no Bennu module; `export_plugin!` writes one")]
    NoModule,
    /// Its module is of another version of `abi_stable` or `bennu-plugin`.
    #[error("it was built with incompatible versions of this host's libraries: {0}")]
    Version(String),
    /// The structs of the contract differ.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl LoadError {
    /// A word for this kind of failure, the same for ever.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::NoModule => "no_module",
            Self::Version(_) => "version",
            Self::Layout(_) => "layout",
        }
    }
}

impl Library {
    /// Maps a staged file whose bytes the probe has found good, and keeps it until the library is closed.
    ///
    /// # Errors
    ///
    /// If it can't be mapped, or exports no module that this host can use.
    pub(crate) fn load(staged: StagedFile) -> Result<Arc<Self>, LoadError> {
        let path = staged.path().to_owned();
        Self::map(path, Some(staged), |_| Ok(())).map(Arc::new)
    }

    /// Maps a file and compares the layouts of everything that crosses the boundary.
    ///
    /// Only for a process that ends soon: what the comparison keeps points into the library.
    ///
    /// # Errors
    ///
    /// As [`Library::load`], and if a layout differs.
    pub(crate) fn open_checked(path: &Path) -> Result<Arc<Self>, LoadError> {
        Self::map(path.to_owned(), None, |header| {
            layout::compare(header).map_err(LoadError::from)
        })
        .map(Arc::new)
    }

    fn map(
        path: PathBuf,
        staged: Option<StagedFile>,
        compare: impl FnOnce(&'static LibHeader) -> Result<(), LoadError>,
    ) -> Result<Self, LoadError> {
        // SAFETY: running the library's constructors is what loading a plugin means; the operator named this file, and
        // a child process has run them before.
        let open = || unsafe { unix::Library::open(Some(&path), unix::RTLD_NOW | unix::RTLD_LOCAL) };
        let handle = crash::during("load", open).map_err(|error| LoadError::Open(source_text(&error)))?;
        let header = header(&handle)?;
        compare(header)?;
        // SAFETY: the layouts were compared, just now or in the probe child with the same bytes.
        let module = unsafe { header.init_root_module_with_unchecked_layout::<ModuleRef>() }
            .map_err(|error| LoadError::Version(one_line(&error.to_string())))?;
        Ok(Self {
            _handle: handle,
            module,
            path,
            _staged: staged,
        })
    }

    /// Asks the plugin whether it could run with `settings` (JSON). No effect outside the process.
    ///
    /// # Errors
    ///
    /// If they don't fit; says where.
    pub(crate) fn check(&self, settings: &str) -> Result<(), SettingsError> {
        let mut text = Text::default();
        // SAFETY: `settings` and `text` outlive the call.
        match unsafe { (self.module.check())(Bytes::lend(settings.as_bytes()), text.writer()) } {
            0 => Ok(()),
            _ => Err(settings_error(&text.into_string())),
        }
    }

    /// Asks the plugin whether it could read what another version wrote: the state of a topic (`RESTORE` of
    /// [`event`](bennu_plugin::abi::event)) or of a member (`RESTORE_MEMBER`). A plugin of an older kit is not asked.
    ///
    /// # Errors
    ///
    /// If it cannot; says why.
    pub(crate) fn try_restore(&self, kind: u32, version: u32, state: &[u8]) -> Result<(), String> {
        let Some(try_restore) = self.module.try_restore() else {
            return Ok(());
        };
        let mut text = Text::default();
        // SAFETY: `state` and `text` outlive the call.
        match unsafe { try_restore(kind, version, Bytes::lend(state), text.writer()) } {
            0 => Ok(()),
            _ => Err(text.into_string()),
        }
    }

    /// The JSON schema of the settings, if the plugin declares one.
    #[must_use]
    pub(crate) fn schema(&self) -> Option<String> {
        let mut text = Text::default();
        // SAFETY: `text` outlives the call.
        (unsafe { (self.module.schema()?)(text.writer()) } == 0).then(|| text.into_string())
    }

    /// Makes the plugin's value from `settings` (JSON). Call it on the thread of shard 0. `host` is let go when
    /// [`Instance::shutdown`] returns.
    ///
    /// # Errors
    ///
    /// What the plugin says.
    pub(crate) fn init(self: Arc<Self>, host: Arc<dyn HostCalls>, settings: &str) -> Result<Instance, String> {
        Instance::init(self, host, settings)
    }

    /// The file that is mapped.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What to ask, after the library is closed, whether it really is.
    #[must_use]
    pub(crate) fn mapping(&self) -> Mapping {
        Mapping::of(&self.path)
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Has the system unmap a library that was closed while threads of its own had not quite ended, if they have now. The system
/// does so only when something is closed: here it is the library itself, if it is still there.
pub(super) fn unload_again(path: &Path) {
    // SAFETY: nothing is loaded, and so nothing of it runs: the library is there already, or it is not opened.
    let there = unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | libc::RTLD_NOLOAD) };
    drop(there);
}

/// Finds the header that `export_plugin!` wrote. Valid while `handle` is.
fn header(handle: &unix::Library) -> Result<&'static LibHeader, LoadError> {
    // SAFETY: the symbol's name is `abi_stable`'s own; what stands under it is this type in every version.
    let symbol = unsafe { handle.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
        .map_err(|_| LoadError::NoModule)?;
    symbol
        .upgrade()
        .map_err(|error| LoadError::Version(one_line(&error.to_string())))
}

/// The error the plugin wrote; its text as a whole where it is not the JSON it should be.
fn settings_error(text: &str) -> SettingsError {
    serde_json::from_str(text).unwrap_or_else(|_| SettingsError {
        path: String::new(),
        message: text.to_owned(),
    })
}

/// What `dlopen` said: `libloading` keeps it in the source.
fn source_text(error: &libloading::Error) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    one_line(&text)
}

/// The words of `text` with single spaces between them.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
