//! Bytes that are held for clients: unsent messages, messages that are not complete, request bodies, responses.
//!
//! Each of these sums has a limit. Beyond it, the clients that have most are turned away, and the others notice nothing.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

/// A sum of bytes, and how many clients they belong to.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    clients: usize,
}

/// A [`Held`] of all threads.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Held>);

/// One client's part of a [`Pool`]. Dropping it gives the bytes back.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: usize,
    pool: Arc<Pool>,
}

/// A client holds more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server holds too many bytes, and this client has one of the largest shares")]
pub(crate) struct TooMuch;

impl Held {
    /// A client that had `before` bytes has `now`.
    pub(crate) fn change(&mut self, before: usize, now: usize) {
        self.bytes = self.bytes - before + now;
        self.clients = self.clients + usize::from(now > 0) - usize::from(before > 0);
    }

    /// Whether the sum is above the limit, and this client, with `own` bytes of it, has no less than the average. There is always
    /// such a client.
    pub(crate) fn is_too_much(&self, own: usize, limit: usize) -> bool {
        self.bytes > limit && own.saturating_mul(self.clients) >= self.bytes
    }
}

impl Pool {
    /// A share with nothing in it.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            bytes: 0,
            pool: Arc::clone(self),
        }
    }

    /// These bytes, counted for as long as anybody has them.
    ///
    /// # Errors
    ///
    /// If too much is held, and for this client no less than for others.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes, limit: usize) -> Result<Bytes, TooMuch> {
        let mut share = self.share();
        share.set(bytes.len(), limit)?;
        Ok(Bytes::from_owner(Shared { bytes, _share: share }))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("no holder of the pool panics")
    }
}

impl Share {
    /// It has so many bytes from now on.
    ///
    /// # Errors
    ///
    /// If that is more than before, and too much.
    pub(crate) fn set(&mut self, bytes: usize, limit: usize) -> Result<(), TooMuch> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let mut held = self.pool.lock();
        held.change(before, bytes);
        if bytes > before && held.is_too_much(bytes, limit) {
            return Err(TooMuch);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.lock().change(self.bytes, 0);
    }
}

struct Shared {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_those_with_the_most_have_too_much() {
        let mut held = Held::default();
        held.change(0, 10);
        held.change(0, 50);
        assert!(!held.is_too_much(50, 60));
        assert!(held.is_too_much(50, 59));
        assert!(!held.is_too_much(10, 59));
        held.change(50, 0);
        assert!(!held.is_too_much(10, 59));
        assert!(held.is_too_much(10, 9), "a client alone has all of it");
    }

    #[test]
    fn a_pool_counts_bytes_until_the_last_clone_is_gone() {
        let pool = Arc::new(Pool::default());
        let large = pool.hold(Bytes::from_static(&[0; 100]), 100).expect("there is room");
        let clone = large.slice(50..);
        drop(large);
        assert_eq!(pool.hold(Bytes::from_static(&[0; 100]), 100), Err(TooMuch));
        // A client with less than the average is no cause.
        let small = pool.hold(Bytes::from_static(&[0; 10]), 100);
        assert_eq!(small.as_deref(), Ok(&[0; 10][..]));
        drop((clone, small));
        assert!(pool.hold(Bytes::from_static(&[0; 100]), 100).is_ok());
    }
}
