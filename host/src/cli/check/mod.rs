//! `bennu check`: shows every mistake in a configuration, its libraries included, or what is wrong with one library.

mod built;
mod library;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::args::{JsonArg, named_or_found};
use super::terminal::{GOOD, STRONG, has_colours, say, styled};
use crate::config::{Config, ConfigErrors, Diagnostic, Mode, Reload};
use crate::runtime::plugin::pipeline::Wanted;
use crate::server;
pub(super) use built::Libraries;
use library::tried;

pub(super) const HELP: &str = "\
Examples:
  bennu check                          config/bennu.toml of this folder or of one above it
  bennu check my/bennu.toml --dev
  bennu check target/release/libroom.so --settings '{\"max_history\": 10}'

A configuration is checked with the libraries that it names, or with --dev
with those that `bennu dev` has built: each is loaded by a child process that
has the plugin look at its settings. Everything that is wrong is shown at
once. Nothing is built: a plugin that was not built since its last change is
named.

Exit codes:
  0  `bennu serve`, or `bennu dev`, would take it; there may be warnings
  1  it would not, or the file cannot be read
  2  the command line cannot be understood";

/// `bennu check`
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// A configuration, or a library [default: config/bennu.toml, here or in a folder above]
    pub(crate) file: Option<PathBuf>,
    /// Checks a configuration for `bennu dev`, where a plugin needs a package in the workspace, and no library
    #[arg(long)]
    dev: bool,
    /// The settings that a library is tried with
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    settings: String,
    #[command(flatten)]
    json: JsonArg,
}

fn object(text: &str) -> Result<String, String> {
    match serde_json::from_str::<serde_json::Map<_, _>>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("write a JSON object: {error}")),
    }
}

/// Checks the file and shows what it finds.
///
/// # Errors
///
/// If there is no file to check, or it cannot be read. A file with mistakes is no error: the exit code tells.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let file = named_or_found(args.file.as_deref())?;
    if is_library(&file) {
        return library::run(&file, &args.settings, args.json.json);
    }
    let mode = if args.dev { Mode::Dev } else { Mode::Serve };
    let verdict = Verdict::of(&file, mode)?;
    say(&if args.json.json {
        verdict.as_json()
    } else {
        verdict.as_text(has_colours(&io::stdout()))
    });
    Ok(ExitCode::from(u8::from(!verdict.is_good())))
}

/// By what it is called, or by what it begins with.
fn is_library(file: &Path) -> bool {
    let mut start = [0; 4];
    file.extension().is_some_and(|end| end == "so")
        || File::open(file).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *b"\x7fELF")
}

