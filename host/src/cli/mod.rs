//! The command line.
//!
//! Each command has a file with its arguments, its help and its code, and a line in [`Command`]. The tools
//! (`call`, `load`, `torture`) are a package of their own, behind the feature `tools`.

pub(crate) mod args;
pub(crate) mod backend;
pub(crate) mod check;
mod command;
pub(crate) mod completions;
pub(crate) mod dev;
mod exchange;
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
use crate::server::control::SetLogLevel;
use crate::server::descriptors;
use command::{Cli, Command};
use terminal::{has_colours, say};

/// The variable that overrides `[log] level`.
const LOG_VARIABLE: &str = "BENNU_LOG";

/// The program `bennu`: reads the command line, runs the command, turns errors into one clear line and an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Cli::parse().command {
        // First of all: it must touch nothing else.
        Command::Probe(_) => return crate::runtime::plugin::probe::run_child(),
        command => command,
    };
    let code = command.run().unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    });
    crate::runtime::plugin::loader::leave::with(code != ExitCode::SUCCESS);
    code
}

/// Shows an error and its causes, in one line if each is one.
fn complain(error: &anyhow::Error) {
    // If this fails, there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Reads a configuration, or shows everything that is wrong with it.
fn read_config(file: &Path, mode: Mode) -> anyhow::Result<Config> {
    Config::read(file, mode).map_err(|errors| refused(file, errors))
}

/// Shows all mistakes of a configuration. The error that it returns only says that there are some.
fn refused(file: &Path, errors: ConfigErrors) -> anyhow::Error {
    match errors {
        ConfigErrors::Unreadable { .. } => anyhow::Error::new(errors),
        mistakes @ ConfigErrors::Mistakes { .. } => {
            let _ = writeln!(io::stderr(), "{}", mistakes.render(has_colours(&io::stderr())));
            anyhow::anyhow!("{} is refused", file.display())
        }
    }
}

/// The filter of the log: `directives`, without warnings of `notify` that nobody can act on.
fn log_filter(directives: &str) -> EnvFilter {
    // It warns of folders that are gone, which is its purpose.
    let quiet = |directives: &str| EnvFilter::try_new(format!("notify=error,{directives}"));
    quiet(directives)
        .or_else(|_| quiet("info"))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Starts the log, which goes to standard error; what a command says goes to standard output. Returns what changes the level
/// while the server runs.
fn start_log(config: &Config) -> SetLogLevel {
    let directives = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| config.log.level.clone());
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(has_colours(&io::stderr()))
        .event_format(lines::Lines::default())
        .with_env_filter(log_filter(&directives))
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    set_log_level(move |level| filter.reload(log_filter(level)))
}

/// What changes the level of a log, unless the environment sets it.
fn set_log_level<E: std::error::Error>(set: impl Fn(&str) -> Result<(), E> + Send + 'static) -> SetLogLevel {
    Box::new(move |level| {
        if std::env::var_os(LOG_VARIABLE).is_some() {
            tracing::warn!(level, "`[log] level` has no effect: {LOG_VARIABLE} overrides it");
            return;
        }
        match set(level) {
            Ok(()) => tracing::info!(level, "log level changed"),
            Err(error) => tracing::error!(level, %error, "the log level cannot be changed"),
        }
    })
}

/// Lets the process have as many files open as the system allows, and says so if those are too few.
fn raise_open_files(config: &Config) {
    match descriptors::raise() {
        Ok(files) => {
            if let Some(shortage) = descriptors::shortage(config, files) {
                tracing::warn!("{shortage}");
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Sends a message at each SIGINT, SIGTERM and SIGHUP (a terminal that was closed). Others can send the same through the sender.
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
