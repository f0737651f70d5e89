//! Real libraries for the tests of this folder, built once each by cargo or the C compiler.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use object::elf::FileHeader64;
use object::endian::LittleEndian;
use object::read::elf::FileHeader;

use crate::cargo::{Processes, Workspace};

/// The name in the manifest of the plugin that [`good_plugin`] builds.
pub(super) const NAME: &str = "raw_good";

/// A plugin against the bare contract, which does what its settings and events tell it to.
const SOURCE: &str = include_str!("raw_plugin.rs.txt");

/// A plugin that keeps the contract.
pub(super) fn good_plugin() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build(NAME, |abi| abi))
}

/// The plugin `echo` of this repository, built with the kit as authors do.
pub(super) fn echo_plugin() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let processes = Processes::default();
        let workspace = Workspace::find(&repository(), &processes, |_| ()).unwrap();
        let stage = Arc::new(workspace.stage().unwrap());
        let built = workspace.build(&["echo"], &stage, &processes, |_| ()).unwrap().wait();
        built.unwrap().plugins.remove("echo").unwrap().unwrap().path
    })
}

/// The same as [`good_plugin`], built against a contract that `edit` changed.
pub(super) fn lying_plugin(name: &str, from: &str, to: &str) -> PathBuf {
    build(name, |abi| {
        assert!(abi.contains(from), "the contract has no {from:?}");
        abi.replacen(from, to, 1)
    })
}

/// The bytes of [`good_plugin`].
pub(super) fn good_plugin_bytes() -> Vec<u8> {
    fs::read(good_plugin()).unwrap()
}

/// Lends the bytes of [`good_plugin`], to be damaged; they are whole again the next time.
pub(super) fn with_good_plugin(damage: impl FnOnce(&mut Vec<u8>)) {
    static BYTES: LazyLock<(Vec<u8>, Mutex<Vec<u8>>)> = LazyLock::new(|| {
        let bytes = good_plugin_bytes();
        (bytes.clone(), Mutex::new(bytes))
    });
    let (whole, lent) = &*BYTES;
    let mut lent = lent.lock().unwrap();
    damage(&mut lent);
    for at in tables(whole) {
        lent[at] = whole[at];
    }
}

/// Where a library's header, program headers, section table and section names stand.
pub(super) fn tables(bytes: &[u8]) -> Vec<usize> {
    static TABLES: OnceLock<Vec<usize>> = OnceLock::new();
    let find = || {
        let header = FileHeader64::<LittleEndian>::parse(bytes).unwrap();
        let sections = usize::try_from(header.e_shoff.get(LittleEndian)).unwrap();
        (0..4096).chain(sections..bytes.len()).collect()
    };
    TABLES.get_or_init(find).clone()
}

/// A shared library that is no plugin.
pub(super) fn plain_library() -> Vec<u8> {
    fs::read(c_library("plain", "int answer(void) { return 42; }")).unwrap()
}

/// Compiles C to a shared library.
pub(super) fn c_library(name: &str, source: &str) -> PathBuf {
    c_library_with(name, source, &[])
}

/// The same with more arguments for the compiler.
pub(super) fn c_library_with(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let dir = folder().join("c");
    fs::create_dir_all(&dir).unwrap();
    // Tests run at the same time, in several processes too: each writes its own file and then moves it.
    let own = dir.join(format!("{name}-{}", std::process::id()));
    let (text, library) = (own.with_extension("c"), own.with_extension("so"));
    fs::write(&text, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&text)
        .args(arguments)
        .status();
    assert!(status.unwrap().success(), "cc failed");
    fs::remove_file(text).unwrap();
    let place = dir.join(name).with_extension("so");
    fs::rename(library, &place).unwrap();
    place
}

/// A new folder for one test, removed with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "bennu-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        // Without links, so that paths can be compared.
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Writes a file below the folder, and the folders between.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Builds the plugin as package `name` in a workspace of its own, with its own copy of the contract.
fn build(name: &str, edit: impl FnOnce(String) -> String) -> PathBuf {
    let (root, dir) = (repository(), folder().join(name));
    // Its own name: cargo tells packages of one target folder apart by their place in the workspace.
    let api = format!("{name}-api");
    for file in [
        "Cargo.toml",
        "src/manifest.rs",
        "src/wire.rs",
        "src/abi/effect.rs",
        "src/abi/event.rs",
    ] {
        let text = fs::read_to_string(root.join("plugin-api").join(file)).unwrap();
        write_if_new(&dir.join(&api).join(file), &text);
    }
    let abi = fs::read_to_string(root.join("plugin-api/src/abi.rs")).unwrap();
    write_if_new(&dir.join(&api).join("src/abi.rs"), &edit(abi));
    // The contract only: the kit would not compile with a changed one.
    let modules = "#![allow(missing_docs)]\npub mod abi;\npub mod manifest;\npub mod wire;\n";
    write_if_new(&dir.join(&api).join("src/lib.rs"), modules);
    write_if_new(
        &dir.join("Cargo.toml"),
        &workspace_manifest(&root).replace("\"plugin-api\"", &format!("{api:?}")),
    );
    fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    write_if_new(&dir.join("raw/Cargo.toml"), &package_manifest(name));
    write_if_new(&dir.join("raw/src/lib.rs"), SOURCE);
    let target = folder().join("target");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "-p", name, "--target-dir"])
        .arg(&target)
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug").join(format!("lib{name}.so"))
}

/// This repository's, reduced to the contract and the plugin.
fn workspace_manifest(root: &Path) -> String {
    let text = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("default-members"));
    let lines = lines.take_while(|line| !line.starts_with("[profile."));
    let lines = lines.map(|line| {
        if line.starts_with("members") {
            "members = [\"plugin-api\", \"raw\"]"
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn package_manifest(name: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"1.2.3\"\nedition.workspace = true\n\n\
         [lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nbennu-plugin.workspace = true\nabi_stable.workspace = true\n"
    )
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where these libraries are built.
fn folder() -> PathBuf {
    repository().join("target/plugin-tests")
}

/// Leaves a file that is right as it is, so that cargo does not build again.
fn write_if_new(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return;
    }
    fs::write(path, text).unwrap();
}
