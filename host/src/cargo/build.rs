//! A build that runs: what cargo and the compiler say, and what comes of it for each plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStdout, ExitStatus};
use std::sync::Arc;
use std::thread::JoinHandle;

use anstream::adapter::strip_str;
use serde::Deserialize;

use super::inputs::rerun_if_changed;
use super::processes::{Process, Processes};
use super::stage::{Library, Stage};
use super::{CargoError, Target};

/// How much of what cargo and the compiler say is kept, of each the end, in bytes.
const MAX_TEXT: usize = 256 * 1024;

/// A running build. Dropping it kills cargo and everything that it has started.
#[derive(Debug)]
pub(crate) struct Build {
    pub(super) process: Process,
    pub(super) processes: Processes,
    pub(super) stderr: Option<JoinHandle<String>>,
    pub(super) stage: Arc<Stage>,
    pub(super) wanted: Vec<Wanted>,
}

/// A plugin that is built.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) plugin: String,
    /// Its package, as cargo's messages call it.
    pub(super) id: String,
    /// The ids and names of all packages that it is built from, its own among them.
    pub(super) packages: BTreeMap<String, String>,
}

/// What came of a build.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// For each plugin its library, or why there is none.
    pub(crate) plugins: BTreeMap<String, Result<Library, CargoError>>,
    /// The packages that each is built from, by id.
    packages: BTreeMap<String, BTreeSet<String>>,
    warnings: Vec<Diagnostic>,
    /// Files that the compiler looked for and did not find, and those that a build script has named that failed. Where a path is
    /// relative, it is so to the workspace.
    pub(crate) missing: BTreeSet<PathBuf>,
}

impl Build {
    /// Waits until cargo ends.
    ///
    /// # Errors
    ///
    /// If cargo cannot be waited for, or the build was stopped. A plugin that does not compile is none.
    pub(crate) fn wait(mut self) -> Result<Outcome, CargoError> {
        let stdout = self.process.child.stdout.take();
        let Told {
            mut libraries,
            diagnostics,
        } = stdout.map(|stdout| self.told(stdout)).unwrap_or_default();
        let status = self.process.wait()?;
        let said = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if self.processes.is_stopped() {
            return Err(CargoError::Stopped);
        }
        let mut outcome = Outcome::default();
        for Wanted { plugin, id, packages } in self.wanted {
            let built = match libraries.remove(&id) {
                Some(library) => library,
                None if status.success() => Err(CargoError::NoLibrary(plugin.clone())),
                None => Err(CargoError::Failed(failure(status, &diagnostics, &said, &packages))),
            };
            outcome.plugins.insert(plugin.clone(), built);
            outcome.packages.insert(plugin, packages.into_keys().collect());
        }
        outcome.missing = diagnostics.iter().flat_map(Diagnostic::missing).collect();
        outcome.missing.extend(named_by_failed_scripts(&said));
        outcome.warnings = diagnostics.into_iter().filter(|said| said.level == "warning").collect();
        Ok(outcome)
    }

    /// Reads cargo's messages for programs, and copies each library when its message comes: a moment after cargo ends, another
    /// cargo may write to the same file.
    fn told(&self, stdout: ChildStdout) -> Told {
        let mut told = Told::default();
        let mut kept = 0;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // A line that is no message comes from a build script or a wrapper.
            let Ok(message) = serde_json::from_str::<Message>(&line) else {
                continue;
            };
            match &*message.reason {
                "compiler-artifact" => {
                    if let Some(library) = message.library() {
                        let copied = self.stage.take(library).map_err(|source| CargoError::Copy {
                            library: library.clone(),
                            source,
                        });
                        told.libraries.insert(message.package_id, copied);
                    }
                }
                "compiler-message" if !message.message.is_sum() => {
                    let said = message.message.of(message.package_id);
                    kept += said.rendered.len();
                    told.diagnostics.push(said);
                    while kept > MAX_TEXT && told.diagnostics.len() > 1 {
                        kept -= told.diagnostics.remove(0).rendered.len();
                    }
                }
                _ => {}
            }
        }
        told
    }
}

impl Outcome {
    /// What the compiler warns of in the packages that these plugins are built from, as it shows it. Those that do not compile show it
    /// with their error.
    pub(crate) fn warnings(&self, plugins: &[&str]) -> String {
        let is_built = |plugin: &&&str| self.plugins.get(**plugin).is_some_and(Result::is_ok);
        let shown = plugins
            .iter()
            .filter(is_built)
            .filter_map(|plugin| self.packages.get(*plugin));
        let packages: BTreeSet<&String> = shown.flatten().collect();
        rendered(self.warnings.iter().filter(|said| packages.contains(&said.package)))
    }
}

/// A message of cargo, as far as it is used.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    /// What the compiler says.
    #[serde(default)]
    message: CompilerMessage,
}

impl Message {
    /// The library that was built, if it is one that can be loaded.
    fn library(&self) -> Option<&PathBuf> {
        let is_library = |path: &&PathBuf| path.extension().is_some_and(|end| end == "so");
        self.filenames
            .iter()
            .filter(|_| self.target.is_cdylib())
            .find(is_library)
    }
}

#[derive(Default, Deserialize)]
struct CompilerMessage {
    #[serde(default)]
    message: String,
    #[serde(default)]
    level: String,
    /// As the compiler shows it to people.
    rendered: Option<String>,
    /// Notes and advice.
    #[serde(default)]
    children: Vec<Note>,
}

#[derive(Debug, Deserialize)]
struct Note {
    message: String,
}

