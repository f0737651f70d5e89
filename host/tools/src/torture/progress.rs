//! Shows on standard error how far a run is.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::terminal::StatusLine;

/// The progress of a run: a status line on a terminal, otherwise a line now and then.
pub(super) struct Progress {
    line: StatusLine,
    /// When the last line was written.
    last: Cell<Instant>,
}

impl Progress {
    /// The least time between two updates that are not overwritten.
    const INTERVAL: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self {
            line: StatusLine::new(),
            last: Cell::new(Instant::now()),
        }
    }

    /// Shows that the next step begins.
    pub(super) fn step(&self, text: &str) {
        self.last.set(Instant::now());
        if self.line.is_terminal {
            self.line.show(text);
        } else {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Shows how far the current step is. Skips most updates unless a terminal overwrites them.
    pub(super) fn update(&self, text: impl FnOnce() -> String) {
        if self.line.is_terminal || self.last.get().elapsed() >= Self::INTERVAL {
            self.step(&text());
        }
    }

    /// Removes the status line.
    pub(super) fn end(&self) {
        self.line.clear();
    }
}
