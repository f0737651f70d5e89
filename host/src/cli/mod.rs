//! The command line.
//!
//! Each command has a file with its arguments, its help and its code, and a line in [`Command`]. The tools
//! (`call`, `load`, `torture`) are a package of their own, behind the feature `tools`.

pub(crate) mod args;
pub(crate) mod backend;
pub(crate) mod check;
mod cluster;
mod command;
pub(crate) mod completions;
pub(crate) mod dev;
mod exchange;
mod json_lines;
mod lines;
pub(crate) mod new;
mod notify;
mod output;
pub(crate) mod plugins;
pub(crate) mod probe;
pub(crate) mod routes;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod serve;
mod signals;
mod terminal;
pub(crate) mod why;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

use crate::config::{Config, ConfigErrors, LogFormat, Mode, check_level};
use crate::server::control::SetLogLevel;
use crate::server::descriptors;
use command::{Cli, Command};
use output::{LogWriter, Stream};
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
    let done = signals::put_right().map_err(Into::into).and_then(|()| command.run());
    let code = done.unwrap_or_else(|error| {
        complain(&format!("error: {error:#}"));
        ExitCode::FAILURE
    });
    output::finish();
    crate::runtime::plugin::loader::leave::with(code != ExitCode::SUCCESS);
    code
}

/// Shows on standard error what went wrong.
fn complain(text: &str) {
    let line = match json_lines::is_on() {
        true => json_lines::error(text),
        false => format!("{text}\n"),
    };
    output::write(Stream::Log, line.as_bytes());
}

/// Says on standard output what the server does; where the log is JSON, in the log, which then has everything.
fn announce(text: &str) {
    match json_lines::is_on() {
        true => tracing::info!("{text}"),
        false => say(text),
    }
}

/// Reads a configuration, or shows everything that is wrong with it.
fn read_config(file: &Path, mode: Mode) -> anyhow::Result<Config> {
    Config::read(file, mode).map_err(|errors| rejected(file, errors))
}

/// Shows all mistakes of a configuration. The error that it returns only says that there are some.
fn rejected(file: &Path, errors: ConfigErrors) -> anyhow::Error {
    match errors {
        ConfigErrors::Unreadable { .. } => anyhow::Error::new(errors),
        mistakes @ ConfigErrors::Mistakes { .. } => {
            complain(&mistakes.render(has_colours(&io::stderr()) && !json_lines::is_on()));
            anyhow::anyhow!("{} has mistakes", file.display())
        }
    }
}

/// The filter of the log: `directives`, without warnings of `notify` that nobody can act on.
fn log_filter(directives: &str) -> EnvFilter {
    // It warns of folders that are gone, which is its purpose.
    let quiet = |directives: &str| {
        EnvFilter::try_new(format!(
            "notify=error,fjall=error,lsm_tree=error,async_nats=warn,{directives}"
        ))
    };
    quiet(directives)
        .or_else(|_| quiet("info"))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}

/// What [`LOG_VARIABLE`] says in place of the configuration.
struct LogOverride {
    directives: Option<String>,
    /// Why it says nothing.
    mistake: Option<String>,
}

impl LogOverride {
    fn find() -> Self {
        let given = std::env::var(LOG_VARIABLE).ok();
        let mistake = given.as_deref().and_then(|directives| check_level(directives).err());
        Self {
            directives: given.filter(|_| mistake.is_none()),
            mistake,
        }
    }
}

/// Starts the log of `serve`, which goes to standard error. Returns what changes its level while the server runs, and the count of
/// its dropped lines.
fn start_log(config: &Config) -> io::Result<(SetLogLevel, Counter)> {
    let dropped = output::start(config.log.max_queue_bytes)?;
    let overriding = LogOverride::find();
    let directives = overriding.directives.clone();
    let directives = directives.unwrap_or_else(|| config.log.level.clone());
    let (filter, handle) = reload::Layer::new(log_filter(&directives));
    json_lines::set(config.log.format);
    // A failed write would be told on standard error, which has just failed.
    let log = tracing_subscriber::fmt::layer()
        .with_writer(LogWriter)
        .log_internal_errors(false);
    let log = match config.log.format {
        LogFormat::Text => {
            let is_terminal = has_colours(&io::stderr());
            log.with_ansi(is_terminal)
                .event_format(lines::Lines::new(is_terminal))
                .boxed()
        }
        LogFormat::Json => log.with_ansi(false).event_format(json_lines::JsonLines).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(log).init();
    log_panics();
    let set_level = set_log_level(&overriding, move |level| handle.reload(log_filter(level)));
    Ok((set_level, dropped))
}

/// Sends panics of the server's own threads to the log: nothing may write to standard error directly.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        tracing::error!(
            thread = thread.name(),
            at = panic.location().map(ToString::to_string),
            backtrace = backtrace.map(|backtrace| format!("\n{backtrace}")),
            "the server panicked: {}",
            panic.payload_as_str().unwrap_or("no text")
        );
    }));
}

/// What changes the level of a log, unless the environment sets it.
fn set_log_level<E: std::error::Error>(
    overriding: &LogOverride,
    set: impl Fn(&str) -> Result<(), E> + Send + 'static,
) -> SetLogLevel {
    if let Some(mistake) = &overriding.mistake {
        tracing::warn!("{LOG_VARIABLE} is ignored, and `[log] level` counts: {mistake}");
    }
    let is_overridden = overriding.directives.is_some();
    Box::new(move |level| {
        if is_overridden {
            tracing::warn!(level, "`[log] level` has no effect: {LOG_VARIABLE} overrides it");
            return;
        }
        match set(level) {
            Ok(()) => tracing::info!(level, "log level changed"),
            Err(error) => tracing::error!(level, %error, "cannot change the log level"),
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
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
