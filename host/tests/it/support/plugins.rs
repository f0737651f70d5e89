//! The plugins as real libraries, each variant built once.
//!
//! They are taken from the folder that `BENNU_PLUGINS` names, or built by cargo into a target directory of their own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// A library that a test can put in a plugin's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// The plugin to copy.
    Echo,
    /// The plugin to show.
    Room,
    /// The plugin to test against.
    Misbehave,
    /// With the next version of its state.
    MisbehaveV2,
    /// That never reads the state of another generation.
    MisbehaveBadRestore,
    /// Whose state has a field under another name.
    MisbehaveRenamed,
    /// The same, with the old name as an alias.
    MisbehaveAliased,
    /// Whose state cannot be read from the beginning.
    MisbehaveUnreadable,
    /// That panics at every event of a client.
    MisbehavePanics,
    /// That does what `MISBEHAVE_AT_LOAD` says while it is loaded.
    MisbehaveAtLoad,
    /// Built so that its first panic ends the process.
    MisbehaveAborts,
    /// The plugin to count with.
    Ledger,
    /// With the next version of its state.
    LedgerV2,
    /// That has an async runtime.
    LedgerRuntime,
    /// That refuses its settings.
    LedgerRefuses,
    /// That needs a setting which the others do not know.
    LedgerNeeds,
    /// That aborts in the probe.
    LedgerCrashes,
    /// That reads no state that is there.
    LedgerStranger,
    /// That panics whenever a number is put.
    LedgerPanics,
    /// That does, with a version of the state that no other reads.
    LedgerPanicsV3,
    /// The plugin for Supabase's clients.
    Realtime,
    /// The plugin that asks a database.
    Lookup,
    /// The plugin that leaves things in the process.
    Leaves,
    /// That has thread-locals of the executable's model.
    StaticTls,
    /// That needs a library beside it; see [`Build::helper`].
    Companion,
    /// That has a function called when the process exits.
    ExitHook,
    /// The plugin that is also built with an old kit.
    Veteran,
    /// That, built with the kit of ABI 1.4.
    VeteranOld,
}

impl Build {
    const ALL: [Self; 28] = [
        Self::Echo,
        Self::Room,
        Self::Misbehave,
        Self::MisbehaveV2,
        Self::MisbehaveBadRestore,
        Self::MisbehaveRenamed,
        Self::MisbehaveAliased,
        Self::MisbehaveUnreadable,
        Self::MisbehavePanics,
        Self::MisbehaveAtLoad,
        Self::MisbehaveAborts,
        Self::Ledger,
        Self::LedgerV2,
        Self::LedgerRuntime,
        Self::LedgerRefuses,
        Self::LedgerNeeds,
        Self::LedgerCrashes,
        Self::LedgerStranger,
        Self::LedgerPanics,
        Self::LedgerPanicsV3,
        Self::Realtime,
        Self::Lookup,
        Self::Leaves,
        Self::StaticTls,
        Self::Companion,
        Self::ExitHook,
        Self::Veteran,
        Self::VeteranOld,
    ];