impl CompilerMessage {
    /// Whether it only counts the messages before it. Cargo does that as well.
    fn is_sum(&self) -> bool {
        let ends = ["warning emitted", "warnings emitted"];
        self.message.starts_with("aborting due to") || ends.iter().any(|end| self.message.ends_with(end))
    }

    fn of(self, package: String) -> Diagnostic {
        Diagnostic {
            package,
            message: self.message,
            level: self.level,
            rendered: self.rendered.unwrap_or_default(),
            notes: self.children,
        }
    }
}

/// What the compiler says of one place.
#[derive(Debug)]
struct Diagnostic {
    /// The id of the package.
    package: String,
    message: String,
    /// `error` or `warning`, or less.
    level: String,
    rendered: String,
    notes: Vec<Note>,
}

impl Diagnostic {
    /// The file that an `include_str!` names, or those that a module may be in, if they are not there.
    fn missing(&self) -> Vec<PathBuf> {
        if let Some((file, _)) = { self.message.strip_prefix("couldn't read `") }.and_then(|rest| rest.split_once('`'))
        {
            return vec![PathBuf::from(file)];
        }
        if !self.message.starts_with("file not found for module") {
            return Vec::new();
        }
        // to create the module `a`, create file "src/a.rs" or "src/a/mod.rs"
        let named = self
            .notes
            .iter()
            .flat_map(|note| note.message.split('"').skip(1).step_by(2));
        named.filter(|file| file.ends_with(".rs")).map(PathBuf::from).collect()
    }
}

/// What cargo's messages for programs tell.
#[derive(Default)]
struct Told {
    /// By package id.
    libraries: BTreeMap<String, Result<Library, CargoError>>,
    diagnostics: Vec<Diagnostic>,
}

/// What build scripts that failed depend on. Cargo keeps what a script has printed only if it succeeds, but shows it.
fn named_by_failed_scripts(said: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folder = None;
    for line in said.lines().map(|line| strip_str(line).to_string()) {
        if line.starts_with("error") || line.starts_with("warning") {
            // … custom build command for `echo v1.0.0 (/its/folder)`
            let script = line.split_once("failed to run custom build command for `");
            let place = script.and_then(|(_, package)| package.split_once(" ("));
            folder = place.and_then(|(_, place)| Some(PathBuf::from(place.rsplit_once(")`")?.0)));
        }
        if let Some(folder) = &folder {
            found.extend(rerun_if_changed(line.trim_start()).map(|file| folder.join(file)));
        }
    }
    found
}

/// Passes on what cargo says, line by line, and keeps the end of it.
pub(super) fn listen(stderr: impl Read, mut said: impl FnMut(&str)) -> String {
    let mut kept = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        said(&line);
        kept.push_str(&line);
        kept.push('\n');
        if kept.len() > 2 * MAX_TEXT {
            let start = kept.ceil_char_boundary(kept.len() - MAX_TEXT);
            kept.drain(..start);
        }
    }
    kept
}

/// What the compiler and cargo say of a plugin that was not built.
fn failure(status: ExitStatus, diagnostics: &[Diagnostic], said: &str, packages: &BTreeMap<String, String>) -> String {
    let compiler = rendered(diagnostics.iter().filter(|said| packages.contains_key(&said.package)));
    let cargo = errors(said, packages);
    let all = [compiler, cargo]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>();
    match all.join("\n\n") {
        text if !text.is_empty() => text,
        _ if !said.trim().is_empty() => said.trim_end().to_owned(),
        _ => format!("cargo ended with {status}"),
    }
}

/// Diagnostics with an empty line between them.
fn rendered<'a>(diagnostics: impl Iterator<Item = &'a Diagnostic>) -> String {
    diagnostics
        .map(|said| said.rendered.trim_end())
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// The errors that cargo itself reports, but for those about packages that are not among `packages`.
fn errors(said: &str, packages: &BTreeMap<String, String>) -> String {
    let mut kept = String::new();
    let mut is_kept = false;
    for line in said.split_inclusive('\n') {
        let plain = strip_str(line).to_string();
        if is_progress(&plain) {
            continue;
        }
        if plain.starts_with("error") || plain.starts_with("warning") {
            let of_another = blamed(&plain).is_some_and(|name| !packages.values().any(|package| package == name));
            is_kept = plain.starts_with("error") && !of_another;
        }
        if is_kept {
            kept.push_str(line);
        }
    }
    kept.trim_end().to_owned()
}

/// The package that a line blames: ``error: could not compile `echo` (lib)``.
fn blamed(line: &str) -> Option<&str> {
    let blames = ["could not compile `", "failed to run custom build command for `"];
    let rest = blames
        .iter()
        .find_map(|words| line.split_once(words))
        .map(|(_, rest)| rest)?;
    rest.split(['`', ' ']).next()
}

/// Whether a line only tells what cargo does: `   Compiling echo v0.1.0`.
fn is_progress(line: &str) -> bool {
    let verbs = [
        "Compiling ",
        "Building ",
        "Finished ",
        "Blocking ",
        "Downloading ",
        "Downloaded ",
        "Updating ",
        "Locking ",
    ];
    line.starts_with(' ') && verbs.iter().any(|verb| line.trim_start().starts_with(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_of_other_packages_is_left_out() {
        let said = "   Compiling one v1.0.0\nerror: could not compile `two` (lib) due to 1 previous error\n   Compiling x v1.0.0\n\
                    warning: build failed, waiting for other jobs to finish...\nerror: could not compile `one` (lib)\n\n\
                    Caused by:\n  it was killed\n";
        let one = BTreeMap::from([("id".to_owned(), "one".to_owned())]);
        assert_eq!(
            errors(said, &one),
            "error: could not compile `one` (lib)\n\nCaused by:\n  it was killed"
        );
    }
}
