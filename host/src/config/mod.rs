//! Reads `bennu.toml`.
//!
//! [`Config::read`] either gives a whole configuration, checked and complete, or every mistake of the file at once, each
//! with its place. Nothing after it asks again whether a setting is valid.

mod amount;
mod check;
mod complaint;
mod content_hash;
mod diagnostic;
mod handshake;
mod json;
pub(crate) mod model;
pub(crate) mod origin;
mod phoenix_0_11;
mod places;
mod probe_limits;
mod reader;
mod schema;
pub(crate) mod secret;
mod sections;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) use content_hash::ContentHash;
pub(crate) use diagnostic::Diagnostic;
pub use model::*;
pub(crate) use origin::OriginError;
pub(crate) use probe_limits::ProbeLimits;
pub(crate) use schema::schema;
use secret::SECRET_VARIABLE;

use check::Whole;
pub(crate) use complaint::Complaint;
use diagnostic::{Source, Span, names_a_secret};
pub(crate) use reader::nearest;
use reader::{Mistakes, Section, is_secret_key_base};
use sections::Surroundings;

/// What the configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `bennu dev`: the admin listener is on, pages from this machine may connect, and no plugin needs a library.
    Dev,
    /// `bennu serve`.
    Serve,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file could not be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that cannot be done. Warnings may be among them, at least one is none.
    #[error("{}", Listing { diagnostics, colours: false })]
    Mistakes {
        /// In the order of the file.
        diagnostics: Vec<Diagnostic>,
    },
}

impl ConfigErrors {
    /// All of it, as text for a terminal or a log.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        match self {
            Self::Unreadable { source, .. } => format!("error: {self}: {source}"),
            Self::Mistakes { diagnostics } => Listing { diagnostics, colours }.to_string(),
        }
    }
}

/// One diagnostic after the other, with an empty line between.
struct Listing<'a> {
    diagnostics: &'a [Diagnostic],
    colours: bool,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A warning may only be what follows from a mistake.
        let (warnings, mistakes): (Vec<_>, Vec<_>) = self.diagnostics.iter().partition(|found| found.is_warning());
        let rendered: Vec<String> = mistakes
            .into_iter()
            .chain(warnings)
            .map(|diagnostic| diagnostic.render(self.colours))
            .collect();
        f.write_str(&rendered.join("\n\n"))
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has any mistake.
    pub fn read(file: &Path, mode: Mode) -> Result<Self, ConfigErrors> {
        Self::examine(file, mode).and_then(without_mistakes)
    }

    /// Reads and checks a text. `file` is where it comes from: its name is shown, and relative paths start at its folder.
    ///
    /// # Errors
    ///
    /// If the text has any mistake.
    pub fn parse(file: &Path, text: &str, mode: Mode) -> Result<Self, ConfigErrors> {
        Self::examine_text(file, text, mode).and_then(without_mistakes)
    }

    /// Reads a file as far as it goes, with all that is to be said about it. With a mistake among that, the configuration
    /// has defaults where it should have something else, and is not to be served.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is no TOML.
    pub fn examine(file: &Path, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        let unreadable = |source| ConfigErrors::Unreadable {
            file: file.to_owned(),
            source,
        };
        let bytes = std::fs::read(file).map_err(unreadable)?;
        match str::from_utf8(&bytes) {
            Ok(text) => Self::examine_text(file, text, mode),
            Err(error) => {
                let source = Arc::new(Source::new(file, &String::from_utf8_lossy(&bytes)));
                let at = error.valid_up_to();
                let diagnostic = Diagnostic::error(&source, at..at + '\u{fffd}'.len_utf8(), "this is no UTF-8");
                Err(ConfigErrors::Mistakes {
                    diagnostics: vec![diagnostic.help("save the file as UTF-8")],
                })
            }
        }
    }

    /// As [`Config::examine`], with a text; `file` as for [`Config::parse`].
    ///
    /// # Errors
    ///
    /// If the text is no TOML.
    pub fn examine_text(file: &Path, text: &str, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        let mut source = Source::new(file, text);
        let mut secrets = Vec::new();
        find_secrets(root.get_ref(), &mut source, &mut secrets);
        let source = Arc::new(source);
        let mistakes = Mistakes::new(&source);
        note_syntax(&syntax, &source, &mistakes);
        // Past anything but a key that stands twice, which table a line belongs to would be a guess.
        if syntax.iter().any(|error| error.message() != "duplicate key") {
            return Err(ConfigErrors::Mistakes {
                diagnostics: mistakes.into_sorted(),
            });
        }
        for key in secrets {
            mistakes.add(refused_secret(&mistakes, key));
        }
        let top = Section::new("the configuration", source.start(), Some(root.get_ref()), &mistakes);
        let config = read_whole(file, mode, top, &source, &mistakes);
        Ok((config, mistakes.into_sorted()))
    }

    /// Where clients connect.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen_instead.unwrap_or(self.server.listen)
    }

    /// Whether somebody has named that address, in the file or on the command line.
    #[must_use]
    pub fn names_listen(&self) -> bool {
        self.listen_instead.is_some() || self.server.names_listen
    }
}

