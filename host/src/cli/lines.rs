//! The log of `serve`: text of a plugin stays within its line, so that nobody can mistake it for another line.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::runtime::plugin;

/// The default format, except that control characters of plugins (line ends among them) are escaped, unless the log goes to a
/// terminal.
#[derive(Debug, Default)]
pub(super) struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if out.has_ansi_escapes() || !plugin::wrote(event.metadata()) {
            return self.0.format_event(cx, out, event);
        }
        let mut text = String::new();
        self.0.format_event(cx, Writer::new(&mut text), event)?;
        writeln!(out, "{}", escaped(text.trim_end_matches('\n')))
    }
}

/// The text without control characters.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}
