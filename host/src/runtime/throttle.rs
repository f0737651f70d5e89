//! Limits repeated log lines: the first is written at once, later ones at most once a second, with their count.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The time between two lines about the same thing.
const PAUSE: Duration = Duration::from_secs(1);

/// The lines of the last second, by key, each with the data to write it again.
#[derive(Debug)]
pub(crate) struct LogThrottle<K, V = ()>(HashMap<K, Said<V>>);

#[derive(Debug)]
struct Said<V> {
    what: V,
    at: Instant,
    more: u64,
}

impl<K: Eq + Hash, V> LogThrottle<K, V> {
    /// A throttle that has written nothing yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes an event. Returns `Some` if it should be logged now, with the number of events since the last line, this one
    /// included; 0 for the first.
    pub(crate) fn say(&mut self, key: K, what: impl FnOnce() -> V, now: Instant) -> Option<(&V, u64)> {
        match self.0.entry(key) {
            Entry::Vacant(new) => {
                let (what, at, more) = (what(), now, 0);
                Some((&new.insert(Said { what, at, more }).what, 0))
            }
            Entry::Occupied(known) => {
                let said = known.into_mut();
                if now.duration_since(said.at) < PAUSE {
                    said.more += 1;
                    return None;
                }
                said.at = now;
                Some((&said.what, std::mem::take(&mut said.more) + 1))
            }
        }
    }

    /// Calls `say` for each key that has waited long enough with events to log. Forgets keys without such events.
    pub(crate) fn say_overdue(&mut self, now: Instant, mut say: impl FnMut(&K, &V, u64)) {
        self.0.retain(|key, said| {
            if now.duration_since(said.at) < PAUSE {
                return true;
            }
            let more = std::mem::take(&mut said.more);
            if more > 0 {
                said.at = now;
                say(key, &said.what, more);
            }
            more > 0
        });
    }

    /// Whether there was a line about this key lately.
    pub(crate) fn knows(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// How many keys there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Eq + Hash, V> Default for LogThrottle<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_then_one_in_a_second_with_what_was_left_out() {
        let (mut seldom, start) = (LogThrottle::new(), Instant::now());
        let mut said = |after_ms| {
            let now = start + Duration::from_millis(after_ms);
            seldom.say("full", || (), now).map(|((), more)| more)
        };
        assert_eq!(
            [0, 1, 999, 1_000, 1_500, 2_500].map(&mut said),
            [Some(0), None, None, Some(3), None, Some(2)]
        );
    }

    #[test]
    fn what_nobody_adds_to_is_told_in_the_end_and_forgotten() {
        let (mut seldom, start) = (LogThrottle::new(), Instant::now());
        let overdue = |seldom: &mut LogThrottle<&'static str, u8>, after_ms| {
            let mut all = Vec::new();
            seldom.say_overdue(start + Duration::from_millis(after_ms), |key, what, more| {
                all.push((*key, *what, more));
            });
            all
        };
        for _ in 0..3 {
            seldom.say("full", || 7, start);
        }
        assert_eq!(overdue(&mut seldom, 500), []);
        assert_eq!(overdue(&mut seldom, 1_000), [("full", 7, 2)]);
        assert_eq!(overdue(&mut seldom, 1_500), []);
        assert_eq!(seldom.len(), 1);
        assert_eq!(overdue(&mut seldom, 2_000), []);
        assert!(seldom.is_empty());
    }
}
