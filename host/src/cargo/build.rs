//! A build that is under way: what cargo and the compiler say of it, and what it gives.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitStatus};
use std::thread::JoinHandle;

use anstream::adapter::strip_str;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::{CargoError, Target, not_run};

/// How much of what cargo and the compiler say is kept, of each the end, in bytes.
const MAX_TEXT: usize = 256 * 1024;

/// A running build. Killed when this is dropped, with all that it started; a Ctrl-C in the terminal does not reach it.
#[derive(Debug)]
pub(crate) struct Build {
    pub(super) child: Child,
    pub(super) stderr: Option<JoinHandle<String>>,
    /// Name and id of each plugin.
    pub(super) wanted: Vec<(String, String)>,
}

/// What a build gave.
#[derive(Debug)]
pub(crate) struct Built {
    /// The library of each plugin, by name.
    pub(crate) libraries: BTreeMap<String, PathBuf>,
    /// What the compiler warns of, as it shows it; empty where it is content.
    pub(crate) warnings: String,
}

impl Build {
    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If something does not compile, or is no library.
    pub(crate) fn wait(mut self) -> Result<Built, CargoError> {
        let Told { libraries, diagnostics } = self.child.stdout.take().map(told).unwrap_or_default();
        let status = self.child.wait().map_err(not_run)?;
        let text = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if !status.success() {
            return Err(CargoError::Failed(failure(status, diagnostics, &text)));
        }
        let found = |(name, id): &(String, String)| match libraries.get(id) {
            Some(library) => Ok((name.clone(), library.clone())),
            None => Err(CargoError::NoLibrary(name.clone())),
        };
        Ok(Built {
            libraries: self.wanted.iter().map(found).collect::<Result<_, _>>()?,
            warnings: diagnostics.trim_end().to_owned(),
        })
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
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
    message: Diagnostic,
}

/// What the compiler says of one thing.
#[derive(Default, Deserialize)]
struct Diagnostic {
    #[serde(default)]
    message: String,
    /// As it shows it to people.
    rendered: Option<String>,
}

impl Diagnostic {
    /// Whether it only counts those before; cargo does that better.
    fn is_sum(&self) -> bool {
        let ends = ["warning emitted", "warnings emitted"];
        self.message.starts_with("aborting due to") || ends.iter().any(|end| self.message.ends_with(end))
    }
}

/// What cargo's messages for programs tell.
#[derive(Default)]
struct Told {
    /// The cdylib of each package that makes one, by package id.
    libraries: BTreeMap<String, PathBuf>,
    /// What the compiler says, with an empty line behind each.
    diagnostics: String,
}

fn told(stdout: ChildStdout) -> Told {
    let mut told = Told::default();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        // What is not a message is a build script's or a wrapper's.
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        match &*message.reason {
            "compiler-artifact" => told.libraries.extend(library(message)),
            "compiler-message" if !message.message.is_sum() => {
                let rendered = message.message.rendered.unwrap_or_default();
                told.diagnostics += rendered.trim_end();
                told.diagnostics += "\n\n";
                keep_end(&mut told.diagnostics);
            }
            _ => {}
        }
    }
    told
}

fn library(message: Message) -> Option<(String, PathBuf)> {
    if !message.target.is_cdylib() {
        return None;
    }
    let library = message
        .filenames
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "so"))?;
    Some((message.package_id, library))
}

/// Passes on what cargo says, line by line, and keeps the end of it.
pub(super) fn listen(stderr: impl Read, mut said: impl FnMut(&str)) -> String {
    let mut kept = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        said(&line);
        kept.push_str(&line);
        kept.push('\n');
        keep_end(&mut kept);
    }
    kept
}

/// Drops the beginning of what has become too long.
fn keep_end(text: &mut String) {
    if text.len() > 2 * MAX_TEXT {
        let start = text.ceil_char_boundary(text.len() - MAX_TEXT);
        text.drain(..start);
    }
}

/// What the compiler says, and what cargo says from its first error on: what it did before does not matter.
fn failure(status: ExitStatus, diagnostics: String, text: &str) -> String {
    let mut from = 0;
    for line in text.split_inclusive('\n') {
        if strip_str(line).to_string().starts_with("error") {
            return diagnostics + text[from..].trim_end();
        }
        from += line.len();
    }
    match (diagnostics + text).trim_end() {
        "" => format!("cargo ended with {status}"),
        all => all.to_owned(),
    }
}
