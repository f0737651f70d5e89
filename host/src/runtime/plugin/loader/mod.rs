//! Opens and closes libraries and turns their C functions into safe Rust. All unsafe code of the plugin runtime is here and below.
//!
//! 1. [`Library::load`] maps the staged file and finds the plugin's module. It compares no layout: the [probe](super::probe) has
//!    done that with the same bytes, by [`Library::open_checked`].
//! 2. [`Library::init`] makes the plugin's value, on the thread of shard 0: an [`Instance`].
//! 3. [`Instance::open_shard`] makes a [`ShardInstance`] on each shard's thread; it never leaves that thread.
//! 4. [`ShardInstance::handle`] hands over batches of events.
//! 5. [`ShardInstance::close`] on each shard, [`Instance::shutdown`] on shard 0, and [`Library::close`] when the shards have ended.
//!    A library that is dropped without that stays mapped.
//!
//! The process belongs to the host: [`signals`] keeps its signal handlers, [`code`] tells whose an address is, [`crash`] writes
//! down who ended the process, and [`leave`] ends it without running code of libraries.
//!
//! Never here: `abi_stable`'s `load_from_*`, which load each module type once for ever; `check_layout` in the serving process,
//! which keeps pointers into the library.
#![allow(unsafe_code, reason = "calls into libraries by the contract of bennu_plugin::abi")]

mod ask;
mod calls;
mod code;
pub(in crate::runtime::plugin) mod crash;
mod host_calls;
mod instance;
mod layout;
pub(crate) mod leave;
pub(crate) mod lock;
mod objects;
pub(crate) mod signals;
pub(in crate::runtime::plugin) mod stack;
#[cfg(test)]
mod tests;
mod text;
mod unload;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use bennu_plugin::abi::{Bytes, ModuleRef};
use bennu_plugin::wire::SettingsError;
use libloading::os::unix;

pub(crate) use self::ask::whose_code;
pub(crate) use self::calls::{Calls, Effect, Event, Go, Outcome};
pub(crate) use self::code::{Owner, owner_of};
pub(crate) use self::host_calls::{COMPLETE, HostCalls, Line, SEND, Value};
pub(crate) use self::instance::{Instance, ShardInstance};
pub(crate) use self::layout::LayoutError;
use self::objects::Finalizer;
use self::text::Text;
pub(in crate::runtime::plugin) use self::text::said;
pub(crate) use self::unload::Kept;
use super::elf::Facts;
use super::mapping::Mapping;
use super::references::Born;
use super::stage::StagedFile;
use super::static_tls::NoRoom;

/// A mapped library. [`Library::close`] unmaps it; if it is dropped without that, it stays mapped.
pub(crate) struct Library {
    /// `None` once it is closed.
    handle: Option<unix::Library>,
    module: ModuleRef,
    path: PathBuf,
    staged: Option<StagedFile>,
    facts: Facts,
    owner: &'static Owner,
    hash: String,
    /// What its destructors are; run once, when it is closed.
    finalizers: Vec<Finalizer>,
    /// What was there before it.
    born: Born,
}

/// Whose library is loaded: for the log, and for whoever reads what a crash has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadedFor<'a> {
    /// The plugin's name in the configuration.
    pub(crate) plugin: &'a str,
    /// Which load of it.
    pub(crate) generation: u64,
    /// How long the load may wait for another that is under way.
    pub(crate) patience: Duration,
}