    /// The folder that all of them lie in.
    pub(crate) fn folder() -> &'static Path {
        &FOLDER
    }

    /// Where it lies.
    pub(crate) fn path(self) -> PathBuf {
        FOLDER.join(self.file_name())
    }

    /// What it holds.
    pub(crate) fn bytes(self) -> Vec<u8> {
        fs::read(self.path()).unwrap_or_else(|error| panic!("{} is not there: {error}", self.path().display()))
    }

    /// The library that lies beside [`Build::Companion`], in version 1 or 2.
    pub(crate) fn helper(version: u32) -> PathBuf {
        FOLDER
            .join("companions")
            .join(version.to_string())
            .join("libhelper.so.1")
    }

    /// The plugin that it is a build of.
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Room => "room",
            Self::Realtime => "realtime",
            Self::Lookup => "lookup",
            Self::Leaves => "leaves",
            Self::StaticTls => "static_tls",
            Self::Companion => "companion",
            Self::ExitHook => "exit_hook",
            Self::Veteran | Self::VeteranOld => "veteran",
            Self::Ledger
            | Self::LedgerV2
            | Self::LedgerRuntime
            | Self::LedgerRefuses
            | Self::LedgerNeeds
            | Self::LedgerCrashes
            | Self::LedgerStranger
            | Self::LedgerPanics
            | Self::LedgerPanicsV3 => "ledger",
            _ => "misbehave",
        }
    }

    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Echo | Self::Room | Self::Misbehave | Self::MisbehaveAborts | Self::Ledger | Self::Lookup => None,
            Self::Realtime => None,
            Self::Leaves | Self::StaticTls | Self::Companion | Self::ExitHook => None,
            Self::Veteran | Self::VeteranOld => None,
            Self::MisbehaveV2 | Self::LedgerV2 => Some("v2"),
            Self::MisbehaveBadRestore => Some("bad_restore"),
            Self::MisbehaveRenamed => Some("renamed"),
            Self::MisbehaveAliased => Some("aliased"),
            Self::MisbehaveUnreadable => Some("unreadable"),
            Self::MisbehavePanics | Self::LedgerPanics => Some("panics"),
            Self::MisbehaveAtLoad => Some("at_load"),
            Self::LedgerRuntime => Some("runtime"),
            Self::LedgerRefuses => Some("refuses"),
            Self::LedgerNeeds => Some("needs"),
            Self::LedgerCrashes => Some("crashes"),
            Self::LedgerStranger => Some("stranger"),
            Self::LedgerPanicsV3 => Some("panics_v3"),
        }
    }

    fn file_name(self) -> String {
        let plugin = self.plugin();
        match self.feature() {
            Some(feature) => format!("lib{plugin}-{feature}.so"),
            None if self == Self::MisbehaveAborts => format!("lib{plugin}-aborts.so"),
            None if self == Self::VeteranOld => format!("lib{plugin}-abi-1.4.so"),
            None => format!("lib{plugin}.so"),
        }
    }
}

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("BENNU_PLUGINS") {
    Some(folder) => folder.into(),
    None => build_all().expect("the plugins are built"),
});

fn build_all() -> io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-plugins-build");
    let folder = target.join("variants");
    fs::create_dir_all(&folder)?;
    // Cargo uses one file name for all variants of a plugin: only one of us may build and copy.
    let lock = File::create(target.join("lock"))?;
    lock.lock()?;
    for build in Build::ALL {
        let place = folder.join(build.file_name());
        fs::copy(build_one(build, &target), place.with_extension("new"))?;
        fs::rename(place.with_extension("new"), place)?;
    }
    for version in ["1", "2"] {
        let place = Path::new("companions").join(version);
        fs::create_dir_all(folder.join(&place))?;
        let library = place.join("libhelper.so.1");
        fs::copy(target.join("debug").join(&library), folder.join(library))?;
    }
    Ok(folder)
}

/// Where cargo says that it has put the library.
fn build_one(build: Build, target: &Path) -> PathBuf {
    let plugin = build.plugin();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    if plugin == "veteran" {
        let mut script = Command::new("host/tests/veteran/build");
        let status = script.current_dir(root).arg(target).status();
        assert!(status.expect("the script runs").success(), "{plugin} does not build");
        return target.join(plugin).join(build.file_name());
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--message-format=json", "--target-dir"])
        .arg(target)
        .stderr(Stdio::inherit());
    if build == Build::Lookup {
        // A workspace of its own.
        cargo.args(["--manifest-path", "host/tests/lookup/Cargo.toml"]);
    } else {
        cargo.args(["--package", plugin]);
    }
    if build == Build::MisbehaveAborts {
        cargo.env("CARGO_PROFILE_DEV_PANIC", "abort");
    }
    if let Some(feature) = build.feature() {
        cargo.args(["--features", feature]);
    }
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{plugin} does not build");
    let said = String::from_utf8(output.stdout).expect("cargo writes text");
    said.lines()
        .find_map(|line| library_in(line, plugin))
        .unwrap_or_else(|| panic!("cargo names no library of {plugin}"))
}

fn library_in(message: &str, plugin: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == plugin;
    let library = message["filenames"].as_array().filter(|_| is_it)?.first()?.as_str()?;
    library.ends_with(".so").then(|| library.into())
}
