//! The probe's child: this process may be killed by what it loads.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use super::{Answer, Line, MARK, Request, Step};
use crate::plugin::loader::{Library, LoadError};

/// Serves `bennu probe --library FILE`; `main` calls this for it, before anything else. Reads a request from standard
/// input and writes what it finds to standard output.
#[must_use]
pub fn run_child() -> ExitCode {
    let result = match library_argument(std::env::args_os().skip(2)) {
        Some(library) => serve(&library),
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

/// Does what the request on standard input says.
pub(super) fn serve(library: &Path) -> io::Result<()> {
    let request: Request = serde_json::from_reader(io::stdin())?;
    confine(&request)?;
    let answer = try_library(library, &request)?;
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

fn try_library(path: &Path, request: &Request) -> io::Result<Answer> {
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
    tell(&Line::Step(Step::Check))?;
    Ok(match library.check(&request.settings) {
        Ok(()) => Answer::Good {},
        Err(error) => Answer::Settings {
            path: error.path,
            message: error.message,
        },
    })
}

/// Writes a line that the parent finds, also behind something that the plugin left unfinished.
fn tell(line: &Line) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{MARK}{}", serde_json::to_string(line)?)?;
    out.flush()
}
