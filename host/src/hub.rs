//! What every part of a running host shares: the ways to send, the clock's timers, numbers, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::Metrics;
use crate::plugin::Connects;
use crate::plugin::watchdog::Watchdog;
use crate::pubsub::PubSub;
use crate::timers::Timers;

/// One per host.
#[derive(Debug)]
pub struct Hub {
    /// Broadcasts, and everything that goes to I/O threads.
    pub pubsub: PubSub,
    /// Everything that happens later.
    pub timers: Arc<Timers>,
    /// Connects that answer later.
    pub connects: Connects,
    /// What notices plugins that do not return.
    pub watchdog: Watchdog,
    /// Counters for `/metrics`.
    pub metrics: Metrics,
    next: AtomicU64,
}

impl Hub {
    /// A hub over these ways and timers.
    #[must_use]
    pub fn new(pubsub: PubSub, timers: Arc<Timers>) -> Self {
        Self {
            pubsub,
            timers,
            connects: Connects::default(),
            watchdog: Watchdog::default(),
            metrics: Metrics::default(),
            next: AtomicU64::new(1),
        }
    }

    /// A number that nothing else has: for topics, promises, connects. Never 0.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
