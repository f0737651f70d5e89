//! The code under test: that of this crate, or a library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use abi_stable::library::RawLibrary;
use serde_json::Value;

use super::boundary;
use crate::abi::{ABI_MAJOR, ModuleRef};
use crate::manifest::{self, Manifest};

/// Code of a plugin that a [`Server`](super::Server) can run.
#[derive(Clone)]
pub struct Code {
    pub(super) module: ModuleRef,
    pub(super) manifest: Manifest,
}

/// A type that stands for a plugin: the first type in [`export_plugin!`](crate::export_plugin) or
/// [`test_plugin!`](crate::test_plugin).
pub trait Exported {
    /// Its code.
    #[doc(hidden)]
    fn code() -> Code;
}

impl Code {
    /// Code of this crate. The kit calls it through its C functions, as the host does, but loads nothing.
    #[must_use]
    pub fn of<E: Exported>() -> Self {
        E::code()
    }

    #[doc(hidden)]
    #[must_use]
    pub fn new(module: ModuleRef, manifest: Manifest) -> Self {
        Self { module, manifest }
    }

    /// The library of a package of this workspace. Builds it with `cargo build --package …`, loads it as the host does, and compares
    /// the layouts of the boundary.
    ///
    /// It uses the cargo that runs the test, and the `dev` profile.
    ///
    /// # Panics
    ///
    /// If the library cannot be built or loaded. Says why.
    #[must_use]
    #[track_caller]
    pub fn built(package: &str) -> Self {
        match build(package).and_then(|library| Self::load(&library)) {
            Ok(code) => code,
            Err(why) => panic!("the package `{package}`: {why}"),
        }
    }

    /// A library that exists already. Each call copies and loads it again, so later changes of the file do not matter.
    ///
    /// # Panics
    ///
    /// If the library cannot be loaded. Says why.
    #[must_use]
    #[track_caller]
    pub fn library(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match Self::load(path) {
            Ok(code) => code,
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }

    fn load(path: &Path) -> Result<Self, String> {
        static COPIES: AtomicU64 = AtomicU64::new(1);
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read the library: {error}"))?;
        let manifest =
            find_manifest(&bytes).ok_or("the library has no manifest: call `export_plugin!` in its `lib.rs`")?;
        if manifest.abi_major != ABI_MAJOR {
            return Err(format!(
                "the library was built for version {} of the ABI, this kit has version {ABI_MAJOR}",
                manifest.abi_major
            ));
        }
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let copy = std::env::temp_dir().join(format!("bennu-test-{}-{number}.so", std::process::id()));
        std::fs::write(&copy, bytes)
            .map_err(|error| format!("cannot copy the library to {}: {error}", copy.display()))?;
        let loaded = RawLibrary::load_at(&copy);
        // The mapping stays.
        let _ = std::fs::remove_file(&copy);
        let module = boundary::module_of(loaded.map_err(|error| format!("cannot load the library: {error}"))?)
            .map_err(|error| format!("the library does not fit this version of bennu-plugin: {error}"))?;
        Ok(Self { module, manifest })
    }

    /// Whether a broadcast of this event goes through `handle_out`.
    pub(super) fn intercepts(&self, event: &str) -> bool {
        let end = self.manifest.intercepts.iter().position(|byte| *byte == 0);
        let names = &self.manifest.intercepts[..end.unwrap_or(manifest::INTERCEPTS_LEN)];
        !names.is_empty() && names.split(|byte| *byte == b'\n').any(|name| name == event.as_bytes())
    }

    /// Fails if it does not read state of this version.
    pub(super) fn check_reads(&self, version: u32) -> Result<(), String> {
        let (from, to) = (self.manifest.reads_from, self.manifest.reads_to);
        if (from..=to).contains(&version) {
            return Ok(());
        }
        Err(format!(
            "the state has version {version}, the code reads {from} to {to} (READS_FROM, READS_TO)"
        ))
    }
}

/// Builds the library of a package with cargo. Returns its path.
fn build(package: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--lib",
        "--package",
        package,
        "--message-format",
        "json-render-diagnostics",
    ]);
    if let Some(folder) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(folder);
    }
    let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo cannot build it:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let name = package.replace('-', "_");
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut artifacts = messages.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let library = artifacts.find_map(|message| {
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == *name;
        let files = message["filenames"].as_array().filter(|_| ours)?;
        let mut paths = files.iter().filter_map(Value::as_str).map(PathBuf::from);
        paths.find(|path| path.extension().is_some_and(|extension| extension == "so"))
    });
    library.ok_or_else(|| "it has no library that can be loaded: set `crate-type` to `[\"cdylib\"]`".to_owned())
}

/// The manifest in a library.
fn find_manifest(library: &[u8]) -> Option<Manifest> {
    let mut from = 0;
    loop {
        let found = library[from..]
            .windows(manifest::MAGIC.len())
            .position(|bytes| bytes == manifest::MAGIC)?;
        let at = from + found;
        // The magic may also stand elsewhere, where no manifest follows.
        match boundary::manifest_at(&library[at..]).filter(|manifest| manifest.size as usize >= manifest::SIZE) {
            Some(manifest) => return Some(manifest),
            None => from = at + 1,
        }
    }
}
