//! Builds plugins for `bennu dev`, and says which files they are built from.
//!
//! A build uses the target directory and the profile of the workspace, as `cargo build` does: what either has compiled, the
//! other uses. All plugins are built by one cargo command, so that they need their dependencies with the same features each
//! time. Another cargo may write to the same files as soon as ours has ended: so a library is taken only from a message of our
//! own cargo, and copied while that runs. Never here: when to build.

mod build;
mod inputs;
mod processes;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::thread;

use serde::Deserialize;

pub(crate) use self::build::{Build, Outcome};
pub(crate) use self::inputs::listed;
pub(crate) use self::processes::Processes;
pub(crate) use self::stage::Stage;
use build::Wanted;

/// Without it, cargo wants to read the packages that other systems would need.
const PLATFORM: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CargoError {
    /// Cargo cannot be run.
    #[error("cannot run {}{}", program.display(), where_from(source))]
    Run {
        /// The variable `CARGO`, or `cargo`.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo finds no workspace, or cannot read it.
    #[error("cargo cannot read the workspace: {}{}", gone(.0), .0)]
    Workspace(String),
    /// No package is called like this plugin.
    #[error("the workspace has no package `{0}`")]
    NoPackage(String),
    /// The code does not compile. The text is what the compiler says, then what cargo says; in colour if that was asked for.
    #[error("{0}")]
    Failed(String),
    /// The package makes no library that can be loaded.
    #[error("the package `{0}` makes no library; set crate-type = [\"cdylib\"] in its [lib]")]
    NoLibrary(String),
    /// The library cannot be copied.
    #[error("cannot copy {}: {source}", library.display())]
    Copy {
        /// What cargo has built.
        library: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The target directory cannot be written to.
    #[error("cannot write to the target directory {}: {source}", target.display())]
    Target {
        /// The directory.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo, or a program that it has started, wants to read from the terminal.
    #[error(
        "cargo, or a program that it has started such as git, asks for something at the terminal, which it cannot have here: \
         run `cargo fetch` yourself, and answer"
    )]
    Asks,
    /// [`Processes::stop`] was called.
    #[error("the build was stopped")]
    Stopped,
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
    /// Where cargo puts what it compiles on the way; mostly the same as `target`.
    build: PathBuf,
    packages: Vec<Package>,
    /// The names of all packages, by id, those that are downloaded among them.
    names: BTreeMap<String, String>,
    /// Which packages each needs, by id.
    needs: BTreeMap<String, Vec<String>>,
    /// Whether cargo and the compiler write in colour.
    colours: bool,
}

/// What of `cargo metadata` is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    #[serde(default)]
    build_directory: Option<PathBuf>,
    resolve: Resolve,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    /// Where it was downloaded from; `None` for a package on this computer.
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
    /// Asks cargo about the workspace that `dir` lies in. `said` gets each line that cargo writes for people, on another thread.
    ///
    /// # Errors
    ///
    /// If cargo cannot be run or finds no workspace.
    pub(crate) fn find(
        dir: &Path,
        processes: &Processes,
        said: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, CargoError> {
        let mut command = cargo();
        command
            .args(["metadata", "--format-version", "1", "--filter-platform", PLATFORM])
            .current_dir(dir);
        let mut process = processes.spawn(quiet(&mut command))?;
        let stderr = { process.child.stderr.take() }.map(|stderr| thread::spawn(move || build::listen(stderr, said)));
        let mut metadata = Vec::new();
        if let Some(mut stdout) = process.child.stdout.take() {
            io::Read::read_to_end(&mut stdout, &mut metadata).map_err(not_run)?;
        }
        let status = process.wait()?;
        let said = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
        if processes.is_stopped() {
            return Err(CargoError::Stopped);
        }
        if !status.success() {
            return Err(CargoError::Workspace(said.trim().to_owned()));
        }
        let metadata = serde_json::from_slice(&metadata);
        metadata
            .map(Self::from_metadata)
            .map_err(|error| CargoError::Workspace(error.to_string()))
    }

    fn from_metadata(mut metadata: Metadata) -> Self {
        let names = { metadata.packages.iter() }.map(|package| (package.id.clone(), package.name.clone()));
        let names = names.collect();
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
            build: metadata
                .build_directory
                .unwrap_or_else(|| metadata.target_directory.clone()),
            target: metadata.target_directory,
            packages: metadata.packages,
            names,
            needs,
            colours: false,
        }
    }

    /// Asks cargo and the compiler for colours.
    #[must_use]
    pub(crate) fn with_colours(self, colours: bool) -> Self {
        Self { colours, ..self }
    }

    /// The folder that `Cargo.toml` of the workspace is in.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that cargo builds into.
    #[must_use]
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Whether `plugin` is a package of this workspace.
    #[must_use]
    pub(crate) fn has(&self, plugin: &str) -> bool {
        self.package(plugin).is_some()
    }

    /// The packages of this workspace that make a library that can be loaded.
    #[must_use]
    pub(crate) fn plugins(&self) -> Vec<&str> {
        let makes_one = |package: &&Package| package.is_member && package.targets.iter().any(Target::is_cdylib);
        { self.packages.iter().filter(makes_one) }
            .map(|package| &*package.name)
            .collect()
    }

    /// Where cargo puts the library of `plugin`, if it makes one.
    #[must_use]
    pub(crate) fn library_place(&self, plugin: &str) -> Option<PathBuf> {
        let library = { self.package(plugin)?.targets.iter() }.find(|target| target.is_cdylib())?;
        let file = format!("debug/lib{}.so", library.name.replace('-', "_"));
        Some(self.target.join(file))
    }

    /// The folders of the packages that `plugin` is built from and that are on this computer: its own first, then those that it
    /// needs.
    ///
    /// # Errors
    ///
    /// If there is no such package.
    pub(crate) fn source_folders(&self, plugin: &str) -> Result<Vec<PathBuf>, CargoError> {
        match self.local_packages(plugin) {
            packages if packages.is_empty() => Err(CargoError::NoPackage(plugin.to_owned())),
            packages => Ok(packages.into_iter().map(Package::folder).collect()),
        }
    }

    /// A package and all that it needs, as far as they are not downloaded: itself first.
    fn local_packages(&self, plugin: &str) -> Vec<&Package> {
        let own = self.package(plugin).map(|package| &package.id);
        let needed = own.into_iter().flat_map(|id| self.needed(id));
        let local = |id: &String| self.packages.iter().find(|package| package.id == *id);
        needed.filter_map(local).collect()
    }

    /// The ids of a package and of all that it needs, itself first.
    fn needed<'a>(&'a self, id: &'a String) -> Vec<&'a String> {
        let (mut found, mut next) = (Vec::new(), vec![id]);
        let mut known = BTreeSet::new();
        while let Some(id) = next.pop() {
            if known.insert(id) {
                found.push(id);
                next.extend(self.needs.get(id).into_iter().flatten());
            }
        }
        found
    }

    /// Takes the place for copies of libraries that is used by this process alone.
    ///
    /// # Errors
    ///
    /// If the target directory cannot be written to.
    pub(crate) fn stage(&self) -> Result<Stage, CargoError> {
        Stage::open(&self.target).map_err(|source| CargoError::Target {
            target: self.target.clone(),
            source,
        })
    }

    /// Starts to build `plugins`; `said` gets each line that cargo writes for people, on another thread. A plugin that does not compile
    /// does not keep cargo from building the others.
    ///
    /// # Errors
    ///
    /// If one of them is no package here, or cargo cannot be started.
    pub(crate) fn build(
        &self,
        plugins: &[&str],
        stage: &Arc<Stage>,
        processes: &Processes,
        said: impl FnMut(&str) + Send + 'static,
    ) -> Result<Build, CargoError> {
        let wanted = plugins
            .iter()
            .map(|plugin| self.wanted(plugin))
            .collect::<Result<Vec<_>, _>>()?;
        let mut command = cargo();
        let messages = if self.colours {
            "json-diagnostic-rendered-ansi"
        } else {
            "json"
        };
        command
            .args(["build", "--keep-going", "--message-format", messages])
            .args(["--color", if self.colours { "always" } else { "never" }])
            .current_dir(&self.root);
        for plugin in &wanted {
            command.args(["-p", self.spec(plugin)]);
        }
        let mut process = processes.spawn(quiet(&mut command))?;
        let stderr = { process.child.stderr.take() }.map(|stderr| thread::spawn(move || build::listen(stderr, said)));
        Ok(Build {
            process,
            processes: processes.clone(),
            stderr,
            stage: Arc::clone(stage),
            wanted,
        })
    }

    fn wanted(&self, plugin: &str) -> Result<Wanted, CargoError> {
        let package = self
            .package(plugin)
            .ok_or_else(|| CargoError::NoPackage(plugin.to_owned()))?;
        let needed = self.needed(&package.id).into_iter();
        Ok(Wanted {
            plugin: plugin.to_owned(),
            id: package.id.clone(),
            packages: needed.map(|id| (id.clone(), self.name(id))).collect(),
        })
    }

    /// What cargo knows a plugin by: its name, or its id if another package has the same name.
    fn spec<'a>(&self, wanted: &'a Wanted) -> &'a str {
        match self.names.values().filter(|name| **name == wanted.plugin).count() {
            0 | 1 => &wanted.plugin,
            _ => &wanted.id,
        }
    }

    /// The manifests of all packages of the workspace.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = PathBuf> {
        let members = self.packages.iter().filter(|package| package.is_member);
        members.map(|package| package.manifest_path.clone())
    }

    /// The name of a package, downloaded or not.
    fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_default()
    }

    fn package(&self, name: &str) -> Option<&Package> {
        self.packages
            .iter()
            .find(|package| package.is_member && package.name == name)
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
    /// Whether it is a library of any kind.
    fn is_library(&self) -> bool {
        let of_libraries = |kind: &String| kind.ends_with("lib") || kind == "proc-macro";
        self.kind.iter().any(of_libraries)
    }

    /// Whether it is a library that can be loaded.
    fn is_cdylib(&self) -> bool {
        self.kind.iter().any(|kind| kind == "cdylib")
    }
}

