//! `bennu check`: shows every mistake in a configuration and its libraries, or what is wrong with one library.

mod built;
mod library;
mod start;

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
  bennu check --serve                  everything that would keep `bennu serve` from starting here
  bennu check my/bennu.toml --dev
  bennu check target/release/libroom.so --settings '{\"max_history\": 10}'

Checks the configuration, the secrets, and the libraries that the
configuration names. A child process loads each library and has the plugin
check its settings. With --serve, also starts each plugin, `init` included,
and tries the addresses. With --dev, checks the libraries that `bennu dev` has
built. Shows all mistakes at once. Builds nothing: names the plugins that were
not built since their last change.

Exit codes:
  0  good; there may be warnings
  1  there are mistakes, or the file cannot be read
  2  the command line cannot be understood";

/// `bennu check`
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// A configuration, or a library [default: config/bennu.toml, here or in a folder above]
    pub(crate) file: Option<PathBuf>,
    /// Checks a configuration for `bennu dev`: each plugin needs a package in the workspace, but no library
    #[arg(long)]
    dev: bool,
    /// Also checks everything that would keep `bennu serve` from starting here: starts each plugin, tries the addresses
    #[arg(long, conflicts_with = "dev")]
    serve: bool,
    /// The settings for a library
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
/// If there is no file, or it cannot be read. Mistakes in it are no error: the exit code tells.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let file = named_or_found(args.file.as_deref())?;
    if is_library(&file) {
        return library::run(&file, &args.settings, args.json.json);
    }
    let depth = match (args.dev, args.serve) {
        (true, _) => Depth::Dev,
        (false, true) => Depth::Serve,
        (false, false) => Depth::Files,
    };
    let verdict = Verdict::of(&file, depth)?;
    say(&if args.json.json {
        verdict.as_json()
    } else {
        verdict.as_text(has_colours(&io::stdout()))
    });
    Ok(ExitCode::from(u8::from(!verdict.is_good())))
}

/// By its name, or by its first bytes.
fn is_library(file: &Path) -> bool {
    let mut start = [0; 4];
    file.extension().is_some_and(|end| end == "so")
        || File::open(file).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *b"\x7fELF")
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// For `bennu dev`.
    Dev,
    /// For `bennu serve`, as far as files and the environment tell.
    Files,
    /// For `bennu serve` on this machine: also what has an effect outside of this process.
    Serve,
}

impl Depth {
    fn mode(self) -> Mode {
        match self {
            Self::Dev => Mode::Dev,
            Self::Files | Self::Serve => Mode::Serve,
        }
    }
}

