//! Output for people: styles, a status line, errors with their causes.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// For event names.
pub(crate) const STRONG: Style = Style::new().bold();
/// For hints and repetitions.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// For success.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// For errors.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Whether to write colours to this stream: it is a terminal, and `NO_COLOR` is not set.
pub(crate) fn has_colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Prints one line to standard output, without colours unless it is a terminal. A closed pipe is not an error: nobody
/// is reading.
pub(crate) fn say(line: &str) {
    let mut out = anstream::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints an error to standard error, with a suggestion what to do about it.
pub(crate) fn complain(what: &str, help: Option<&str>) {
    let mut err = anstream::stderr();
    // There is nowhere to report a failure to.
    let _ = writeln!(err, "{} {what}", styled(BAD, "error:"));
    if let Some(help) = help {
        let _ = writeln!(err, "  = help: {help}");
    }
}

/// A text in a style.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// An error and its causes in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

/// A line on standard error that each update overwrites. Shows nothing unless standard error is a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusLine {
    pub(crate) is_terminal: bool,
}

impl StatusLine {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub(crate) fn show(self, line: &str) {
        if self.is_terminal {
            let mut err = io::stderr();
            let _ = write!(err, "\r\x1b[2K{line}");
            let _ = err.flush();
        }
    }

    /// Removes the line.
    pub(crate) fn clear(self) {
        self.show("");
    }
}

/// The modes of the terminal that is the standard input. Dropping this restores them.
#[derive(Debug)]
pub(crate) struct Modes(Termios);

impl Modes {
    /// Notes the current modes.
    pub(crate) fn keep() -> io::Result<Self> {
        Ok(Self(tcgetattr(io::stdin())?))
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        source: Option<Box<Failure>>,
    }

    #[test]
    fn a_cause_that_the_error_repeats_is_written_once() {
        let error = |text, source| Failure {
            text,
            source: Option::map(source, Box::new),
        };
        let cause = || Some(error("no route", None));
        assert_eq!(
            in_one_line(&error("cannot connect", cause())),
            "cannot connect: no route"
        );
        assert_eq!(in_one_line(&error("failed: no route", cause())), "failed: no route");
    }
}