/// Why a library could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The system's loader refused it: a missing symbol or library, most often.
    #[error("the system's loader refused it: {0}")]
    Open(String),
    /// The process has no room left for its static thread-locals.
    #[error(transparent)]
    StaticTls(#[from] NoRoom),
    /// Another library has the system's loader.
    #[error(transparent)]
    Busy(#[from] lock::User),
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
            Self::StaticTls(_) => "static_tls",
            Self::Busy(_) => "loader_busy",
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
    pub(crate) fn load(staged: StagedFile, of: LoadedFor<'_>) -> Result<Arc<Self>, LoadError> {
        let path = staged.path().to_owned();
        Self::map(path, Some(staged), of, |_| Ok(())).map(Arc::new)
    }

    /// Maps a file and compares the layouts of everything that crosses the boundary.
    ///
    /// Only for a process that ends soon: what the comparison keeps points into the library.
    ///
    /// # Errors
    ///
    /// As [`Library::load`], and if a layout differs.
    pub(crate) fn open_checked(path: &Path) -> Result<Arc<Self>, LoadError> {
        let of = LoadedFor {
            plugin: "probe",
            generation: 0,
            // Nothing else loads libraries in the probe.
            patience: Duration::from_secs(10),
        };
        Self::map(path.to_owned(), None, of, |header| {
            layout::compare(header).map_err(LoadError::from)
        })
        .map(Arc::new)
    }

    fn map(
        path: PathBuf,
        staged: Option<StagedFile>,
        of: LoadedFor<'_>,
        compare: impl FnOnce(&'static LibHeader) -> Result<(), LoadError>,
    ) -> Result<Self, LoadError> {
        signals::remember();
        leave::plugins_are_loaded();
        let hash = staged
            .as_ref()
            .map_or_else(String::new, |staged| format!("{:#}", staged.hash()));
        let facts = staged
            .as_ref()
            .map_or_else(|| Facts::of_file(&path), |staged| *staged.facts());
        let using = lock::enter(of.plugin, "loading a library", of.patience)?;
        let (born, before) = (Born::now(facts.uses_on_exit), objects::all());
        // SAFETY: running the library's constructors is what loading a plugin means; the operator named this file, and
        // a child process has run them before.
        let open = || unsafe { unix::Library::open(Some(&path), unix::RTLD_NOW | unix::RTLD_LOCAL) };
        let handle = crash::during("load", open).map_err(|error| refused(&source_text(&error), &facts))?;
        let owner = Owner::new(of.plugin, of.generation, &hash);
        let loaded = objects::since(&before);
        drop(using);
        code::add(owner, &loaded);
        let is_own = |object: &&objects::Object| {
            object.is(&path) || staged.as_ref().is_some_and(|staged| staged.has(&object.path))
        };
        // SAFETY: they are loaded, and only `Library::close` unloads them.
        let own = loaded
            .iter()
            .filter(is_own)
            .map(|object| unsafe { object.take_finalizers() });
        let finalizers = own.collect::<Vec<_>>().concat();
        // From here on it must not be unmapped by the way.
        let handle = std::mem::ManuallyDrop::new(handle);
        let header = header(&handle)?;
        compare(header)?;
        // SAFETY: the layouts were compared, just now or in the probe child with the same bytes.
        let module = unsafe { header.init_root_module_with_unchecked_layout::<ModuleRef>() }
            .map_err(|error| LoadError::Version(one_line(&error.to_string())))?;
        Ok(Self {
            handle: Some(std::mem::ManuallyDrop::into_inner(handle)),
            module,
            path,
            staged,
            facts,
            owner,
            hash,
            finalizers,
            born,
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

    /// Tells after the library is closed whether it is really gone.
    #[must_use]
    pub(crate) fn mapping(&self) -> Mapping {
        Mapping::of(&self.path)
    }

    /// What its file says about how it can be unloaded.
    #[must_use]
    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // Dropping the handle would unmap it, whoever runs in it. And the process may still need the staged file, for backtraces.
        if let Some(handle) = self.handle.take() {
            std::mem::forget(handle);
            std::mem::forget(self.staged.take());
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Has the system unmap a closed library whose threads had not quite ended when it was closed. The system does so only when
/// something is closed: here the library itself, if it is still there.
fn unload_again(path: &Path) {
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

/// Why the system refused a library with these facts, from what it says.
fn refused(said: &str, facts: &Facts) -> LoadError {
    match facts.static_tls {
        Some(bytes) if said.contains("static TLS") => NoRoom { bytes }.into(),
        _ if said.contains("cannot open shared object file") => LoadError::Open(format!(
            "{said}; if it lies beside the plugin, link the plugin with `-Wl,-rpath,$ORIGIN`"
        )),
        _ => LoadError::Open(said.to_owned()),
    }
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
