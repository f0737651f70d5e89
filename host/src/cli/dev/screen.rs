//! The terminal of `bennu dev`: lines that stay, and below them a status line.
//!
//! In a pipe there is no status line.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use anstream::adapter::strip_str;
use rustix::termios::tcgetwinsize;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::terminal::{FAINT, styled};

/// Back to the start of the line, which is emptied.
const CLEAR: &str = "\r\x1b[2K";
/// One line up.
const UP: &str = "\x1b[A";

/// A clone is the same screen.
#[derive(Clone, Debug)]
pub(super) struct Screen(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    is_terminal: bool,
    /// The status line.
    status: String,
    /// What the last line is about, if it may be replaced by a longer one.
    last: Option<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            is_terminal: io::stdout().is_terminal(),
            status: String::new(),
            last: None,
        })))
    }

    /// Adds a line, or several.
    pub(super) fn say(&self, text: &str) {
        self.lock().above("", text, None);
    }

    /// Adds a line about `what`. [`say_more`](Self::say_more) may replace it.
    pub(super) fn say_about(&self, what: &str, text: &str) {
        self.lock().above("", text, Some(what.to_owned()));
    }

    /// Replaces the line about `what` by `whole`, if that line is still the last and `whole` fits; otherwise adds the line `rest`.
    pub(super) fn say_more(&self, what: &str, whole: &str, rest: &str) {
        let mut state = self.lock();
        if state.is_terminal && state.last.as_deref() == Some(what) && width(whole) < columns() {
            state.above(&format!("{UP}{CLEAR}"), whole, None);
        } else {
            state.above("", rest, None);
        }
    }

    /// Sets the status line; an empty text removes it.
    pub(super) fn status(&self, text: &str) {
        let mut state = self.lock();
        if state.is_terminal {
            state.status = text.to_owned();
            let mut out = io::stdout().lock();
            // If the terminal is gone, there is nobody to tell, here and below.
            let _ = write!(out, "{CLEAR}{}", state.shown_status()).and_then(|()| out.flush());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while somebody wrote leaves a bad line at most.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn above(&mut self, before: &str, text: &str, about: Option<String>) {
        let mut out = anstream::stdout().lock();
        let clear = if self.status.is_empty() { "" } else { CLEAR };
        let _ = write!(out, "{clear}{before}{text}\n{}", self.shown_status()).and_then(|()| out.flush());
        self.last = about;
    }

    /// As much of the status as fits into one line.
    fn shown_status(&self) -> String {
        let text: String = self.status.chars().take(columns().saturating_sub(1)).collect();
        if text.is_empty() { text } else { styled(FAINT, text) }
    }
}

/// The log goes to standard error, above the status line.
impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogWriter(self.lock())
    }
}

/// Writes one event of the log.
pub(super) struct LogWriter<'a>(MutexGuard<'a, State>);

impl Write for LogWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = &mut *self.0;
        let mut out = io::stdout().lock();
        if !state.status.is_empty() {
            write!(out, "{CLEAR}")?;
            out.flush()?;
        }
        io::stderr().write_all(bytes)?;
        state.last = None;
        write!(out, "{}", state.shown_status())?;
        out.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn width(text: &str) -> usize {
    strip_str(text).to_string().chars().count()
}

fn columns() -> usize {
    tcgetwinsize(io::stdout())
        .map_or(80, |size| usize::from(size.ws_col))
        .max(20)
}
