//! Tries a library in a child process, so that what it does wrong at load costs nothing.
//!
//! The host starts itself as `bennu probe --library FILE`. The child limits itself, loads the library, compares layouts
//! and has the plugin check its settings; it tells each step on its standard output. The parent waits a limited time.
//! Never here: an `init`, or anything that outlives the child.

mod child;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};

pub(crate) use self::child::run_child;
use super::loader::{LayoutError, said};
use super::sample::Sample;
use crate::config::ProbeLimits;
use crate::runtime::clock;

/// The hidden subcommand that [`run_child`] serves.
pub(crate) const SUBCOMMAND: &str = "probe";
/// Has it ask only for the schema of the settings.
const SCHEMA: &str = "--schema";
/// What each line of the child begins with; a plugin may print too.
const MARK: &str = "@bennu-probe ";
/// How much of the child's standard error is kept.
const STDERR_TAIL: usize = 4 * 1024;

/// What a probe found of a library that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeReport {
    /// How long it took, the start of the child included.
    pub(crate) took: Duration,
}

/// Why a library did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The child could not be started or watched. Says nothing about the library.
    #[error("the probe could not be run")]
    Run(#[from] io::Error),
    /// It can't be loaded.
    #[error("{message}")]
    Load {
        /// From [`LoadError::code`](super::loader::LoadError::code).
        code: String,
        /// Why.
        message: String,
    },
    /// The structs of the contract differ.
    #[error(transparent)]
    Layout(LayoutError),
    /// The plugin refuses its settings.
    #[error("{}", settings_text(path, message))]
    Settings {
        /// Where, as keys joined by dots; empty: the whole.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The plugin does not read a topic's live state.
    #[error("it cannot read the current state of {topic}: {message}")]
    Restore {
        /// The topic.
        topic: String,
        /// Why.
        message: String,
    },
    /// The plugin would lose the state that a topic begins with.
    #[error("a reload would lose its state: {0}")]
    State(String),
    /// Threads that the plugin has started do not end.
    #[error("it left threads running after it was loaded or checked: {0}")]
    Threads(String),
    /// Another process has killed the child: the system, if memory is short. Says nothing about the library.
    #[error("another process, or the system, killed the probe with {} {step}; memory may be short", signal_name(*signal))]
    Killed {
        /// With which signal.
        signal: i32,
        /// What it was doing.
        step: Step,
    },
    /// The child was killed by a signal that it has brought about itself.
    #[error("it crashed with {} {step}", signal_name(*signal))]
    Crashed {
        /// Which.
        signal: i32,
        /// What it was doing.
        step: Step,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The child ended without an answer.
    #[error("it ended the process with code {code} {step}")]
    Exited {
        /// Its exit code.
        code: i32,
        /// What it was doing.
        step: Step,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The child did not end in time.
    #[error("it took more than {} ms {step}", after.as_millis())]
    TimedOut {
        /// The limit.
        after: Duration,
        /// What it was doing.
        step: Step,
    },
}

impl ProbeError {
    /// A word for this kind of failure, the same for ever.
    #[must_use]
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Run(_) => "probe",
            Self::Load { code, .. } => code,
            Self::Layout(_) => "layout",
            Self::Settings { .. } => "settings",
            Self::Restore { .. } => "restore",
            Self::State(_) => "state",
            Self::Threads(_) => "threads",
            Self::Killed { .. } => "probe_killed",
            Self::Crashed { .. } => "probe_crashed",
            Self::Exited { .. } => "probe_exited",
            Self::TimedOut { .. } => "probe_timed_out",
        }
    }

    /// Whether the machine is to blame, not the library: the same library may pass the next time. Before the child loads the
    /// library, no code of it has run.
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Run(_) | Self::Killed { .. } => true,
            Self::Crashed { step, .. } | Self::Exited { step, .. } | Self::TimedOut { step, .. } => {
                *step == Step::Start
            }
            _ => false,
        }
    }
}