/// What was found.
struct Verdict {
    file: PathBuf,
    depth: Depth,
    /// The numbers of mounts, plugins and routes.
    counts: [(&'static str, usize); 3],
    diagnostics: Vec<Diagnostic>,
    /// Plugins that were not checked because they are not built.
    unbuilt: Vec<String>,
    max_connections: usize,
    /// How many files the system lets `bennu serve` have open. `None`: not asked, or without limit.
    open_files: Option<u64>,
}

impl Verdict {
    fn of(file: &Path, depth: Depth) -> anyhow::Result<Self> {
        let mode = depth.mode();
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
        let (mut unbuilt, mut open_files) = (Vec::new(), None);
        if let Some(config) = &config {
            let libraries = match mode {
                Mode::Dev => Libraries::of_workspace(config),
                Mode::Serve => Libraries::named(config),
            };
            diagnostics.extend(start::secrets(config, mode));
            if mode == Mode::Serve {
                open_files = Some(start::open_files());
                diagnostics.extend(start::too_few_files(config));
            }
            if depth == Depth::Serve {
                diagnostics.extend(start::addresses(config)?);
                diagnostics.extend(start::store(config));
                diagnostics.extend(start::plugins(config, &libraries.files)?);
            } else {
                diagnostics.extend(rejected(config, &libraries.files));
            }
            diagnostics.extend(libraries.mistakes);
            unbuilt = libraries.unbuilt;
            // After a mistake, something may only seem to be missing.
            if diagnostics.iter().all(Diagnostic::is_warning) {
                diagnostics.extend(config.lacks());
            }
        }
        let count = |count: fn(&Config) -> usize| config.as_ref().map_or(0, count);
        Ok(Self {
            file: file.to_owned(),
            depth,
            counts: [
                ("mounts", count(|config| config.mounts.len())),
                ("plugins", count(|config| config.plugins.len())),
                ("routes", count(|config| config.routes.len())),
            ],
            diagnostics,
            unbuilt,
            max_connections: count(Config::max_connections),
            open_files: open_files.filter(|files| *files < u64::MAX),
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

    /// The command that the file is checked for.
    fn command(&self) -> &'static str {
        match self.depth.mode() {
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
                "{note}: these plugins were not built since their last change, so they and their settings are not checked: {plugins}"
            ));
        }
        if let Some(files) = self.open_files.filter(|_| self.depth == Depth::Serve) {
            let note = styled(STRONG, "note");
            parts.push(format!(
                "{note}: the system allows {files} open files; each of `max_connections` ({}) needs one",
                self.max_connections
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
                let (file, command) = (self.file.display(), self.command());
                let more = match self.depth {
                    Depth::Files => "; --serve also starts the plugins and tries the addresses",
                    Depth::Dev | Depth::Serve => "",
                };
                format!("{file}: {good} for `bennu {command}` ({counts}){warnings}{more}")
            }
            mistakes => number(mistakes, "mistake") + &warnings,
        }
    }

    fn as_json(&self) -> String {
        let diagnostics: Vec<_> = self.diagnostics.iter().map(Diagnostic::to_json).collect();
        json!({
            "file": self.file, "for": self.command(), "good": self.is_good(), "diagnostics": diagnostics,
            "unbuilt": self.unbuilt, "started": self.depth == Depth::Serve,
            "open_files": self.open_files,
        })
        .to_string()
    }
}

/// Tries libraries in a child process, as a server would before it loads them, with their settings.
fn rejected(config: &Config, libraries: &BTreeMap<String, PathBuf>) -> Vec<Diagnostic> {
    let (mut pipeline, _staging) = match server::pipeline(config) {
        Ok(pipeline) => pipeline,
        Err(error) => return vec![start::placed(config, &error)],
    };
    pipeline.reports = None;
    let mut rejected = Vec::new();
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
        if let Err(rejection) = tried(&pipeline, library, &wanted) {
            rejected.push(start::rejected_library(config, name, &rejection, library));
        }
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, depth: Depth, last_line: &str) {
        let (config, diagnostics) = Config::examine_text(Path::new("bennu.toml"), text, depth.mode()).expect("TOML");
        let counts = [
            ("mounts", config.mounts.len()),
            ("plugins", config.plugins.len()),
            ("routes", 0),
        ];
        let verdict = Verdict {
            file: config.file,
            depth,
            counts,
            diagnostics,
            unbuilt: Vec::new(),
            max_connections: 0,
            open_files: None,
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
            Depth::Dev,
            "bennu.toml: good for `bennu dev` (mounts: 1, plugins: 0, routes: 0)",
        );
        check("a = 1\nb = 1\n", Depth::Serve, "2 mistakes");
        check(
            "[[mounts]]\npath = \"/socket\"\n[plugins.room]\n",
            Depth::Serve,
            "1 mistake, 1 warning",
        );
        check(
            "[[mounts]]\npath = \"/socket\"\n[plugins.room]\n",
            Depth::Dev,
            "bennu.toml: good for `bennu dev` (mounts: 1, plugins: 1, routes: 0), 1 warning",
        );
        check(
            good,
            Depth::Files,
            "bennu.toml: good for `bennu serve` (mounts: 1, plugins: 0, routes: 0); --serve also starts the plugins and tries the addresses",
        );
        check(
            good,
            Depth::Serve,
            "bennu.toml: good for `bennu serve` (mounts: 1, plugins: 0, routes: 0)",
        );
    }
}
