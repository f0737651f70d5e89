//! How commands write to the terminal: in colour, or plain in a pipe; tables in columns.

use std::fmt::Display;
use std::io;

use anstream::adapter::strip_str;
use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::Value;

use super::lines::escaped;
use super::output::{self, Stream};

/// The most important words.
pub(super) const STRONG: Style = Style::new().bold();
/// Details.
pub(super) const FAINT: Style = Style::new().dimmed();
/// Success.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Failure.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// A warning.
pub(super) const ODD: Style = AnsiColor::Yellow.on_default().bold();

/// Whether to write colours to a stream: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn has_colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Writes a line to standard output, in a pipe without its colours. A closed pipe is no error.
pub(super) fn say(line: &str) {
    let line = match has_colours(&io::stdout()) {
        true => format!("{line}\n"),
        false => format!("{}\n", strip_str(line)),
    };
    output::write(Stream::Out, line.as_bytes());
}

/// Text in a style.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The modes of the terminal. Dropping this restores them.
#[derive(Debug)]
pub(super) struct Modes(Termios);

impl Modes {
    /// Reads the modes of the terminal at standard input.
    pub(super) fn keep() -> io::Result<Self> {
        Ok(Self(tcgetattr(io::stdin())?))
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// An answer of a server whose texts a terminal shows as they are: clients choose names, and some hold control characters.
pub(super) fn printable(answer: Value) -> Value {
    match answer {
        Value::String(text) => escaped(&text).into(),
        Value::Array(list) => list.into_iter().map(printable).collect(),
        Value::Object(map) => {
            let members = map.into_iter();
            Value::Object(
                members
                    .map(|(name, value)| (escaped(&name), printable(value)))
                    .collect(),
            )
        }
        other => other,
    }
}

/// A table, with two spaces between columns.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| lines().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = styled(FAINT, line(&header));
    std::iter::once(head)
        .chain(rows.iter().map(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn names_that_clients_choose_do_nothing_to_the_terminal() {
        let answer = json!({ "topic\u{1b}[31m": ["a\nb", { "é": "\u{9b}2J\u{7f}" }, 1] });
        let shown = json!({ "topic\\u{1b}[31m": ["a\\nb", { "é": "\\u{9b}2J\\u{7f}" }, 1] });
        assert_eq!(printable(answer), shown);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ü".to_owned(), "b".to_owned()], ["room:*".to_owned(), String::new()]];
        let table = table(["topic", "plugin"], &rows);
        let plain = strip_str(&table).to_string();
        assert_eq!(plain, "topic   plugin\nü       b\nroom:*");
    }
}