/// What the child was doing when it last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// It was starting; no code of the plugin had run.
    Start,
    /// It was loading the library: its constructors ran.
    Load,
    /// The plugin was checking its settings.
    Check,
    /// The plugin was reading state.
    Restore,
    /// The library's destructors were running.
    Unload,
    /// All was done.
    End,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "before it was loaded",
            Self::Load => "while it was loaded",
            Self::Check => "while it checked its settings",
            Self::Restore => "while it read a sample of the live state",
            Self::Unload => "while its destructors ran",
            Self::End => "after all was done",
        })
    }
}

/// What the parent writes to the child's standard input. Later versions add fields.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    settings: String,
    #[serde(default)]
    samples: Vec<Sample>,
    memory_bytes: u64,
    cpu_s: u64,
    files: u64,
    written_bytes: u64,
}

/// A line of the child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Step(Step),
    Answer(Answer),
}

/// What the child found.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Good {},
    Schema { json: Option<String> },
    Load { code: String, message: String },
    Layout { line: String, report: String },
    Settings { path: String, message: String },
    Restore { topic: String, message: String },
    State { message: String },
    Threads { threads: Vec<String> },
}

impl Answer {
    /// What people are told of it. Its texts are the plugin's, which can write such lines as the child's, too.
    fn into_result(self) -> Result<(), ProbeError> {
        let said = |text: String| said(&text).into_owned();
        match self {
            Self::Good {} | Self::Schema { .. } => Ok(()),
            Self::Load { code, message } => {
                let known = ["open", "no_module", "version"].contains(&&*code);
                let (code, message) = (if known { code } else { "load".to_owned() }, said(message));
                Err(ProbeError::Load { code, message })
            }
            Self::Layout { line, report } => {
                let line = said(line);
                Err(ProbeError::Layout(LayoutError { line, report }))
            }
            Self::Settings { path, message } => {
                let (path, message) = (said(path), said(message));
                Err(ProbeError::Settings { path, message })
            }
            Self::Restore { topic, message } => {
                let (topic, message) = (said(topic), said(message));
                Err(ProbeError::Restore { topic, message })
            }
            Self::State { message } => Err(ProbeError::State(said(message))),
            Self::Threads { threads } => Err(ProbeError::Threads(said(threads.join(", ")))),
        }
    }
}

/// Tries the staged file `library` with `settings` (JSON) and on samples of live state. `exe` is this program: `/proc/self/exe`. Blocks, at most
/// about [`ProbeLimits::wall`].
///
/// # Errors
///
/// What is wrong with the library, or with running the probe.
pub(crate) fn probe(
    exe: &Path,
    library: &Path,
    settings: &str,
    samples: Vec<Sample>,
    limits: &ProbeLimits,
) -> Result<ProbeReport, ProbeError> {
    let mut command = child(exe);
    command.arg("--library").arg(library);
    run(command, settings, samples, limits)
}

/// The JSON schema of the settings of the staged file `library`; `None` if it declares none. Otherwise as [`probe`].
///
/// # Errors
///
/// As [`probe`].
pub(crate) fn schema(exe: &Path, library: &Path, limits: &ProbeLimits) -> Result<Option<String>, ProbeError> {
    let mut command = child(exe);
    command.arg("--library").arg(library).arg(SCHEMA);
    match answer_of(command, "{}", Vec::new(), limits)? {
        Answer::Schema { json } => Ok(json),
        other => other.into_result().map(|()| None),
    }
}

/// The program as a probe, under its name: `ps` would show `/proc/self/exe`.
fn child(exe: &Path) -> Command {
    let mut command = Command::new(exe);
    command.arg0("bennu").arg(SUBCOMMAND);
    command
}

fn run(
    command: Command,
    settings: &str,
    samples: Vec<Sample>,
    limits: &ProbeLimits,
) -> Result<ProbeReport, ProbeError> {
    let started = Instant::now();
    answer_of(command, settings, samples, limits)?.into_result()?;
    Ok(ProbeReport {
        took: started.elapsed(),
    })
}

