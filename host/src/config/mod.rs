//! Reads `bennu.toml`.
//!
//! [`Config::read`] returns either a complete, valid configuration or every mistake in the file at once, each with its
//! place. No later code asks again whether a setting is valid.
//!
//! From the bottom to the top: texts and checks that know no setting ([`words`], [`amount`], [`sensitive`], [`trust`]),
//! diagnostics, the settings as values ([`model`]), the [`reader`], and what it reads section by section.

mod amount;
mod api;
mod api_model;
pub(crate) mod api_secret;
mod around;
mod auth;
mod auth_settings;
mod check;
mod cluster;
mod cluster_model;
mod complaint;
mod content_hash;
mod diagnostic;
mod handshake;
mod json;
mod listeners;
mod listening;
mod longpoll;
mod mistakes;
pub(crate) mod model;
pub(crate) mod origin;
mod phoenix_0_11;
mod places;
mod plugin_model;
mod probe_limits;
mod rates;
mod rates_model;
mod reader;
mod schema;
pub(crate) mod secret;
mod sections;
pub(crate) mod sensitive;
mod shape;
mod supabase;
mod telemetry;
mod telemetry_model;
mod template;
pub(crate) mod trust;
mod whole;
mod words;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[cfg(feature = "jwks")]
pub(crate) use auth_settings::Jwks;
pub(crate) use auth_settings::{Auth, Jwt, KeySource, OnExpiry, PhoenixToken, TokenPlace};
#[cfg(feature = "cluster")]
pub(crate) use cluster_model::Login;
pub(crate) use complaint::Complaint;
pub(crate) use content_hash::ContentHash;
pub(crate) use diagnostic::Diagnostic;
#[cfg(any(feature = "tls", test))]
pub(crate) use listening::TlsVersion;
pub(crate) use listening::{At, Certificate, Listener, Proxies, ProxyHeader, Tls};
pub use model::*;
pub(crate) use probe_limits::ProbeLimits;
pub(crate) use rates_model::{AddressLimits, Exempt, Pace, Paces};
pub(crate) use schema::schema;
pub(crate) use sections::check_level;
#[cfg(feature = "telemetry")]
pub(crate) use telemetry_model::HEADERS_VARIABLE;
pub(crate) use telemetry_model::{Follow, Telemetry};
pub(crate) use words::nearest;

use around::Surroundings;
use diagnostic::{Source, Span, names_a_secret};
use mistakes::Mistakes;
use reader::{Section, is_secret_key_base};
use secret::SECRET_VARIABLE;
use whole::{absolute, folder_of, read_whole};

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
    /// The file has mistakes. Warnings may be among them.
    #[error("{}", Listing { diagnostics, colours: false })]
    Mistakes {
        /// In file order.
        diagnostics: Vec<Diagnostic>,
    },
}

impl ConfigErrors {
    /// The whole error, as text for a terminal or a log.
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
        // A warning may only be the consequence of a mistake.
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

    /// Reads and checks a text. Diagnostics name `file`, and relative paths start at its folder.
    ///
    /// # Errors
    ///
    /// If the text has any mistake.
    pub fn parse(file: &Path, text: &str, mode: Mode) -> Result<Self, ConfigErrors> {
        Self::examine_text(file, text, mode).and_then(without_mistakes)
    }

    /// Reads a file as far as possible, and returns it with all mistakes and warnings. After a mistake the configuration has
    /// defaults in place of what could not be read, and must not be served.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is not TOML.
    pub fn examine(file: &Path, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        Self::examine_file(file, &absolute(file), mode)
    }

    /// Reads and checks the file of this configuration again, wherever the process has gone since. Otherwise as [`Config::read`].
    pub(crate) fn read_again(&self, mode: Mode) -> Result<Self, ConfigErrors> {
        self.examine_again(mode).and_then(without_mistakes)
    }

    /// Reads the file of this configuration again, wherever the process has gone since. Otherwise as [`Config::examine`].
    pub(crate) fn examine_again(&self, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        Self::examine_file(&self.file, self.path.as_deref().unwrap_or(&self.file), mode)
    }

