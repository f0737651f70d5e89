//! The command line: what can be asked for, and what each command does.
//!
//! A command has a file of its own here, with its arguments, its help and what it does, and a line in [`Command`]. The tools
//! (`call`, `load`, `torture`) are a package of their own, behind the feature `tools`.

pub(crate) mod args;
pub(crate) mod check;
mod command;
pub(crate) mod completions;
pub(crate) mod dev;
mod lines;
pub(crate) mod new;
pub(crate) mod plugins;
pub(crate) mod probe;
pub(crate) mod routes;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod serve;
mod terminal;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigErrors, Mode};
use command::{Cli, Command};
use terminal::{has_colours, say};

/// The variable that goes before `[log] level`.
const LOG_VARIABLE: &str = "BENNU_LOG";

/// The program `bennu`: reads the command line, runs the command, turns errors into one clear line and an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Cli::parse().command {
        // First of all, as it is to touch nothing else.
        Command::Probe(_) => return crate::runtime::plugin::probe::run_child(),
        command => command,
    };
    command.run().unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

/// Shows an error and what led to it, in one line where it is one.
fn complain(error: &anyhow::Error) {
    // Nobody to tell if this fails.
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Reads a configuration, or says everything that is wrong with it.
fn read_config(file: &Path, mode: Mode) -> anyhow::Result<Config> {
    Config::read(file, mode).map_err(|errors| refused(file, errors))
}

/// Shows all that is wrong with a configuration; the error that is left says that it is refused.
fn refused(file: &Path, errors: ConfigErrors) -> anyhow::Error {
    match errors {
        ConfigErrors::Unreadable { .. } => anyhow::Error::new(errors),
        mistakes @ ConfigErrors::Mistakes { .. } => {
            let _ = writeln!(io::stderr(), "{}", mistakes.render(has_colours(&io::stderr())));
            anyhow::anyhow!("{} is refused", file.display())
        }
    }
}

/// The filter of the log: `directives`, but for a library's complaints that nobody can act on.
fn log_filter(directives: &str) -> EnvFilter {
    // It warns of folders that are gone, which is what it is there to tell.
    let quiet = |directives: &str| EnvFilter::try_new(format!("notify=error,{directives}"));
    quiet(directives)
        .or_else(|_| quiet("info"))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Logs go to standard error; what a command says goes to standard output.
fn start_log(config: &Config) {
    let directives = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| config.log.level.clone());
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(&directives))
        .with_writer(io::stderr)
        .with_ansi(has_colours(&io::stderr()))
        .event_format(lines::Lines::default())
        .init();
}

/// Says something at each SIGINT, SIGTERM and SIGHUP (a terminal that was closed); by the sender, others can say the same.
fn signals() -> io::Result<(mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>)> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = mpsc::unbounded_channel();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let by_signal = sender.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if by_signal.send(()).is_err() {
                return;
            }
        }
    });
    Ok((sender, receiver))
}
