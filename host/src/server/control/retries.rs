//! Retries for what failed because the machine lacked something: room on a disk, memory for a probe.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The wait before the first retry. Each further wait is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// What waits for a retry, by name.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<String, Retry>);

#[derive(Debug)]
struct Retry {
    /// How many retries there were, with this one.
    count: u32,
    /// `None`: it is being tried.
    at: Option<Instant>,
}

impl Retries {
    /// Puts `name` off, because it has failed. Returns for how long; `None`: it has had `most` retries.
    pub(super) fn later(&mut self, name: &str, most: u32) -> Option<Duration> {
        let count = self.0.get(name).map_or(0, |retry| retry.count);
        if count >= most {
            self.forget(name);
            return None;
        }
        let after = FIRST.saturating_mul(1 << count.min(16)).min(LONGEST);
        let at = Some(Instant::now() + after);
        self.0.insert(name.to_owned(), Retry { count: count + 1, at });
        Some(after)
    }

    /// Ends the retries of `name`: it has passed, or a retry would not help, or there is a new version.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|retry| retry.at).min()
    }

    /// Takes one that is due now.
    pub(super) fn due(&mut self) -> Option<String> {
        let now = Instant::now();
        let due = |(_, retry): &(&String, &mut Retry)| retry.at.is_some_and(|at| at <= now);
        let (name, retry) = self.0.iter_mut().find(due)?;
        retry.at = None;
        Some(name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_as_long_up_to_a_minute_and_there_is_an_end() {
        let mut retries = Retries::default();
        let mut waits: Vec<_> = (0..9).map(|_| retries.later("room", 8)).collect();
        assert_eq!(waits.pop(), Some(None));
        let seconds: Vec<_> = waits.into_iter().flatten().map(|wait| wait.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.next(), None);
        // The next failure starts again at the first wait.
        assert_eq!(retries.later("room", 8), Some(FIRST));
        retries.forget("room");
        assert_eq!(retries.later("room", 8), Some(FIRST));
        assert_eq!(retries.later("room", 0), None);
    }
}
