//! The log of `dev` in short: a mark, whose it is, what it says. Without time and module, which `BENNU_LOG` shows.

use std::fmt::{self, Debug, Write as _};

use clap::builder::styling::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::terminal::{BAD, FAINT, STRONG, styled};

/// How those lines begin that say all in their sentence: their fields are for scripts.
const WHOLE: [&str; 3] = ["library refused", "plugin refused", "rolled back"];

/// What is odd, but handled.
const ODD: Style = AnsiColor::Yellow.on_default().bold();

/// `! greeter: a handler is slow topic="greeter:1"`
#[derive(Debug)]
pub(super) struct Brief;

impl<S, N> FormatEvent<S, N> for Brief
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.shown(*event.metadata().level());
        if out.has_ansi_escapes() {
            writeln!(out, "{text}")
        } else {
            writeln!(out, "{}", anstream::adapter::strip_str(&text))
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Line {
    plugin: String,
    message: String,
    /// ` key=value` for each of the rest.
    fields: String,
}

impl Line {
    /// An event may have a field of this name besides what it says.
    fn add_message(&mut self, message: &str) {
        if !self.message.is_empty() {
            self.message.push_str(": ");
        }
        self.message.push_str(message);
    }

    fn shown(&self, level: Level) -> String {
        let mark = match level {
            Level::ERROR => styled(BAD, "✗"),
            Level::WARN => styled(ODD, "!"),
            _ => styled(FAINT, "·"),
        };
        let whose = match &*self.plugin {
            "" => String::new(),
            plugin => format!(" {}:", styled(STRONG, plugin)),
        };
        // What has several lines is told in the first.
        let message = self.message.trim_end();
        let (first, rest) = message.split_at(message.find('\n').unwrap_or(message.len()));
        let fields = match &*self.fields {
            "" => String::new(),
            _ if WHOLE.iter().any(|start| first.starts_with(start)) => String::new(),
            fields => styled(FAINT, fields),
        };
        format!("{mark}{whose} {first}{fields}{rest}")
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "plugin" => self.plugin = value.to_owned(),
            "message" => self.add_message(value),
            name => {
                let _ = write!(self.fields, " {name}={value:?}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "plugin" => self.plugin = format!("{value:?}"),
            "message" => self.add_message(&format!("{value:?}")),
            name => {
                let _ = write!(self.fields, " {name}={value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[track_caller]
    fn check(plugin: &str, message: &str, fields: &str, expected: &str) {
        let line = Line {
            plugin: plugin.into(),
            message: message.into(),
            fields: fields.into(),
        };
        assert_eq!(strip_str(&line.shown(Level::ERROR)).to_string(), expected);
    }

    #[test]
    fn a_line_says_whose_it_is_and_then_what_and_its_fields_in_its_first() {
        check(
            "room",
            "is slow",
            " topic=\"room:1\"",
            "✗ room: is slow topic=\"room:1\"",
        );
        check(
            "room",
            "library refused: why\n --> it",
            " step=\"probe\"",
            "✗ room: library refused: why\n --> it",
        );
        check("", "one\n  two\n", " a=1", "✗ one a=1\n  two");
        check("room", "gone", "", "✗ room: gone");
    }
}
