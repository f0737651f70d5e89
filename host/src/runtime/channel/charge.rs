//! How much may wait for the topics of a plugin, and what they keep: in their mailboxes, and outside of them, which is events behind a
//! pending join and replies that the plugin owes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much may wait for one topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// Events and joins of clients.
    pub(crate) events: usize,
    /// Their bytes, and those of what the record keeps of earlier ones.
    pub(crate) bytes: usize,
    /// Messages of plugins: intercepted broadcasts, messages to itself, kept promises.
    pub(crate) messages: usize,
    /// Their bytes.
    pub(crate) message_bytes: usize,
    /// The bytes of clients for all topics of the plugin together, and likewise those of plugins.
    pub(crate) total_bytes: usize,
    /// What a topic for which nothing waits may still take if those are used up.
    pub(crate) share_bytes: usize,
}

/// Bytes that all topics of one plugin keep, and how many they may.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Of events and joins of clients.
    pub(super) clients: AtomicUsize,
    /// Of messages of plugins.
    pub(super) plugins: AtomicUsize,
    /// The [`Bounds`], in the order of their fields. All topics see a change at once.
    bounds: [AtomicUsize; 6],
}

/// Bytes that one topic keeps outside of its mailbox.
#[derive(Debug)]
pub(super) struct Account {
    bytes: AtomicUsize,
    totals: Arc<Totals>,
}

/// So many bytes of an [`Account`]. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: usize,
    account: Arc<Account>,
}

impl Totals {
    /// Nothing yet, of which so much may wait.
    pub(crate) fn within(bounds: Bounds) -> Self {
        let totals = Self::default();
        totals.set_bounds(bounds);
        totals
    }

    /// From now on so much may wait. What waits already stays.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        let Bounds {
            events,
            bytes,
            messages,
            message_bytes,
            total_bytes,
            share_bytes,
        } = bounds;
        let all = [events, bytes, messages, message_bytes, total_bytes, share_bytes];
        for (bound, new) in self.bounds.iter().zip(all) {
            bound.store(new, Ordering::Relaxed);
        }
    }

    /// How much may wait for a topic.
    pub(super) fn bounds(&self) -> Bounds {
        let all = self.bounds.each_ref().map(|bound| bound.load(Ordering::Relaxed));
        let [events, bytes, messages, message_bytes, total_bytes, share_bytes] = all;
        Bounds {
            events,
            bytes,
            messages,
            message_bytes,
            total_bytes,
            share_bytes,
        }
    }

    /// All bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.clients.load(Ordering::Relaxed) + self.plugins.load(Ordering::Relaxed)
    }
}

impl Account {
    /// An account with nothing on it.
    pub(super) fn new(totals: Arc<Totals>) -> Self {
        let bytes = AtomicUsize::new(0);
        Self { bytes, totals }
    }

    /// What is on it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Puts `bytes` on it. This is never refused: what is on the account leaves less room in the mailbox.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge {
            bytes: 0,
            account: Arc::clone(self),
        };
        charge.grow(bytes);
        charge
    }
}

impl Charge {
    /// Puts more on the account.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.account.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.account.totals.clients.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.totals.clients.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
