//! Shows a mistake where it was made: file, line, column, the line itself, and what to write.
//!
//! Values that look secret are never shown: [`Source`] has them masked before anything is rendered.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str};
use serde_json::{Value, json};

/// Where something stands in the file, in bytes.
pub(super) type Span = Range<usize>;

/// A mistake in a configuration, or something odd in it, and its place.
///
/// Displays as plain text; [`Diagnostic::render`] can colour it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    source: Arc<Source>,
    warning: bool,
    message: String,
    at: Span,
    label: Option<String>,
    /// Another place that matters, and why.
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

    /// Says something beside the underlined part.
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

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the configuration works all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.warning
    }

    /// The line and the column, from 1; the column counts characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        self.source.position(self.at.start)
    }

    /// The same for programs.
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

    /// The whole of it, in several lines, without a newline at the end.
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
        // Titles are cleaned of control characters by the renderer, these are not; names in them come from the file.
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

    /// Hides one value from everything that is rendered from here on. Its own quotes and line ends stay.
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

    /// The line that a byte stands in, without its end.
    pub(super) fn line(&self, at: usize) -> Option<&str> {
        let (before, behind) = self.text.split_at_checked(at)?;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = behind.find('\n').map_or(self.text.len(), |newline| at + newline);
        self.text.get(start..end)
    }

    /// The first character, for what is wrong with the whole.
    pub(super) fn start(&self) -> Span {
        0..self.text.chars().next().map_or(0, char::len_utf8)
    }
}

// Its text may hold secrets, and would drown everything else.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Whether the value of a key of this name had better not be shown.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = letters(key);
    key != "secretkeybasefile" && ["secret", "password", "token"].iter().any(|word| key.contains(word))
}

/// What is left of a key when case and punctuation are taken away.
pub(super) fn letters(key: &str) -> String {
    key.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// Hides what follows a `=` behind a name that sounds secret, up to the end of the line. Works on text that is no TOML
/// too, since that gets shown as well; the length stays, so that places in the text stay right.
fn mask_secrets(text: &str) -> String {
    let mut open = None;
    text.split_inclusive('\n')
        .map(|line| mask_line(line, &mut open))
        .collect()
}

/// `open` is the kind of quotes around a hidden text that goes on in the next line.
fn mask_line(line: &str, open: &mut Option<&str>) -> String {
    if let Some(quotes) = *open {
        *open = open.filter(|_| !line.contains(quotes));
        return stars(line);
    }
    let names_one = |equals: &usize| {
        let key_start = line[..*equals].rfind(['{', ',', '=']).map_or(0, |at| at + 1);
        names_a_secret(&line[key_start..*equals])
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

/// As many bytes of `*`; white space and quotes stay as they are.
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
    fn values_that_sound_secret_are_hidden() {
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
    }

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let source = Arc::new(Source::new(Path::new("bennu.toml"), "a = 1\nü = [x]\n"));
        assert_eq!(Diagnostic::error(&source, 0..1, "").position(), (1, 1));
        assert_eq!(Diagnostic::error(&source, 12..13, "").position(), (2, 6));
    }
}
