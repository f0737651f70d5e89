//! How new code proves itself: what it may do while it is on probation, and how its panics are counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generation::Generation;
use super::health::Health;
use super::swap::Snapshots;
use crate::config;
use crate::runtime::clock;

/// Panics of one generation whose time is remembered: no threshold is larger.
const MAX_REMEMBERED: usize = 100_000;

/// New code on probation.
#[derive(Debug)]
pub(super) struct Proving {
    pub(super) new: Arc<Generation>,
    /// What takes over if it fails; `None`: nothing was there before.
    pub(super) before: Option<Arc<Generation>>,
    pub(super) snapshots: Snapshots,
    /// Panics of the previous code in a period of the same length.
    usual_panics: u64,
    until: Instant,
}

impl Proving {
    /// Puts `new` on probation, as `config` says. The previous code had `usual_panics` in a period of the same length.
    pub(super) fn start(
        new: Arc<Generation>,
        before: Option<Arc<Generation>>,
        snapshots: Snapshots,
        usual_panics: u64,
        config: &config::Plugin,
    ) -> Self {
        Self {
            new,
            before,
            snapshots,
            usual_panics,
            until: clock::now() + config.probation,
        }
    }

    /// For how long it goes on at least. `None`: it is over, and the code had the whole of it to fail in.
    pub(super) fn rest(&self) -> Option<Duration> {
        clock::rest(self.until)
    }

    /// What the code has done that it must not do, and that other code can take over for.
    pub(super) fn failure(&self, config: &config::Plugin) -> Option<String> {
        self.before.as_ref()?;
        let (panics, errors) = (self.new.health.panics(), self.new.health.errors());
        if panics >= config.probation_panics && panics > self.usual_panics {
            Some(format!("{panics} panics on probation"))
        } else if config.probation_errors > 0 && errors >= config.probation_errors {
            Some(format!("{errors} errors on probation"))
        } else {
            None
        }
    }
}

/// When a generation panicked, as far as that matters.
#[derive(Debug, Default)]
pub(super) struct Panics {
    counted: u64,
    times: VecDeque<Instant>,
}

impl Panics {
    /// Notes the panics that have happened since the last look.
    pub(super) fn look(&mut self, health: &Health) {
        let (now, counted) = (clock::now(), health.panics());
        let new = usize::try_from(counted - self.counted).unwrap_or(usize::MAX);
        self.counted = counted;
        self.times.extend(std::iter::repeat_n(now, new.min(MAX_REMEMBERED)));
        let over = self.times.len().saturating_sub(MAX_REMEMBERED);
        self.times.drain(..over);
    }

    /// How many there were in the last `window`.
    pub(super) fn within(&self, window: Duration) -> usize {
        let now = clock::now();
        let fresh = |time: &&Instant| now.saturating_duration_since(**time) <= window;
        self.times.iter().rev().take_while(fresh).count()
    }

    /// Begins to count anew.
    pub(super) fn forget(&mut self) {
        self.times.clear();
    }
}