    /// Reads the file at `path`, an absolute one. Diagnostics name it `file`.
    fn examine_file(file: &Path, path: &Path, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        let unreadable = |source| ConfigErrors::Unreadable {
            file: file.to_owned(),
            source,
        };
        let bytes = std::fs::read(path).map_err(unreadable)?;
        match str::from_utf8(&bytes) {
            Ok(text) => Self::examine_placed(file, path, text, mode).map(|(config, diagnostics)| {
                let path = Some(path.to_owned());
                (Self { path, ..config }, diagnostics)
            }),
            Err(error) => {
                let source = Arc::new(Source::new(file, &String::from_utf8_lossy(&bytes)));
                let at = error.valid_up_to();
                let diagnostic = Diagnostic::error(&source, at..at + '\u{fffd}'.len_utf8(), "this is not UTF-8");
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
    /// If the text is not TOML.
    pub fn examine_text(file: &Path, text: &str, mode: Mode) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        Self::examine_placed(file, file, text, mode)
    }

    /// Reads a text as if it were at `path`. Diagnostics name it `file`.
    fn examine_placed(
        file: &Path,
        path: &Path,
        text: &str,
        mode: Mode,
    ) -> Result<(Self, Vec<Diagnostic>), ConfigErrors> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        let mut source = Source::new(file, text);
        let mut secrets = Vec::new();
        find_secrets(root.get_ref(), &mut source, &mut secrets);
        let source = Arc::new(source);
        let mistakes = Mistakes::new(&source);
        note_syntax(&syntax, &source, &mistakes);
        // After a syntax error other than a duplicate key, nobody can tell which table a line belongs to.
        if syntax.iter().any(|error| error.message() != "duplicate key") {
            return Err(ConfigErrors::Mistakes {
                diagnostics: mistakes.into_sorted(),
            });
        }
        for key in secrets {
            mistakes.add(refused_secret(&mistakes, key));
        }
        let top = Section::new("the configuration", source.start(), Some(root.get_ref()), &mistakes);
        let folder = folder_of(path);
        let config = read_whole(file, &Surroundings { mode, folder: &folder }, top, &source, &mistakes);
        Ok((config, mistakes.into_sorted()))
    }

    /// What identifies the text that was read.
    #[must_use]
    pub(crate) fn contents(&self) -> ContentHash {
        ContentHash::of(self.source.text().as_bytes())
    }

    /// Where clients connect without TLS, unless that is only elsewhere.
    #[must_use]
    pub fn listen(&self) -> Option<SocketAddr> {
        self.listen_instead.or(self.server.listen)
    }

    /// How many connections there may be.
    #[must_use]
    pub(crate) fn max_connections(&self) -> usize {
        self.limits.max_connections
    }

    /// Whether the file or the command line names that address.
    #[must_use]
    pub fn names_listen(&self) -> bool {
        self.listen_instead.is_some() || self.server.names_listen
    }
}

/// The configuration with its warnings, if it has no mistake.
fn without_mistakes((config, diagnostics): (Config, Vec<Diagnostic>)) -> Result<Config, ConfigErrors> {
    if diagnostics.iter().all(Diagnostic::is_warning) {
        return Ok(Config {
            warnings: diagnostics,
            ..config
        });
    }
    Err(ConfigErrors::Mistakes { diagnostics })
}

/// Notes syntax errors.
fn note_syntax(errors: &[toml::de::Error], source: &Source, mistakes: &Mistakes) {
    for error in errors {
        let at = error.span().unwrap_or(source.start());
        let help = source.line(at.start).and_then(written_amount);
        mistakes.add(mistakes.error(at, error.message()).maybe_help(help));
    }
}

/// What to write in a line such as `linger_ms = 10s`, which is not TOML.
fn written_amount(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    amount::meant(key.trim(), value.split('#').next().unwrap_or(value))
}

/// Hides every value whose name sounds secret, and lists the keys that claim to be `secret_key_base`. The names of plugins
/// are no names of values: a plugin may be called `auth`.
fn find_secrets(root: &DeTable<'_>, source: &mut Source, found: &mut Vec<Span>) {
    for (key, value) in root {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("plugins", DeValue::Table(plugins)) => {
                { plugins.iter() }.for_each(|(_, plugin)| find_secrets_in(plugin, false, source, found));
            }
            ("mounts", DeValue::Array(mounts)) => {
                { mounts.iter() }.for_each(|mount| find_secrets_of_mount(mount, source, found));
            }
            // The keys of the API hold no secret, but say where theirs are.
            ("api", DeValue::Table(api)) => {
                { api.iter() }.for_each(|(key, value)| match key.get_ref().as_ref() {
                    "keys" => find_secrets_in(value, false, source, found),
                    _ => find_secret(key, value, false, source, found),
                });
            }
            _ => find_secret(key, value, false, source, found),
        }
    }
}

/// The tables of `[mounts.auth]` sound secret, and hold none: their secrets are in files.
fn find_secrets_of_mount(mount: &Spanned<DeValue<'_>>, source: &mut Source, found: &mut Vec<Span>) {
    let Some(mount) = mount.get_ref().as_table() else {
        return;
    };
    for (key, value) in mount {
        match value.get_ref().as_table().filter(|_| key.get_ref() == "auth") {
            Some(auth) => {
                for (key, value) in auth {
                    if value.get_ref().is_table() && matches!(key.get_ref().as_ref(), "jwt" | "phoenix_token") {
                        find_secrets_in(value, false, source, found);
                    } else {
                        find_secret(key, value, false, source, found);
                    }
                }
            }
            None => find_secret(key, value, false, source, found),
        }
    }
}

/// `hidden`: a table around it has a secret's name.
fn find_secret(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    hidden: bool,
    source: &mut Source,
    found: &mut Vec<Span>,
) {
    if is_secret_key_base(key.get_ref()) {
        found.push(key.span());
    }
    find_secrets_in(value, hidden || names_a_secret(key.get_ref()), source, found);
}

fn find_secrets_in(value: &Spanned<DeValue<'_>>, hidden: bool, source: &mut Source, found: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            { table.iter() }.for_each(|(key, value)| find_secret(key, value, hidden, source, found));
        }
        DeValue::Array(list) => list
            .iter()
            .for_each(|item| find_secrets_in(item, hidden, source, found)),
        _ if hidden => source.mask(value.span()),
        _ => {}
    }
}

fn refused_secret(mistakes: &Mistakes, key: Span) -> Diagnostic {
    let help =
        format!("set {SECRET_VARIABLE} in the environment, or name a file with `secret_key_base_file` in `[server]`");
    mistakes
        .error(
            key,
            "the secret must not be in the configuration, which people copy and commit",
        )
        .help(help)
}

#[cfg(test)]
mod tests;
