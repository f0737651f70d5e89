//! The probe's child: this process may be killed by what it loads.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bennu_plugin::abi::event;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use super::super::sample::Sample;
use super::{Answer, Line, MARK, Request, SCHEMA, Step};
use crate::runtime::plugin::loader::{Library, LoadError};

/// How long threads that the plugin has started may take to end.
const THREADS_PATIENCE: Duration = Duration::from_millis(200);

/// Serves `bennu probe --library FILE`; `main` calls this for it, before anything else. Reads a request from standard
/// input and writes what it finds to standard output.
#[must_use]
pub(crate) fn run_child() -> ExitCode {
    let result = match library_argument(std::env::args_os().skip(2)) {
        Some(library) => serve(&library, std::env::args_os().any(|argument| argument == SCHEMA)),
        None => Err(io::Error::other(
            "usage: bennu probe --library FILE; the host starts this itself",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(2)
        }
    }
}

fn library_argument(mut args: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let (flag, path) = (args.next()?, args.next()?);
    (flag == "--library").then(|| path.into())
}

/// Does what the request on standard input says; or only asks for the schema of the settings.
pub(super) fn serve(library: &Path, only_schema: bool) -> io::Result<()> {
    let request: Request = serde_json::from_reader(io::stdin())?;
    confine(&request)?;
    let answer = try_library(library, &request, only_schema)?;
    tell(&Line::Step(Step::End))?;
    tell(&Line::Answer(answer))
}

/// From here on, this process can't do much harm by mistake; it could on purpose.
fn confine(request: &Request) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, value) in [
        (Resource::As, request.memory_bytes),
        (Resource::Cpu, request.cpu_s),
        (Resource::Nofile, request.files),
        (Resource::Fsize, request.written_bytes),
        (Resource::Core, 0),
    ] {
        // At the hard limit of time comes SIGKILL; a second before, SIGXCPU says why.
        let maximum = Some(if resource == Resource::Cpu { value + 1 } else { value });
        setrlimit(
            resource,
            Rlimit {
                current: Some(value),
                maximum,
            },
        )?;
    }
    Ok(())
}

fn try_library(path: &Path, request: &Request, only_schema: bool) -> io::Result<Answer> {
    let own = threads()?;
    tell(&Line::Step(Step::Load))?;
    let library = match Library::open_checked(path) {
        Ok(library) => library,
        Err(LoadError::Layout(error)) => {
            return Ok(Answer::Layout {
                line: error.line,
                report: error.report,
            });
        }
        Err(error) => {
            return Ok(Answer::Load {
                code: error.code().to_owned(),
                message: error.to_string(),
            });
        }
    };
    if only_schema {
        let json = library.schema();
        return Ok(Answer::Schema { json });
    }
    tell(&Line::Step(Step::Check))?;
    if let Err(error) = library.check(&request.settings) {
        return Ok(Answer::Settings {
            path: error.path,
            message: error.message,
        });
    }
    tell(&Line::Step(Step::Restore))?;
    for sample in &request.samples {
        match restore(&library, sample) {
            Err(message) if sample.is_first() => return Ok(Answer::State { message }),
            Err(message) if !sample.may_fail => {
                let topic = sample.topic.clone();
                return Ok(Answer::Restore { topic, message });
            }
            Ok(()) | Err(_) => {}
        }
    }
    let threads = threads_left(&own)?;
    if !threads.is_empty() {
        return Ok(Answer::Threads { threads });
    }
    tell(&Line::Step(Step::Unload))?;
    // The parent waits for a limited time.
    library.finish();
    Ok(Answer::Good {})
}

/// Has the plugin read the state of a topic and of its members.
fn restore(library: &Library, sample: &Sample) -> Result<(), String> {
    let bytes = |text: &String| STANDARD.decode(text).map_err(|error| error.to_string());
    library.try_restore(event::RESTORE, sample.version, &bytes(&sample.shared)?)?;
    for member in &sample.members {
        let read = library.try_restore(event::RESTORE_MEMBER, sample.version, &bytes(member)?);
        read.map_err(|why| format!("a member's state: {why}"))?;
    }
    Ok(())
}

/// The names of threads that were not there before. Those that are about to end are waited for.
fn threads_left(own: &BTreeMap<OsString, String>) -> io::Result<Vec<String>> {
    let until = Instant::now() + THREADS_PATIENCE;
    loop {
        let mut left = threads()?;
        left.retain(|number, _| !own.contains_key(number));
        if left.is_empty() || Instant::now() >= until {
            return Ok(left.into_values().collect());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// All threads of this process, with their names.
fn threads() -> io::Result<BTreeMap<OsString, String>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        // It may have ended just now.
        if let Ok(name) = fs::read_to_string(task.path().join("comm")) {
            threads.insert(task.file_name(), name.trim_end().to_owned());
        }
    }
    Ok(threads)
}

/// Writes a line that the parent finds, also behind something that the plugin left unfinished.
fn tell(line: &Line) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{MARK}{}", serde_json::to_string(line)?)?;
    out.flush()
}
