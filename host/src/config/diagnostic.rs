//! Shows a mistake at its place: file, line, column, the line itself, and what to write.
//!
//! Never shows a value whose name sounds secret: [`Source`] masks it before anything is rendered.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str};
use serde_json::{Value, json};

use super::sensitive::is_secret_name;

/// A place in the file, in bytes.
pub(super) type Span = Range<usize>;

/// A mistake in a configuration, or a warning about it, with its place.
///
/// Displays as plain text; [`Diagnostic::render`] can colour it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    source: Arc<Source>,
    warning: bool,
    message: String,
    at: Span,
    label: Option<String>,
    /// A second place that matters, and why.
    also: Option<(Span, String)>,
    help: Option<String>,
}

impl Diagnostic {
    pub(super) fn error(source: &Arc<Source>, at: Span, message: impl Into<String>) -> Self {
        Self {
            source: Arc::clone(source),
            warning: false,
            message: message.into(),
            at,
            label: None,
            also: None,
            help: None,
        }
    }

    pub(super) fn warning(source: &Arc<Source>, at: Span, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::error(source, at, message)
        }
    }

    /// Adds a text beside the underlined part.
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self {
            label: Some(label.into()),
            ..self
        }
    }

    /// Points at a second place.
    pub(super) fn also(self, at: Span, label: impl Into<String>) -> Self {
        Self {
            also: Some((at, label.into())),
            ..self
        }
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    pub(super) fn maybe_help(self, help: Option<String>) -> Self {
        Self {
            help: help.or(self.help),
            ..self
        }
    }

    /// The message, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the configuration works nevertheless.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.warning
    }

    /// The line and the column, from 1; the column counts characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        self.source.position(self.at.start)
    }

    /// The whole diagnostic, for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (line, column) = self.position();
        let also = self.also.as_ref().map(|(at, label)| {
            let (line, column) = self.source.position(at.start);
            json!({ "line": line, "column": column, "label": label })
        });
        json!({
            "level": if self.warning { "warning" } else { "error" },
            "file": self.source.path, "line": line, "column": column, "message": self.message, "label": self.label,
            "also": also, "help": self.help,
        })
    }

    /// The whole diagnostic, in several lines, without a newline at the end.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let level = if self.warning { Level::WARNING } else { Level::ERROR };
        let primary = AnnotationKind::Primary
            .span(self.at.clone())
            .label(self.label.as_deref());
        let also = self
            .also
            .iter()
            .map(|(at, label)| AnnotationKind::Context.span(at.clone()).label(label.as_str()));
        let path = self.source.path.to_string_lossy();
        let snippet = Snippet::source(self.source.shown.as_str())
            .path(path)
            .annotation(primary)
            .annotations(also);
        // The renderer removes control characters from titles, but not from these. Names in them come from the file.
        let help = self
            .help
            .iter()
            .map(|help| Level::HELP.message(normalize_untrusted_str(help)));
        let group = level
            .primary_title(self.message.as_str())
            .element(snippet)
            .elements(help);
        renderer.render(&[group])
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The text of a configuration.
#[derive(PartialEq, Eq)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
    shown: String,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            shown: mask_secrets(text),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Hides one value from all that is rendered from now on. Quotes and line ends stay.
    pub(super) fn mask(&mut self, at: Span) {
        let masked = self.shown.get(at.clone()).map(stars);
        if let Some(masked) = masked {
            self.shown.replace_range(at, &masked);
        }
    }

    /// The line and the column of a byte, from 1; the column counts characters.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// The line of a byte, without its line end.
    pub(super) fn line(&self, at: usize) -> Option<&str> {
        let (before, behind) = self.text.split_at_checked(at)?;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = behind.find('\n').map_or(self.text.len(), |newline| at + newline);
        self.text.get(start..end)
    }

    /// The first character, for a mistake of the whole file.
    pub(super) fn start(&self) -> Span {
        0..self.text.chars().next().map_or(0, char::len_utf8)
    }
}

// The text may hold secrets, and is long.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Whether the value of a key with this name is a secret. The path of a file that holds one is not.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.trim().trim_matches(['"', '\'']);
    let is_place = ["_file", "-file", "_dir", "-dir"]
        .iter()
        .any(|ending| key.ends_with(ending));
    !is_place && is_secret_name(key)
}

