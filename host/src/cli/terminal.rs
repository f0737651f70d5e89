//! How commands show what they say: in colour on a terminal, plain in a pipe, in columns where there are many of a kind.

use std::fmt::Display;
use std::io::{self, Write as _};

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What matters most.
pub(super) const STRONG: Style = Style::new().bold();
/// What is there for those who look for it.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Whether what is written there may be in colour: on a terminal, and nobody has asked for none (`NO_COLOR`).
pub(super) fn has_colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// One line on standard output, without its colours where they do not belong. A closed pipe is nobody listening, not an error.
pub(super) fn say(line: &str) {
    let mut out = anstream::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A text in a style.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The modes that the terminal has, and has again when this is dropped.
#[derive(Debug)]
pub(super) struct Modes(Termios);

impl Modes {
    /// Notes the modes of the terminal that is the standard input.
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

/// Rows in columns, two spaces between; the first row is the header.
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

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ü".to_owned(), "b".to_owned()], ["room:*".to_owned(), String::new()]];
        let table = table(["topic", "plugin"], &rows);
        let plain = anstream::adapter::strip_str(&table).to_string();
        assert_eq!(plain, "topic   plugin\nü       b\nroom:*");
    }
}
