//! What is tested: the code of this crate, or a library as cargo builds it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use abi_stable::library::RawLibrary;
use serde_json::Value;

use super::boundary;
use crate::abi::{ABI_MAJOR, ModuleRef};
use crate::manifest::{self, Manifest};

/// Code of a plugin, ready to be run by a [`Server`](super::Server).
#[derive(Clone)]
pub struct Code {
    pub(super) module: ModuleRef,
    pub(super) manifest: Manifest,
}

/// A type that stands for a plugin: the first one that [`export_plugin!`](crate::export_plugin) or
/// [`test_plugin!`](crate::test_plugin) names.
pub trait Exported {
    /// Its code.
    #[doc(hidden)]
    fn code() -> Code;
}

impl Code {
    /// Code of this crate. It is called as the host calls it, through its C functions, but has not been loaded.
    #[must_use]
    pub fn of<E: Exported>() -> Self {
        E::code()
    }

    #[doc(hidden)]
    #[must_use]
    pub fn new(module: ModuleRef, manifest: Manifest) -> Self {
        Self { module, manifest }
    }

    /// The library that `cargo build --package …` makes of a package of this workspace: built if need be, and loaded as the
    /// host loads it, with the layouts of the boundary compared.
    ///
    /// Cargo is the one that runs the test, its output is in the test's; the library is built for the `dev` profile.
    ///
    /// # Panics
    ///
    /// If it cannot be built or loaded. Says why.
    #[must_use]
    #[track_caller]
    pub fn built(package: &str) -> Self {
        match build(package).and_then(|library| Self::load(&library)) {
            Ok(code) => code,
            Err(why) => panic!("the package `{package}` {why}"),
        }
    }

    /// A library that is built already. It is copied first: what is loaded does not change with the file, and each call
    /// loads it anew.
    ///
    /// # Panics
    ///
    /// If it cannot be loaded. Says why.
    #[must_use]
    #[track_caller]
    pub fn library(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match Self::load(path) {
            Ok(code) => code,
            Err(why) => panic!("{} {why}", path.display()),
        }
    }

    fn load(path: &Path) -> Result<Self, String> {
        static COPIES: AtomicU64 = AtomicU64::new(1);
        let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        let manifest = find_manifest(&bytes).ok_or("has no manifest: `export_plugin!` writes one")?;
        if manifest.abi_major != ABI_MAJOR {
            return Err(format!(
                "speaks version {} of the boundary, not {ABI_MAJOR}",
                manifest.abi_major
            ));
        }
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let copy = std::env::temp_dir().join(format!("bennu-test-{}-{number}.so", std::process::id()));
        std::fs::write(&copy, bytes).map_err(|error| format!("cannot be copied to {}: {error}", copy.display()))?;
        let loaded = RawLibrary::load_at(&copy);
        // What is mapped stays mapped.
        let _ = std::fs::remove_file(&copy);
        let module = boundary::module_of(loaded.map_err(|error| format!("cannot be loaded: {error}"))?)
            .map_err(|error| format!("does not fit this version of bennu-plugin: {error}"))?;
        Ok(Self { module, manifest })
    }

    /// Whether a broadcast of this event goes through `handle_out`.
    pub(super) fn intercepts(&self, event: &str) -> bool {
        let end = self.manifest.intercepts.iter().position(|byte| *byte == 0);
        let names = &self.manifest.intercepts[..end.unwrap_or(manifest::INTERCEPTS_LEN)];
        !names.is_empty() && names.split(|byte| *byte == b'\n').any(|name| name == event.as_bytes())
    }

    /// Whether it reads state of this version; otherwise why not.
    pub(super) fn check_reads(&self, version: u32) -> Result<(), String> {
        let (from, to) = (self.manifest.reads_from, self.manifest.reads_to);
        if (from..=to).contains(&version) {
            return Ok(());
        }
        Err(format!(
            "the state is of version {version}, the code reads {from} to {to} (READS_FROM, READS_TO)"
        ))
    }
}

/// Has cargo build the library of a package; says where it is.
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
    let output = command
        .output()
        .map_err(|error| format!("is not built, cargo does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("is not built:\n{}", String::from_utf8_lossy(&output.stderr)));
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
    library.ok_or_else(|| "makes no library that can be loaded: its `crate-type` must be `[\"cdylib\"]`".to_owned())
}

/// The manifest that stands in a library.
fn find_manifest(library: &[u8]) -> Option<Manifest> {
    let mut from = 0;
    loop {
        let found = library[from..]
            .windows(manifest::MAGIC.len())
            .position(|bytes| bytes == manifest::MAGIC)?;
        let at = from + found;
        // The text may stand elsewhere too: what follows it there is no manifest.
        match boundary::manifest_at(&library[at..]).filter(|manifest| manifest.size as usize >= manifest::SIZE) {
            Some(manifest) => return Some(manifest),
            None => from = at + 1,
        }
    }
}