/// What was found.
struct Verdict {
    file: PathBuf,
    mode: Mode,
    /// How many mounts, plugins and routes there are.
    counts: [(&'static str, usize); 3],
    diagnostics: Vec<Diagnostic>,
    /// The plugins that were not looked at, as they are not built.
    unbuilt: Vec<String>,
}

impl Verdict {
    fn of(file: &Path, mode: Mode) -> anyhow::Result<Self> {
        let (config, mut diagnostics) = match Config::examine(file, mode) {
            Ok((config, diagnostics)) => (Some(config), diagnostics),
            Err(ConfigErrors::Mistakes { .. }) if file.extension().is_some_and(|end| end != "toml") => {
                anyhow::bail!(
                    "{} is no configuration (TOML) and no library (.so): name one of these, or none for config/bennu.toml",
                    file.display()
                )
            }
            Err(ConfigErrors::Mistakes { diagnostics }) => (None, diagnostics),
            Err(unreadable) => return Err(unreadable.into()),
        };
        let mut unbuilt = Vec::new();
        if let Some(config) = &config {
            let libraries = match mode {
                Mode::Dev => Libraries::of_workspace(config),
                Mode::Serve => Libraries::named(config),
            };
            diagnostics.extend(refused(config, &libraries.files)?);
            diagnostics.extend(libraries.mistakes);
            unbuilt = libraries.unbuilt;
            // Past a mistake, what seems to be missing may only not be understood.
            if diagnostics.iter().all(Diagnostic::is_warning) {
                diagnostics.extend(config.lacks());
            }
        }
        let count = |count: fn(&Config) -> usize| config.as_ref().map_or(0, count);
        Ok(Self {
            file: file.to_owned(),
            mode,
            counts: [
                ("mounts", count(|config| config.mounts.len())),
                ("plugins", count(|config| config.plugins.len())),
                ("routes", count(|config| config.routes.len())),
            ],
            diagnostics,
            unbuilt,
        })
    }

    fn mistakes(&self) -> usize {
        self.diagnostics.len() - self.warnings()
    }

    fn warnings(&self) -> usize {
        { self.diagnostics.iter() }
            .filter(|diagnostic| diagnostic.is_warning())
            .count()
    }

    fn is_good(&self) -> bool {
        self.mistakes() == 0
    }

    /// The command that it is checked for.
    fn command(&self) -> &'static str {
        match self.mode {
            Mode::Dev => "dev",
            Mode::Serve => "serve",
        }
    }

    fn as_text(&self, colours: bool) -> String {
        let diagnostics = self.diagnostics.clone();
        let mut parts = Vec::new();
        if !diagnostics.is_empty() {
            parts.push(ConfigErrors::Mistakes { diagnostics }.render(colours));
        }
        if !self.unbuilt.is_empty() {
            let note = styled(STRONG, "note");
            let plugins = self.unbuilt.join(", ");
            parts.push(format!(
                "{note}: not built since the last change, and so not checked yet, settings included: {plugins}"
            ));
        }
        parts.push(self.last_line());
        parts.join("\n\n")
    }

    fn last_line(&self) -> String {
        let number = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let warnings = match self.warnings() {
            0 => String::new(),
            warnings => format!(", {}", number(warnings, "warning")),
        };
        match self.mistakes() {
            0 => {
                let counts = self.counts.map(|(what, count)| format!("{what}: {count}")).join(", ");
                let good = styled(GOOD, "good");
                format!(
                    "{}: {good} for `bennu {}` ({counts}){warnings}",
                    self.file.display(),
                    self.command()
                )
            }
            mistakes => number(mistakes, "mistake") + &warnings,
        }
    }

    fn as_json(&self) -> String {
        let diagnostics: Vec<_> = self.diagnostics.iter().map(Diagnostic::to_json).collect();
        json!({
            "file": self.file, "for": self.command(), "good": self.is_good(), "diagnostics": diagnostics,
            "unbuilt": self.unbuilt,
        })
        .to_string()
    }
}

/// Tries libraries as a server would, settings included.
fn refused(config: &Config, libraries: &BTreeMap<String, PathBuf>) -> io::Result<Vec<Diagnostic>> {
    let (mut pipeline, _staging) = server::pipeline(config)?;
    pipeline.reports = None;
    let mut refused = Vec::new();
    for (attempt, (name, library)) in (0..).zip(libraries) {
        let Some(plugin) = config.plugins.get(name) else {
            continue;
        };
        let wanted = Wanted {
            plugin: name,
            attempt,
            settings: &plugin.settings,
            allow: plugin.allow.as_deref(),
            carries: plugin.reload == Reload::Migrate,
            limits: plugin.probe,
        };
        if let Err(refusal) = tried(&pipeline, library, &wanted) {
            let diagnostic = match &refusal.settings {
                Some(said) => config.settings_error(name, &said.path, &said.message),
                None => config.library_error(name, &format!("{} ({})", refusal.message, refusal.step)),
            };
            refused.push(match library.exists() {
                true => diagnostic,
                false => diagnostic.help(how_to_build(name, library)),
            });
        }
    }
    Ok(refused)
}

/// What makes a library that is not there.
fn how_to_build(plugin: &str, library: &Path) -> String {
    let folder = library.parent().and_then(Path::file_name).unwrap_or_default();
    let make = match folder.to_str() {
        Some("debug") => format!("build it with `cargo build -p {plugin}`"),
        Some("release") => format!("build it with `cargo build --release -p {plugin}`"),
        _ => "put it there".to_owned(),
    };
    format!("{make}, or say --dev to check without")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, mode: Mode, last_line: &str) {
        let (config, diagnostics) = Config::examine_text(Path::new("bennu.toml"), text, mode).expect("TOML");
        let counts = [
            ("mounts", config.mounts.len()),
            ("plugins", config.plugins.len()),
            ("routes", 0),
        ];
        let verdict = Verdict {
            file: config.file,
            mode,
            counts,
            diagnostics,
            unbuilt: Vec::new(),
        };
        let text = verdict.as_text(false);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain.lines().last(), Some(last_line), "{plain}");
        assert_eq!(verdict.is_good(), last_line.contains("good"));
    }

    #[test]
    fn the_last_line_is_the_verdict() {
        let good = "[[mounts]]\npath = \"/socket\"\n";
        check(
            good,
            Mode::Dev,
            "bennu.toml: good for `bennu dev` (mounts: 1, plugins: 0, routes: 0)",
        );
        check("a = 1\nb = 1\n", Mode::Serve, "2 mistakes");
        check(
            "[[mounts]]\npath = \"/socket\"\n[plugins.room]\n",
            Mode::Serve,
            "1 mistake, 1 warning",
        );
        check(
            "[[mounts]]\npath = \"/socket\"\n[plugins.room]\n",
            Mode::Dev,
            "bennu.toml: good for `bennu dev` (mounts: 1, plugins: 1, routes: 0), 1 warning",
        );
    }
}
