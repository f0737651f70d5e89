//! The sessions of operators who have logged in with a browser.
//!
//! Only hashes of their ids are kept: nobody who reads the memory of the server, or measures how long it takes to find one, learns
//! an id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Random bytes of an id.
const ID_BYTES: usize = 32;

/// All sessions. They end with the process.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

/// An operator who has logged in.
#[derive(Debug)]
struct Session {
    operator: Arc<str>,
    opened: Instant,
    used: Instant,
}

impl Sessions {
    /// Opens a session and returns its id. If there are `most` already, the one ends that was not used for the longest time.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub(super) fn open(&self, operator: Arc<str>, most: usize, now: Instant) -> Result<String, getrandom::Error> {
        let mut random = [0; ID_BYTES];
        getrandom::fill(&mut random)?;
        let id = URL_SAFE_NO_PAD.encode(random);
        let mut sessions = self.lock();
        while sessions.len() >= most.max(1) {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else {
                break;
            };
            sessions.remove(&oldest);
        }
        let session = Session {
            operator,
            opened: now,
            used: now,
        };
        sessions.insert(hash(&id), session);
        Ok(id)
    }

    /// Whose session this is, if it was opened less than `longest` ago.
    pub(super) fn find(&self, id: &str, longest: Duration, now: Instant) -> Option<Arc<str>> {
        let mut sessions = self.lock();
        let lasts = |session: &Session| now.saturating_duration_since(session.opened) < longest;
        sessions.retain(|_, session| lasts(session));
        let session = sessions.get_mut(&hash(id))?;
        session.used = now;
        Some(Arc::clone(&session.operator))
    }

    /// Ends a session.
    pub(super) fn close(&self, id: &str) {
        self.lock().remove(&hash(id));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(id: &str) -> [u8; 32] {
    Sha256::digest(id).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    fn open(sessions: &Sessions, name: &str, now: Instant) -> String {
        sessions.open(name.into(), 2, now).expect("random numbers")
    }

    #[test]
    fn a_session_ends_after_its_time_however_often_it_is_used() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let id = open(&sessions, "ann", start);
        let found = |id: &str, seconds| sessions.find(id, LONGEST, start + Duration::from_secs(seconds));
        assert_eq!(found(&id, 59).as_deref(), Some("ann"));
        assert_eq!(found("another", 59), None);
        assert_eq!(found(&id, 60), None);
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn where_there_is_no_room_the_session_ends_that_was_not_used_for_longest() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let (ann, bob) = (open(&sessions, "ann", start), open(&sessions, "bob", start));
        let later = start + Duration::from_secs(1);
        assert!(sessions.find(&ann, LONGEST, later).is_some());
        let eve = open(&sessions, "eve", later);
        assert_ne!(ann, eve);
        assert!(sessions.find(&bob, LONGEST, later).is_none());
        assert!(sessions.find(&ann, LONGEST, later).is_some());
        sessions.close(&ann);
        assert!(sessions.find(&ann, LONGEST, later).is_none());
        assert!(sessions.find(&eve, LONGEST, later).is_some());
    }
}
