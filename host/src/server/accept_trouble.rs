//! A listener that the system gives no connections. Usually the process is out of descriptors, and some will be free soon.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use crate::runtime::throttle::LogThrottle;

/// How long a listener waits after a failure.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// How long accepting must work again before the log says so.
const WELL: Duration = Duration::from_secs(1);

/// The failures of one listener, and their log lines: at most one a second for each error.
#[derive(Debug)]
pub(crate) struct AcceptTrouble {
    /// Whose connections these are, for the log.
    of: &'static str,
    /// By error number.
    said: LogThrottle<Option<i32>>,
    last: Option<Instant>,
}

impl AcceptTrouble {
    /// None yet.
    #[must_use]
    pub(crate) fn of(of: &'static str) -> Self {
        Self {
            of,
            said: LogThrottle::default(),
            last: None,
        }
    }

    /// Notes that a connection could not be accepted.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        self.last = Some(now);
        if let Some((_, more)) = self.said.say(error.raw_os_error(), || (), now) {
            let more = (more > 0).then_some(more);
            tracing::error!(
                error = error as &dyn Error,
                of = self.of,
                more,
                "cannot accept connections"
            );
        }
    }

    /// Notes that one was accepted.
    pub(crate) fn went_well(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= WELL) {
            (self.said, self.last) = (LogThrottle::default(), None);
            tracing::info!(of = self.of, "accepting connections again");
        }
    }
}
