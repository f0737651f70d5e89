//! `bennu check`: shows every mistake in a configuration.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::args::{NoConfig, named_or_found};
use super::has_colours;
use crate::config::{Config, ConfigErrors, Mode};
use crate::plugin::pipeline::{Trail, Wanted};
use crate::plugin::service::blame_settings;
use crate::server;

pub(super) const HELP: &str = "\
Examples:
  bennu check                          config/bennu.toml of this folder or of one above it
  bennu check my/bennu.toml --dev

The exit code is 0 when `bennu serve` would take the file, and 1 when it would not.";

/// `bennu check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration [default: config/bennu.toml, here or in a folder above]
    pub file: Option<PathBuf>,
    /// Checks it for `bennu dev`, where a plugin needs no library
    #[arg(long)]
    pub dev: bool,
}

impl CheckArgs {
    fn mode(&self) -> Mode {
        if self.dev { Mode::Dev } else { Mode::Serve }
    }
}

/// Why a check could not even begin, or be shown.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no file to check.
    #[error(transparent)]
    NoConfig(#[from] NoConfig),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(ConfigErrors),
    /// Nobody listens.
    #[error("cannot write the result")]
    Output(#[from] io::Error),
}

/// Reads the file and shows what it finds, in colour on a terminal.
///
/// # Errors
///
/// If there is no file to check, or it cannot be read, or the result cannot be written. A file with mistakes is no error: the exit code tells.
pub fn run(args: &CheckArgs) -> Result<ExitCode, CheckError> {
    let file = named_or_found(args.file.as_deref())?;
    let out = io::stdout();
    let colours = has_colours(&out);
    let read = match Config::read(&file, args.mode()) {
        Err(errors @ ConfigErrors::Unreadable { .. }) => return Err(CheckError::Unreadable(errors)),
        read => read,
    };
    if let (Ok(config), Mode::Serve) = (&read, args.mode()) {
        let refused = libraries(config)?;
        if !refused.is_empty() {
            write!(out.lock(), "{refused}")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(report(read, args.mode(), colours, &mut out.lock())?)
}

/// Checks every library as `serve` would, settings included. Returns what is wrong.
fn libraries(config: &Config) -> io::Result<String> {
    let (mut pipeline, _staging) = server::pipeline(config)?;
    pipeline.reports = None;
    let mut refused = String::new();
    for (attempt, (name, plugin)) in (0..).zip(&config.plugins) {
        let Some(library) = &plugin.library else { continue };
        let wanted = Wanted {
            plugin: name,
            attempt,
            settings: &plugin.settings,
            allow: plugin.allow.as_deref(),
        };
        let checked = pipeline
            .read(library)
            .and_then(|contents| pipeline.check(&wanted, &contents, &mut Trail::default()));
        if let Err(refusal) = checked {
            let shown = blame_settings(config, name, &refusal);
            let _ = writeln!(
                refused,
                "error: plugin `{name}` is refused ({}): {}",
                refusal.step,
                shown.trim_end()
            );
        }
    }
    Ok(refused)
}

fn report(read: Result<Config, ConfigErrors>, mode: Mode, colours: bool, out: &mut impl Write) -> io::Result<ExitCode> {
    match read {
        Ok(config) => {
            for warning in &config.warnings {
                writeln!(out, "{}\n", warning.render(colours))?;
            }
            let (mounts, plugins, routes) = (config.mounts.len(), config.plugins.len(), config.routes.len());
            let command = if mode == Mode::Dev { "dev" } else { "serve" };
            writeln!(
                out,
                "{}: good for `bennu {command}` (mounts: {mounts}, plugins: {plugins}, routes: {routes})",
                config.file.display()
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            writeln!(out, "{}", errors.render(colours))?;
            if let ConfigErrors::Mistakes { diagnostics } = &errors {
                let mistakes = diagnostics.iter().filter(|diagnostic| !diagnostic.is_warning()).count();
                writeln!(
                    out,
                    "\n{}",
                    if mistakes == 1 {
                        "1 mistake".to_owned()
                    } else {
                        format!("{mistakes} mistakes")
                    }
                )?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(text: &str, mode: Mode, last_line: &str, code: ExitCode) {
        let mut out = Vec::new();
        let found = report(
            Config::parse(Path::new("bennu.toml"), text, mode),
            mode,
            false,
            &mut out,
        )
        .expect("written");
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out.lines().last(), Some(last_line), "{out}");
        assert_eq!(format!("{found:?}"), format!("{code:?}"));
    }

    #[test]
    fn the_last_line_is_the_verdict() {
        let good = "[[mounts]]\npath = \"/socket\"\n";
        check(
            good,
            Mode::Dev,
            "bennu.toml: good for `bennu dev` (mounts: 1, plugins: 0, routes: 0)",
            ExitCode::SUCCESS,
        );
        check("a = 1\nb = 1\n", Mode::Serve, "2 mistakes", ExitCode::FAILURE);
        check(
            "[[mounts]]\npath = \"/socket\"\n[plugins.room]\n",
            Mode::Serve,
            "1 mistake",
            ExitCode::FAILURE,
        );
    }
}
