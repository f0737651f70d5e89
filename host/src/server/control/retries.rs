//! What is to be tried once more, as it failed for want of something that may be there soon: room on a disk, for example.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Until the first time; each further one takes twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// And no longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// By name of what.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<String, Retry>);

#[derive(Debug)]
struct Retry {
    after: Duration,
    /// `None`: it is being tried.
    at: Option<Instant>,
}

impl Retries {
    /// It has failed. Returns after how long it is tried again.
    pub(super) fn later(&mut self, name: &str) -> Duration {
        let before = self.0.get(name).map(|retry| retry.after);
        let after = before.map_or(FIRST, |before| (before * 2).min(LONGEST));
        let at = Some(Instant::now() + after);
        self.0.insert(name.to_owned(), Retry { after, at });
        after
    }

    /// It has not failed, or not so that it would help.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|retry| retry.at).min()
    }

    /// What is to be tried now, one at a time.
    pub(super) fn due(&mut self) -> Option<String> {
        let now = Instant::now();
        let due = |(_, retry): &(&String, &mut Retry)| retry.at.is_some_and(|at| at <= now);
        let (name, retry) = self.0.iter_mut().find(due)?;
        retry.at = None;
        Some(name.clone())
    }
}