/// The variable `CARGO`, which cargo sets for what it runs, or the one in `PATH`.
fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// What to do if there is no such program.
fn where_from(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound if std::env::var_os("CARGO").is_some() => ", which the variable CARGO names: unset it",
        io::ErrorKind::NotFound => ": install Rust, or put cargo into PATH",
        _ => "",
    }
}

/// What to do if cargo says that a package is not at the path that a manifest names.
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
            let is_pattern = folder.ends_with("*");
            let folder = folder.display();
            match is_pattern {
                true => format!("there is no package in {folder}: `bennu new NAME` makes one\n"),
                false => format!(
                    "a Cargo.toml of this workspace has the `path` {folder}, and that folder is gone: write where it is now\n"
                ),
            }
        })
}

/// The folder whose workspace a configuration belongs to: that in which it is named or, if there is no workspace around it, that of
/// the file that a link leads to.
///
/// # Errors
///
/// If there is no such file.
pub(crate) fn folder_of(configuration: &Path) -> io::Result<PathBuf> {
    let real = configuration.canonicalize()?;
    let named = match configuration.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let named = named.canonicalize()?;
    let is_in_workspace = named.ancestors().any(|folder| folder.join("Cargo.toml").is_file());
    Ok(match real.parent() {
        Some(real) if !is_in_workspace => real.to_owned(),
        _ => named,
    })
}

/// Variables in which a relative path starts at the folder that cargo runs in.
const FOLDERS: [&str; 4] = [
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
];

/// Those of them that are set, from the folder on that we were started in, as for a cargo that is called there. Ours runs in others.
static SET_FOLDERS: LazyLock<Vec<(&str, PathBuf)>> = LazyLock::new(|| {
    let set = FOLDERS
        .iter()
        .filter_map(|name| Some((*name, PathBuf::from(std::env::var_os(name)?))));
    // `{workspace-root}` is for cargo to fill in.
    let is_relative = |path: &Path| path.is_relative() && !path.to_string_lossy().starts_with('{');
    let relative = set.filter(|(_, path)| is_relative(path));
    relative
        .filter_map(|(name, path)| Some((name, std::path::absolute(path).ok()?)))
        .collect()
});

fn cargo() -> Command {
    let mut command = Command::new(program());
    command.envs(SET_FOLDERS.iter().map(|(name, path)| (*name, path)));
    command
}

/// Has a command read nothing, and us read what it writes.
fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

fn not_run(source: io::Error) -> CargoError {
    CargoError::Run {
        program: program().into(),
        source,
    }
}

#[cfg(test)]
mod tests;