/// What a child that ended well has found.
fn answer_of(
    mut command: Command,
    settings: &str,
    samples: Vec<Sample>,
    limits: &ProbeLimits,
) -> Result<Answer, ProbeError> {
    // Files in memory instead of pipes: neither side ever waits for the other.
    let (stdout, stderr) = (memory("stdout")?, memory("stderr")?);
    command
        .stdin(request(settings, samples, limits)?)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    // A group of its own: what the plugin starts is killed with it.
    command.process_group(0);
    let mut running = Running(command.spawn()?);
    let status = running.wait(limits.wall)?;
    let (step, answer) = read_lines(&text(&stdout, limits.written_bytes)?);
    let Some(status) = status else {
        return Err(ProbeError::TimedOut {
            after: limits.wall,
            step,
        });
    };
    let stderr = tail(&text(&stderr, limits.written_bytes)?);
    if let Some(signal) = status.signal() {
        return Err(if is_own(signal) {
            ProbeError::Crashed { signal, step, stderr }
        } else {
            ProbeError::Killed { signal, step }
        });
    }
    match answer {
        Some(answer) if status.success() => Ok(answer),
        _ => Err(ProbeError::Exited {
            code: status.code().unwrap_or(-1),
            step,
            stderr,
        }),
    }
}

/// A child that does not outlive this.
struct Running(Child);

impl Running {
    /// Waits until the child ends; `None`: it did not in time, and was killed.
    fn wait(&mut self, wall: Duration) -> io::Result<Option<ExitStatus>> {
        // A standstill stops the child, too.
        let (until, mut left) = (clock::now() + wall, wall);
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        loop {
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => match clock::rest(until) {
                    Some(rest) => left = rest,
                    None => return self.end().map(|_| None),
                },
                Ok(_) => return self.end().map(Some),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills what is left of the group, then reaps the child: while it is not reaped, nobody else has its number.
    fn end(&mut self) -> io::Result<ExitStatus> {
        // Fails where nothing is left.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        self.0.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.end();
        }
    }
}

/// A file that holds what the child reads.
fn request(settings: &str, samples: Vec<Sample>, limits: &ProbeLimits) -> io::Result<Stdio> {
    let ProbeLimits {
        memory_bytes,
        cpu_s,
        files,
        written_bytes,
        ..
    } = *limits;
    let request = Request {
        settings: settings.to_owned(),
        samples,
        memory_bytes,
        cpu_s,
        files,
        written_bytes,
    };
    let mut file = memory("stdin")?;
    file.write_all(&serde_json::to_vec(&request)?)?;
    file.rewind()?;
    Ok(file.into())
}

fn memory(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// What the child wrote to `file`, `limit` bytes at most.
fn text(file: &File, limit: u64) -> io::Result<String> {
    let len = file.metadata()?.len().min(limit);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last step that the child told of, and its answer.
fn read_lines(text: &str) -> (Step, Option<Answer>) {
    let (mut step, mut answer) = (Step::Start, None);
    let lines = text.lines().filter_map(|line| line.rsplit_once(MARK));
    for line in lines.filter_map(|(_, json)| serde_json::from_str(json).ok()) {
        match line {
            Line::Step(told) => step = told,
            Line::Answer(told) => answer = Some(told),
        }
    }
    (step, answer)
}

fn tail(text: &str) -> String {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(STDERR_TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn settings_text(path: &str, message: &str) -> String {
    if path.is_empty() {
        message.to_owned()
    } else {
        format!("{path}: {message}")
    }
}

/// Whether a process gets this signal by what its own code does, wherever it runs.
pub(super) fn is_fault(signal: i32) -> bool {
    // SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS.
    matches!(signal, 4 | 5 | 6 | 7 | 8 | 11 | 31)
}

/// Whether a process brings this signal about itself: by a fault, a timer of its own, a pipe that nobody reads, or at a limit that
/// the probe has set.
fn is_own(signal: i32) -> bool {
    // SIGPIPE, SIGALRM, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF.
    is_fault(signal) || matches!(signal, 13 | 14 | 24 | 25 | 26 | 27)
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU (too much computing)",
        25 => "SIGXFSZ (too much written)",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
