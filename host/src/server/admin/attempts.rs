//! Bounds how often somebody may show a wrong secret.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::client_lines::Source;

/// The time in which attempts are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are told apart. Beyond that, all others share one count.
const MOST_SOURCES: usize = 1_000;

/// Wrong secrets of the last minute, by address.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<Source, Failed>>);

/// Wrong secrets of one address.
#[derive(Debug)]
struct Failed {
    since: Instant,
    count: usize,
}

/// Too many were wrong; try again after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

impl Attempts {
    /// Whether a secret is right. Beyond `most` wrong ones in a minute nobody looks at it: not even the right one counts then, or
    /// else guessing would go on.
    pub(super) fn attempt(
        &self,
        source: Source,
        most: usize,
        now: Instant,
        is_right: impl FnOnce() -> bool,
    ) -> Result<bool, TooMany> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |failed: &Failed| now.saturating_duration_since(failed.since);
        if all.len() >= MOST_SOURCES && !all.contains_key(&source) {
            all.retain(|_, failed| age(failed) < WINDOW);
        }
        let source = match all.len() >= MOST_SOURCES && !all.contains_key(&source) {
            true => Source::Others,
            false => source,
        };
        let known = all.get(&source).filter(|failed| age(failed) < WINDOW);
        if let Some(failed) = known.filter(|failed| failed.count >= most) {
            return Err(TooMany(WINDOW.saturating_sub(age(failed))));
        }
        if is_right() {
            return Ok(true);
        }
        let (since, count) = known.map_or((now, 0), |failed| (failed.since, failed.count));
        let count = count + 1;
        all.insert(source, Failed { since, count });
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn from(address: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from_bits(address)))
    }

    #[test]
    fn after_too_many_wrong_secrets_an_address_has_to_wait_and_others_do_not() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(attempts.attempt(from(1), 3, start, || false), Ok(false));
        }
        let later = start + Duration::from_secs(20);
        let refused = attempts.attempt(from(1), 3, later, || panic!("it is not looked at"));
        assert_eq!(refused, Err(TooMany(Duration::from_secs(40))));
        assert_eq!(attempts.attempt(from(2), 3, later, || true), Ok(true));
        assert_eq!(attempts.attempt(from(1), 3, start + WINDOW, || true), Ok(true));
    }

    #[test]
    fn right_secrets_do_not_count() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(attempts.attempt(from(1), 3, now, || true), Ok(true));
        }
    }

    #[test]
    fn no_more_addresses_are_told_apart_than_there_is_room_for() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let many = u32::try_from(MOST_SOURCES).expect("a small number") + 10;
        for address in 0..many {
            let _ = attempts.attempt(from(address), 3, now, || false);
        }
        assert_eq!(attempts.0.lock().expect("not poisoned").len(), MOST_SOURCES + 1);
        assert!(attempts.attempt(from(many), 3, now, || true).is_err());
        assert!(attempts.attempt(from(many), 3, now + WINDOW, || true).is_ok());
    }
}
