//! Whether the threads that own connections still do their work.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::io::{Entry, Inboxes};

/// Asks the I/O threads of a server for a sign of life. (One that has ended is noticed otherwise.)
#[derive(Clone)]
pub(crate) struct Pulse(Inboxes);

impl Pulse {
    /// The pulse of the threads with these inboxes.
    pub(super) fn new(inboxes: Inboxes) -> Self {
        Self(inboxes)
    }

    /// Whether all of them answer in time.
    pub(crate) async fn beats(&self, patience: Duration) -> bool {
        let (said, mut answers) = mpsc::unbounded_channel();
        // It closes no connection, and is answered.
        self.0.send_all(|| Entry::Drain(0, said.clone()));
        drop(said);
        let deadline = Instant::now() + patience;
        for _ in 0..self.0.count() {
            if !matches!(timeout_at(deadline, answers.recv()).await, Ok(Some(_))) {
                return false;
            }
        }
        true
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").finish_non_exhaustive()
    }
}
