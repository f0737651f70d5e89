//! Counts the bytes that a topic keeps outside of its mailbox: events behind a pending join, and replies that the plugin owes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that all topics of one plugin keep.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Of events and joins of clients.
    pub(super) clients: AtomicUsize,
    /// Of messages of plugins.
    pub(super) plugins: AtomicUsize,
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
    /// All of them.
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
