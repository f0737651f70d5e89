//! Builds plugins for `bennu dev`, and tells which folders they are built from.
//!
//! The builds have a target directory of their own, and a library is taken only from the artifact message of our own
//! run: another cargo in another terminal writes other bytes for the same source to the usual place. Never here: when to
//! build.

mod build;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde::Deserialize;

pub(crate) use self::build::{Build, Built};

/// The folder of our builds, inside the workspace's target directory.
const TARGET: &str = "bennu-dev";
/// Without it, cargo wants to see the packages that other systems would need.
const PLATFORM: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CargoError {
    /// Cargo can't be run.
    #[error("can't run {}{}", program.display(), where_from(source))]
    Run {
        /// What was to be run: the variable `CARGO`, or `cargo`.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo knows of no workspace here, or can't read it.
    #[error("cargo can't read the workspace: {}{}", gone(.0), .0)]
    Workspace(String),
    /// No package is called like this plugin.
    #[error("the workspace has no package `{0}`")]
    NoPackage(String),
    /// The code does not compile. The text is what the compiler says and then cargo, in colour if that was asked for.
    #[error("{0}")]
    Failed(String),
    /// A package was built but makes no library that can be loaded.
    #[error("the package `{0}` makes no library; set crate-type = [\"cdylib\"]")]
    NoLibrary(String),
}

impl CargoError {
    /// Whether there is no workspace at all, here or above.
    pub(crate) fn is_no_workspace(&self) -> bool {
        matches!(self, Self::Workspace(said) if said.contains("could not find `Cargo.toml`"))
    }
}

/// A cargo workspace, as it was when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<Package>,
    /// Which packages each needs, by id.
    needs: BTreeMap<String, Vec<String>>,
    /// What cargo says of its builds is in colour.
    colours: bool,
}

/// What of `cargo metadata` is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    resolve: Resolve,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    /// Where it was downloaded from; nothing for one that is here.
    source: Option<String>,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(skip)]
    is_member: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

