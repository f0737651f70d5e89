//! The terminal of `bennu dev`: lines that stay, and below them a status line.
//!
//! In a pipe there is no status line.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use anstream::adapter::strip_str;
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::fstat;
use rustix::termios::tcgetwinsize;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::output::{self, Stream};
use crate::cli::terminal::{FAINT, has_colours, styled};

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
    has_colours: bool,
    /// Standard error is the same terminal.
    shows_log: bool,
    /// The status line.
    status: String,
    /// What the last line is about, if it may be replaced by a longer one.
    last: Option<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            is_terminal: io::stdout().is_terminal(),
            has_colours: has_colours(&io::stdout()),
            shows_log: is_one_terminal(),
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
            output::write(Stream::Out, format!("{CLEAR}{}", state.shown_status()).as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while somebody wrote leaves a bad line at most.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn above(&mut self, before: &str, text: &str, about: Option<String>) {
        let clear = if self.status.is_empty() { "" } else { CLEAR };
        self.write(&format!("{clear}{before}{text}\n{}", self.shown_status()));
        self.last = about;
    }

    fn write(&self, text: &str) {
        match self.has_colours {
            true => output::write(Stream::Out, text.as_bytes()),
            false => output::write(Stream::Out, strip_str(text).to_string().as_bytes()),
        }
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
        if !state.shows_log {
            output::write(Stream::Log, bytes);
            return Ok(bytes.len());
        }
        let text = String::from_utf8_lossy(bytes);
        let clear = if state.status.is_empty() { "" } else { CLEAR };
        // In one queue with all else that this terminal shows, as its order counts.
        output::write(Stream::Out, format!("{clear}{text}{}", state.shown_status()).as_bytes());
        state.last = None;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard output and standard error are the same terminal.
fn is_one_terminal() -> bool {
    let device = |file: BorrowedFd<'_>| fstat(file).map(|stat| stat.st_rdev).ok();
    let (out, err) = (io::stdout(), io::stderr());
    out.is_terminal() && err.is_terminal() && device(out.as_fd()) == device(err.as_fd())
}

fn width(text: &str) -> usize {
    strip_str(text).to_string().chars().count()
}

fn columns() -> usize {
    tcgetwinsize(io::stdout())
        .map_or(80, |size| usize::from(size.ws_col))
        .max(20)
}
