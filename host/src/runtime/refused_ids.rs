//! Socket ids that may not connect for a while, because a backend has disconnected them and clients come back by themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytestring::ByteString;

/// Until when each of them is refused, by the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct RefusedIds {
    until: Mutex<HashMap<ByteString, Instant>>,
    /// How many there are, so that a connect looks for nothing while there is none.
    count: AtomicUsize,
}

/// As many are refused as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl RefusedIds {
    /// Refuses an id for so long from `now` on, in place of what was said of it before. Zero allows it again.
    ///
    /// # Errors
    ///
    /// If `most` others are refused already.
    pub(crate) fn refuse(&self, id: ByteString, wait: Duration, most: usize, now: Instant) -> Result<(), Full> {
        let mut until = self.lock();
        if wait.is_zero() {
            until.remove(&id);
        } else {
            if until.len() >= most && !until.contains_key(&id) {
                until.retain(|_, until| *until > now);
                if until.len() >= most {
                    self.count.store(until.len(), Ordering::Release);
                    return Err(Full);
                }
            }
            until.insert(id, now + wait);
        }
        self.count.store(until.len(), Ordering::Release);
        Ok(())
    }

    /// Whether this id may not connect now.
    #[must_use]
    pub(crate) fn has(&self, id: &str, now: Instant) -> bool {
        if self.count() == 0 {
            return false;
        }
        let mut until = self.lock();
        let Some(end) = until.get(id) else { return false };
        let is_refused = *end > now;
        if !is_refused {
            until.remove(id);
            self.count.store(until.len(), Ordering::Release);
        }
        is_refused
    }

    /// How many are in the table, some of them perhaps over.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ByteString, Instant>> {
        self.until.lock().expect("no holder of the table panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_id_is_refused_until_its_time_is_over() {
        let (refused, now) = (RefusedIds::default(), Instant::now());
        assert!(!refused.has("ann", now));
        refused.refuse("ann".into(), WAIT, 10, now).expect("there is room");
        assert!(refused.has("ann", now) && !refused.has("bob", now));
        assert!(refused.has("ann", now + WAIT - Duration::from_millis(1)));
        assert!(!refused.has("ann", now + WAIT));
        assert_eq!(refused.count(), 0, "it is forgotten");
    }

    #[test]
    fn zero_allows_an_id_again() {
        let (refused, now) = (RefusedIds::default(), Instant::now());
        refused.refuse("ann".into(), WAIT, 10, now).expect("there is room");
        refused
            .refuse("ann".into(), Duration::ZERO, 10, now)
            .expect("it takes no room");
        assert!(!refused.has("ann", now));
    }

    #[test]
    fn there_is_room_for_so_many_and_those_that_are_over_make_room() {
        let (refused, now) = (RefusedIds::default(), Instant::now());
        let refuse = |id: &'static str, now| refused.refuse(id.into(), WAIT, 2, now);
        assert_eq!((refuse("a", now), refuse("b", now)), (Ok(()), Ok(())));
        assert_eq!(refuse("c", now), Err(Full));
        assert_eq!(refuse("a", now + WAIT / 2), Ok(()), "a known one takes no more");
        assert_eq!(refuse("c", now + WAIT), Ok(()), "b is over");
        assert_eq!(refuse("d", now + WAIT), Err(Full));
    }
}