impl Workspace {
    /// Asks cargo about the workspace that `dir` lies in.
    ///
    /// # Errors
    ///
    /// If cargo can't be run or finds none.
    pub(crate) fn find(dir: &Path) -> Result<Self, CargoError> {
        let mut command = cargo();
        command
            .args(["metadata", "--format-version", "1", "--filter-platform", PLATFORM])
            .current_dir(dir)
            .stdin(Stdio::null());
        let output = command.output().map_err(not_run)?;
        if !output.status.success() {
            return Err(CargoError::Workspace(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        let metadata = serde_json::from_slice(&output.stdout);
        metadata
            .map(Self::from_metadata)
            .map_err(|error| CargoError::Workspace(error.to_string()))
    }

    fn from_metadata(mut metadata: Metadata) -> Self {
        metadata.packages.retain(|package| package.source.is_none());
        for package in &mut metadata.packages {
            package.is_member = metadata.workspace_members.contains(&package.id);
        }
        let needs = metadata
            .resolve
            .nodes
            .into_iter()
            .map(|node| (node.id, node.dependencies))
            .collect();
        Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
            needs,
            colours: false,
        }
    }

    /// Has builds speak in colour, errors included.
    #[must_use]
    pub(crate) fn with_colours(self, colours: bool) -> Self {
        Self { colours, ..self }
    }

    /// The folder that `Cargo.toml` of the workspace is in.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether `plugin` is a package of this workspace.
    #[must_use]
    pub(crate) fn has(&self, plugin: &str) -> bool {
        self.package(plugin).is_some()
    }

    /// The packages of this workspace that make a library to load.
    #[must_use]
    pub(crate) fn plugins(&self) -> Vec<&str> {
        let makes_one = |package: &&Package| package.is_member && package.targets.iter().any(Target::is_cdylib);
        { self.packages.iter().filter(makes_one) }
            .map(|package| &*package.name)
            .collect()
    }

    /// Where builds put the library of `plugin`, those of `dev` first; nowhere, if it makes none.
    #[must_use]
    pub(crate) fn library_places(&self, plugin: &str) -> Vec<PathBuf> {
        let targets = self.package(plugin).into_iter().flat_map(|package| &package.targets);
        let Some(library) = { targets }.find(|target| target.is_cdylib()) else {
            return Vec::new();
        };
        let file = format!("debug/lib{}.so", library.name.replace('-', "_"));
        vec![self.target.join(TARGET).join(&file), self.target.join(&file)]
    }

    /// The folders that `plugin` is built from: its own and those of all packages here that it needs, itself first.
    ///
    /// # Errors
    ///
    /// If there is no such package.
    pub(crate) fn source_folders(&self, plugin: &str) -> Result<Vec<PathBuf>, CargoError> {
        let own = self
            .package(plugin)
            .ok_or_else(|| CargoError::NoPackage(plugin.to_owned()))?;
        let (mut folders, mut next) = (Vec::new(), vec![own]);
        while let Some(package) = next.pop() {
            let folder = package.manifest_path.parent().map(Path::to_owned).unwrap_or_default();
            if folders.contains(&folder) {
                continue;
            }
            folders.push(folder);
            let needs = self.needs.get(&package.id).into_iter().flatten();
            next.extend(needs.filter_map(|id| self.packages.iter().find(|package| package.id == *id)));
        }
        Ok(folders)
    }

    /// Starts to build `plugins`; `said` gets each line that cargo writes for people, on another thread.
    ///
    /// # Errors
    ///
    /// If one of them is no package here, or cargo can't be started.
    pub(crate) fn build(&self, plugins: &[&str], said: impl FnMut(&str) + Send + 'static) -> Result<Build, CargoError> {
        if let Some(missing) = plugins.iter().find(|plugin| !self.has(plugin)) {
            return Err(CargoError::NoPackage((*missing).to_owned()));
        }
        let mut command = cargo();
        let messages = if self.colours {
            "json-diagnostic-rendered-ansi"
        } else {
            "json"
        };
        command.args(["build", "--message-format", messages]);
        command.arg("--target-dir").arg(self.target.join(TARGET));
        command.args(["--color", if self.colours { "always" } else { "never" }]);
        for plugin in plugins {
            command.args(["-p", plugin]);
        }
        command
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A group of its own, to be killed whole: a compiler left over would write into the next build.
        command.process_group(0);
        let mut child = command.spawn().map_err(not_run)?;
        let stderr = child
            .stderr
            .take()
            .map(|stderr| thread::spawn(move || build::listen(stderr, said)));
        let wanted = plugins.iter().map(|plugin| self.id(plugin)).collect();
        Ok(Build { child, stderr, wanted })
    }

    fn package(&self, name: &str) -> Option<&Package> {
        self.packages
            .iter()
            .find(|package| package.is_member && package.name == name)
    }

    /// A package's name and what cargo calls it in its messages.
    fn id(&self, name: &str) -> (String, String) {
        (
            name.to_owned(),
            self.package(name).map(|package| package.id.clone()).unwrap_or_default(),
        )
    }
}

/// What a package makes.
#[derive(Clone, Debug, Default, Deserialize)]
struct Target {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

impl Target {
    /// Whether it is a library that can be loaded.
    fn is_cdylib(&self) -> bool {
        self.kind.iter().any(|kind| kind == "cdylib")
    }
}

/// The variable `CARGO`, which cargo sets for what it runs, or the one on the path.
fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// What to do where there is no such program.
fn where_from(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": install Rust, or put cargo into PATH",
        _ => "",
    }
}

/// What to do where cargo says that a package which a manifest names by its path is not there.
fn gone(said: &str) -> String {
    let missing = said
        .split("failed to read `")
        .skip(1)
        .filter_map(|rest| rest.split('`').next());
    let missing = missing
        .map(Path::new)
        .filter(|file| file.ends_with("Cargo.toml") && !file.exists());
    missing
        .last()
        .and_then(Path::parent)
        .map_or_else(String::new, |folder| {
            let folder = folder.display();
            format!(
                "{folder} is gone, which a Cargo.toml of this workspace names as a `path`: say there where it is now\n"
            )
        })
}

fn cargo() -> Command {
    Command::new(program())
}

fn not_run(source: io::Error) -> CargoError {
    CargoError::Run {
        program: program().into(),
        source,
    }
}

#[cfg(test)]
mod tests;
