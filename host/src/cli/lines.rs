//! The log of `serve`: text of a plugin stays within its line, so that nobody can mistake it for another line, and nothing that a client
//! has chosen changes how a terminal shows the line.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::runtime::plugin;

/// The default format, except that some characters are escaped: control characters of plugins (line ends among them), unless the log
/// goes to a terminal, and those that [change how text is shown](disguises).
#[derive(Debug)]
pub(super) struct Lines {
    format: Format,
    is_terminal: bool,
}

impl Lines {
    /// With colours for a terminal.
    pub(super) fn new(is_terminal: bool) -> Self {
        Self {
            format: Format::default().with_ansi(is_terminal),
            is_terminal,
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.format.format_event(cx, Writer::new(&mut text), event)?;
        if self.is_terminal || !plugin::wrote(event.metadata()) {
            return out.write_str(&escaped_if(&text, disguises));
        }
        writeln!(out, "{}", escaped(text.trim_end_matches('\n')))
    }
}

/// Whether a character changes how a terminal shows what follows: control characters of eight bits, and marks of direction. Those of
/// seven bits the format escapes itself, where they are not its own.
fn disguises(letter: char) -> bool {
    matches!(letter, '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text without control characters and marks of direction.
pub(super) fn escaped(text: &str) -> String {
    escaped_if(text, |letter| letter.is_control() || disguises(letter))
}

fn escaped_if(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_how_a_line_is_shown_is_escaped() {
        let text = "a\u{9b}31mb\u{202e}c\u{2066}d\u{1b}[0m ü 日\n";
        let shown = "a\\u{9b}31mb\\u{202e}c\\u{2066}d\u{1b}[0m ü 日\n";
        assert_eq!(escaped_if(text, disguises), shown);
        assert_eq!(escaped("a\nb\u{202e}"), "a\\nb\\u{202e}");
    }
}
