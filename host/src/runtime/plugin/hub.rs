//! What the plugins of a host share: the way to clients, timers, numbers, counters; and who intercepts which broadcast.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bennu_wire::message::Payload;
use bytestring::ByteString;

use super::connect::Connects;
use super::slot::PluginSlot;
use super::watchdog::Watchdog;
use crate::runtime::delivery::Broadcast;
use crate::runtime::id::MemberId;
use crate::runtime::metrics::Metrics;
use crate::runtime::pubsub::PubSub;
use crate::runtime::timers::Timers;

/// One per host.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The ways to all clients.
    pub(crate) pubsub: PubSub,
    /// Everything that happens later.
    pub(crate) timers: Arc<Timers>,
    /// Connects that answer later.
    pub(crate) connects: Connects,
    /// What notices plugins that do not return.
    pub(crate) watchdog: Watchdog,
    /// Counters for `/metrics`.
    pub(crate) metrics: Metrics,
    interceptors: RwLock<Interceptors>,
    next: AtomicU64,
}

/// Which plugins may intercept an event, in any of their live generations.
type Interceptors = Arc<HashMap<String, Vec<Arc<PluginSlot>>>>;

impl Hub {
    /// A hub over these ways and timers.
    #[must_use]
    pub(crate) fn new(pubsub: PubSub, timers: Arc<Timers>) -> Self {
        Self {
            pubsub,
            timers,
            connects: Connects::default(),
            watchdog: Watchdog::default(),
            metrics: Metrics::default(),
            interceptors: RwLock::default(),
            next: AtomicU64::new(1),
        }
    }

    /// A number that nothing else has: for topics, promises, connects. Never 0.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Replaces who may intercept what.
    pub(super) fn set_interceptors(&self, interceptors: HashMap<String, Vec<Arc<PluginSlot>>>) {
        *self.interceptors.write().expect("no holder panics") = Arc::new(interceptors);
    }

    /// Publishes to all subscribers of `topic` but `except`.
    ///
    /// A plugin that intercepts the event gets it instead of its members, as one input per topic. Who intercepts is decided
    /// here, once, so that nobody gets a message twice or not at all while code is being replaced.
    pub(crate) fn broadcast(&self, topic: ByteString, event: ByteString, payload: Payload, except: Option<MemberId>) {
        let interceptors = Arc::clone(&self.interceptors.read().expect("no holder panics"));
        let intercepts = |slot: &&Arc<PluginSlot>| {
            slot.find(&topic)
                .is_some_and(|found| found.intercept(&event, &payload, except))
        };
        let slots = interceptors.get(&*event).into_iter().flatten();
        let intercepted_by = slots.filter(intercepts).map(|slot| slot.index).collect();
        self.pubsub.broadcast(Broadcast {
            topic,
            event,
            payload,
            except,
            intercepted_by,
        });
    }
}