/// The same for a dotted key, at any of its parts. The part after `plugins` is a plugin's name.
fn dotted_names_a_secret(key: &str) -> bool {
    let mut parts = key.split('.').map(str::trim);
    while let Some(part) = parts.next() {
        if part == "plugins" {
            parts.next();
        } else if names_a_secret(part) {
            return true;
        }
    }
    false
}

/// Hides the rest of a line after `=`, if the name before it sounds secret. Also works on text that is not TOML, because that is
/// shown as well. The length stays, so that places in the text stay right.
fn mask_secrets(text: &str) -> String {
    let mut open = None;
    text.split_inclusive('\n')
        .map(|line| mask_addresses(&mask_line(line, &mut open)))
        .collect()
}

/// Hides the user, the password and the query of each address in a line. The length stays.
fn mask_addresses(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some((before, address)) = rest.split_once("://") {
        let end = address
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\''))
            .unwrap_or(address.len());
        let (address, behind) = address.split_at(end);
        let (place, query) = address.split_at(address.find('?').map_or(end, |at| at + 1));
        let authority = place.find('/').unwrap_or(place.len());
        let (user, host) = place.split_at(place[..authority].rfind('@').unwrap_or(0));
        masked.extend([before, "://", &stars(user), host, &stars(query)]);
        rest = behind;
    }
    masked + rest
}

/// `open` is the kind of quotes around a hidden text that continues on the next line.
fn mask_line(line: &str, open: &mut Option<&str>) -> String {
    if let Some(quotes) = *open {
        *open = open.filter(|_| !line.contains(quotes));
        return stars(line);
    }
    let names_one = |equals: &usize| {
        let key_start = line[..*equals].rfind(['{', ',', '=']).map_or(0, |at| at + 1);
        let key = &line[key_start..*equals];
        // Tables of `[mounts.auth]`, which hold names of files.
        let is_table = line[equals + 1..].trim_start().starts_with('{');
        let is_known = is_table && matches!(key.trim(), "jwt" | "phoenix_token");
        !is_known && dotted_names_a_secret(key)
    };
    let Some(equals) = line.match_indices('=').map(|(equals, _)| equals).find(names_one) else {
        return line.to_owned();
    };
    let (shown, hidden) = line.split_at(equals + 1);
    *open = ["\"\"\"", "'''"]
        .into_iter()
        .find(|quotes| hidden.matches(quotes).count() == 1);
    format!("{shown}{}", stars(hidden))
}

/// As many bytes of `*`. White space and quotes stay.
fn stars(text: &str) -> String {
    let star = |c: char| {
        if c.is_ascii_whitespace() || c == '"' {
            c.to_string()
        } else {
            "*".repeat(c.len_utf8())
        }
    };
    text.chars().map(star).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_masked(line: &str, expected: &str) {
        assert_eq!(mask_secrets(line), expected);
    }

    #[test]
    fn values_whose_names_sound_secret_are_hidden() {
        check_masked(
            "secret_key_base = \"abc\"\nnext = 1\n",
            "secret_key_base = \"***\"\nnext = 1\n",
        );
        check_masked(
            "settings = { api_token = 'ä', x = 1 }",
            "settings = { api_token = ***** * * * *",
        );
        check_masked("Secret-Key-Base=x", "Secret-Key-Base=*");
        check_masked(
            "password = \'\'\'\na\nb\'\'\'\nx = 1\n",
            "password = ***\n*\n****\nx = 1\n",
        );
        check_masked("secret_key_base_file = \"secret\"", "secret_key_base_file = \"secret\"");
        check_masked("listen = \"x\"", "listen = \"x\"");
        check_masked("settings = { api_key = \"abc\" }", "settings = { api_key = \"***\" *");
        check_masked(
            "jwks_url = \"https://me:hunter2@host/set?a=s3cr3t&b=1\" # http://u@h",
            "jwks_url = \"https://**********@host/set?************\" # http://*@h",
        );
        check_masked("u = \"https://host/a@b\"", "u = \"https://host/a@b\"");
        check_masked("plugins.auth.library = \"x\"", "plugins.auth.library = \"x\"");
        check_masked("plugins.auth.settings.key = \"x\"", "plugins.auth.settings.key = \"*\"");
    }

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let source = Arc::new(Source::new(Path::new("bennu.toml"), "a = 1\nü = [x]\n"));
        assert_eq!(Diagnostic::error(&source, 0..1, "").position(), (1, 1));
        assert_eq!(Diagnostic::error(&source, 12..13, "").position(), (2, 6));
    }
}