/// What was read, if it has no mistake; the rest are its warnings.
fn without_mistakes((config, diagnostics): (Config, Vec<Diagnostic>)) -> Result<Config, ConfigErrors> {
    if diagnostics.iter().all(Diagnostic::is_warning) {
        return Ok(Config {
            warnings: diagnostics,
            ..config
        });
    }
    Err(ConfigErrors::Mistakes { diagnostics })
}

fn read_whole(file: &Path, mode: Mode, top: Section<'_>, source: &Arc<Source>, mistakes: &Mistakes) -> Config {
    let folder = folder_of(file);
    let around = Surroundings { mode, folder: &folder };
    let server = sections::server(top.section("server"), &around);
    let admin = sections::admin(top.section("admin"), &around);
    let log = sections::log(top.section("log"));
    let limits = sections::limits(top.section("limits"));
    let mounts: Vec<_> = top
        .sections("mounts")
        .into_iter()
        .map(|section| sections::mount(section, &server, mode))
        .collect();
    let plugins = top.named_sections("plugins").into_iter();
    let plugins: Vec<_> = plugins
        .map(|(name, section)| sections::plugin(name, section, &around))
        .collect();
    let routes: Vec<_> = top.sections("routes").into_iter().map(sections::route).collect();
    top.finish();
    Whole {
        mode,
        mounts: &mounts,
        plugins: &plugins,
        routes: &routes,
        mistakes,
    }
    .check();
    Config {
        file: file.to_owned(),
        server,
        admin,
        log,
        limits,
        mounts: mounts.into_iter().map(|read| Arc::new(read.mount)).collect(),
        plugins: plugins
            .into_iter()
            .map(|read| (read.name.into_inner(), read.plugin))
            .collect(),
        routes: routes.into_iter().filter_map(complete).map(Arc::new).collect(),
        listen_instead: None,
        program: None,
        warnings: Vec::new(),
        source: Arc::clone(source),
    }
}

/// A route without the places of its parts. One that lacks a part has been noted as a mistake.
fn complete(read: sections::ReadRoute) -> Option<Route> {
    let names =
        |names: Option<Vec<Spanned<String>>>| names.map(|names| names.into_iter().map(Spanned::into_inner).collect());
    Some(Route {
        topic: read.topic?.into_inner(),
        plugin: read.plugin?.into_inner(),
        transports: names(read.transports),
        mounts: names(read.mounts),
        assigns: read.assigns,
        replaceable: read.replaceable,
    })
}

/// The folder that relative paths start at, without symbolic links.
fn folder_of(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let absolute = || std::path::absolute(folder).unwrap_or(folder.to_owned());
    folder.canonicalize().unwrap_or_else(|_| absolute())
}

/// Notes what is no TOML.
fn note_syntax(errors: &[toml::de::Error], source: &Source, mistakes: &Mistakes) {
    for error in errors {
        let at = error.span().unwrap_or(source.start());
        let help = source.line(at.start).and_then(written_amount);
        mistakes.add(mistakes.error(at, error.message()).maybe_help(help));
    }
}

/// What to write in a line such as `linger_ms = 10s`, which is no TOML.
fn written_amount(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    amount::meant(key.trim(), value.split('#').next().unwrap_or(value))
}

/// Hides every value that sounds secret, and lists the keys that claim to be `secret_key_base`.
fn find_secrets(table: &DeTable<'_>, source: &mut Source, found: &mut Vec<Span>) {
    for (key, value) in table {
        if names_a_secret(key.get_ref()) {
            source.mask(value.span());
        }
        if is_secret_key_base(key.get_ref()) {
            found.push(key.span());
        }
        find_secrets_in(value, source, found);
    }
}

fn find_secrets_in(value: &Spanned<DeValue<'_>>, source: &mut Source, found: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::Table(table) => find_secrets(table, source, found),
        DeValue::Array(list) => list.iter().for_each(|item| find_secrets_in(item, source, found)),
        _ => {}
    }
}

fn refused_secret(mistakes: &Mistakes, key: Span) -> Diagnostic {
    let help =
        format!("set {SECRET_VARIABLE} in the environment, or name a file by `secret_key_base_file` in `[server]`");
    mistakes
        .error(
            key,
            "the secret may not stand in the configuration, which gets copied and committed",
        )
        .help(help)
}

#[cfg(test)]
mod tests;
