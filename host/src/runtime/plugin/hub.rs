//! What all plugins of a host share: the way to clients, timers, numbers, counters, and who intercepts which broadcast.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bennu_wire::message::Payload;
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::connect::Connects;
use super::routes::{Place, Routes};
use super::slot::{JoinRefused, PluginSlot};
use super::watchdog::Watchdog;
use crate::config::LineLimits;
use crate::runtime::channel::{Called, Caller, Input, Refused};
use crate::runtime::client_lines::ClientLines;
use crate::runtime::delivery::Broadcast;
use crate::runtime::id::MemberId;
use crate::runtime::metrics::Metrics;
use crate::runtime::pubsub::PubSub;
use crate::runtime::reach::{Reach, Reached};
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
    /// Notices plugins that do not return.
    pub(crate) watchdog: Watchdog,
    /// Limits what clients cause in the log.
    pub(crate) client_lines: ClientLines,
    /// Counters for `/metrics`.
    pub(crate) metrics: Metrics,
    interceptors: RwLock<Interceptors>,
    routes: RwLock<Arc<Routes>>,
    next: AtomicU64,
}

/// What became of a broadcast.
#[derive(Debug)]
pub(crate) struct Published {
    /// How many subscribers it reaches, once all outlets are through with it. For a `disconnect`: how many connections it closes.
    pub(crate) reached: oneshot::Receiver<usize>,
    /// The members that a plugin decides about in `handle_out`.
    pub(crate) intercepted: usize,
}

/// Why a call reaches no topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCalled {
    /// No route leads to a plugin.
    NoRoute,
    /// The topic does not exist, and the call should not make it.
    NotAlive,
    /// The topic has too much to do, or there are too many topics.
    Overloaded,
    /// No generation of the plugin is in service.
    Unavailable,
}

/// Which plugins may intercept an event, in any of their live generations.
type Interceptors = Arc<HashMap<String, Vec<Arc<PluginSlot>>>>;

impl Hub {
    /// A hub over these ways and timers.
    #[must_use]
    pub(crate) fn new(pubsub: PubSub, timers: Arc<Timers>, lines: LineLimits) -> Self {
        Self {
            pubsub,
            timers,
            connects: Connects::default(),
            watchdog: Watchdog::default(),
            client_lines: ClientLines::new(lines),
            metrics: Metrics::default(),
            interceptors: RwLock::default(),
            routes: RwLock::new(Arc::new(Routes::none())),
            next: AtomicU64::new(1),
        }
    }

    /// A unique number, for a topic, a promise or a connect. Never 0.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The routes as they are now.
    #[must_use]
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read().expect("no holder panics"))
    }

    /// Replaces them for calls and messages from now on.
    pub(crate) fn set_routes(&self, routes: Arc<Routes>) {
        *self.routes.write().expect("no holder panics") = routes;
    }

    /// Asks a topic for a backend. The answer may take as long as the plugin likes.
    ///
    /// # Errors
    ///
    /// If the question does not reach a topic.
    pub(crate) fn call(
        &self,
        topic: &ByteString,
        event: ByteString,
        payload: Payload,
        create: bool,
    ) -> Result<impl Future<Output = Called> + use<>, NotCalled> {
        let place = self.routes().place(topic).ok_or(NotCalled::NoRoute)?;
        let (caller, answer) = Caller::new();
        let input = Input::Call {
            event,
            payload,
            create,
            caller,
        };
        match place {
            Place::Alive(_, topic) if !create => topic.push(input).map_err(|refused| match refused {
                Refused::Overloaded => NotCalled::Overloaded,
                Refused::Closed => NotCalled::NotAlive,
            })?,
            Place::Absent(_) if !create => return Err(NotCalled::NotAlive),
            Place::Alive(slot, _) | Place::Absent(slot) => {
                let entered = slot.enter(topic, || self.number(), input);
                entered.map_err(|refused| match refused {
                    JoinRefused::Unavailable => NotCalled::Unavailable,
                    JoinRefused::Overloaded => NotCalled::Overloaded,
                })?;
            }
        }
        Ok(async { answer.await.unwrap_or(Called::Ended) })
    }

    /// From now on this plugin may intercept these events, and no others.
    pub(super) fn intercept(&self, slot: &Arc<PluginSlot>, events: &BTreeSet<&str>) {
        let mut interceptors = self.interceptors.write().expect("no holder panics");
        let all = Arc::make_mut(&mut interceptors);
        all.retain(|_, slots| {
            slots.retain(|known| known.index != slot.index);
            !slots.is_empty()
        });
        for event in events {
            all.entry((*event).to_owned()).or_default().push(Arc::clone(slot));
        }
    }

    /// Publishes to all subscribers of `topic` except `except`.
    ///
    /// If a plugin intercepts the event, the plugin gets it instead of its members, as one input per topic. This is decided here,
    /// once, so that no member gets a message twice, or misses it, while its code is replaced.
    pub(crate) fn broadcast(&self, topic: ByteString, event: ByteString, payload: Payload, except: Option<MemberId>) {
        self.publish(topic, event, payload, except, None);
    }

    /// Publishes to all subscribers of `topic` as [`Hub::broadcast`] does, and counts them. `complete` tells the count.
    #[must_use]
    pub(crate) fn broadcast_counted(
        &self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        complete: &Arc<Reached>,
    ) -> Published {
        let (reach, reached) = Reach::new(complete);
        let intercepted = self.publish(topic, event, payload, None, Some(reach));
        Published { reached, intercepted }
    }

    /// Returns how many members the plugins that intercept it decide about, if somebody counts.
    fn publish(
        &self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        except: Option<MemberId>,
        reach: Option<Reach>,
    ) -> usize {
        let mut intercepted = 0;
        let interceptors = Arc::clone(&self.interceptors.read().expect("no holder panics"));
        let mut intercepts = |slot: &&Arc<PluginSlot>| {
            let found = slot
                .find(&topic)
                .filter(|found| found.intercept(&event, &payload, except));
            if let (Some(found), Some(_)) = (&found, &reach) {
                intercepted += found.record().joined();
            }
            found.is_some()
        };
        let slots = interceptors.get(&*event).into_iter().flatten();
        let intercepted_by = slots.filter(&mut intercepts).map(|slot| slot.index).collect();
        self.pubsub.broadcast(Broadcast {
            topic,
            event,
            payload,
            except,
            intercepted_by,
            reach,
        });
        intercepted
    }
}
