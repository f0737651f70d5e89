//! The short form of the log in `dev`: a mark, the plugin, the message. `BENNU_LOG` shows it with time and module.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::reloads::REJECTED_BEFORE;
use crate::cli::terminal::{BAD, FAINT, ODD, STRONG, styled};

/// How messages begin that need no fields: the sentence says everything, the fields are for scripts.
const WHOLE: [&str; 3] = ["library rejected", "plugin not loaded", "rolled back"];

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
        // `Reloads` makes one line of it.
        if line.message.starts_with(REJECTED_BEFORE) {
            return Ok(());
        }
        let text = line.shown(*event.metadata().level());
        if out.has_ansi_escapes() {
            writeln!(out, "{text}")
        } else {
            writeln!(out, "{}", anstream::adapter::strip_str(&text))
        }
    }
}

/// An event of the log.
#[derive(Default)]
struct Line {
    plugin: String,
    message: String,
    /// ` key=value` for each of the other fields.
    fields: String,
}

impl Line {
    /// Besides its message, an event may have a field of the name `message`.
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
        // The fields go to the end of the first line.
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
    fn a_line_has_the_plugin_the_message_and_the_fields_at_the_end_of_its_first_line() {
        check(
            "room",
            "is slow",
            " topic=\"room:1\"",
            "✗ room: is slow topic=\"room:1\"",
        );
        check(
            "room",
            "library rejected: why\n --> it",
            " step=\"probe\"",
            "✗ room: library rejected: why\n --> it",
        );
        check("", "one\n  two\n", " a=1", "✗ one a=1\n  two");
        check("room", "gone", "", "✗ room: gone");
    }
}
