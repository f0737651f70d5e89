//! What all plugins of a host share: the way to clients, timers, numbers, counters, and who intercepts which broadcast.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use bennu_wire::message::{self, Payload};
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::connect::Connects;
use super::homes::Homes;
use super::routes::{Place, Routes};
use super::slot::{JoinRefused, PluginSlot};
use super::watchdog::Watchdog;
use crate::config::{self, LineLimits};
use crate::runtime::channel::{Called, Caller, Create, Input, Refused, Topic};
use crate::runtime::client_lines::ClientLines;
use crate::runtime::delivery::Broadcast;
use crate::runtime::id::MemberId;
use crate::runtime::metrics::Metrics;
use crate::runtime::pubsub::PubSub;
use crate::runtime::reach::{Heard, Reach, Reached};
use crate::runtime::store::{Engine, Key, Store, StoreError};
use crate::runtime::timers::Timers;
use crate::runtime::trace::{Traced, Tracer};

/// How often topics that are about to be stored are looked at.
const LOOK: Duration = Duration::from_millis(5);

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
    /// Begins spans, if anything is traced.
    pub(crate) tracer: Option<Arc<Tracer>>,
    interceptors: RwLock<Interceptors>,
    routes: RwLock<Arc<Routes>>,
    /// Open if a plugin has topics that outlive the process.
    store: OnceLock<Store>,
    /// Where topics live, if this is a node of a cluster.
    homes: OnceLock<Arc<dyn Homes>>,
    /// When the host has to have stopped, once it stops.
    stop_by: OnceLock<Instant>,
    next: AtomicU64,
}

/// What became of a broadcast.
#[derive(Debug)]
pub(crate) struct Published {
    /// How many subscribers it reaches, once all outlets are through with it. For a `disconnect`: how many connections it closes.
    pub(crate) reached: oneshot::Receiver<Heard>,
    /// The members that a plugin decides about in `handle_out`, as far as they are on this node.
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
    /// The topic has no home now, or this node cannot reach it.
    NoNode,
}

impl From<JoinRefused> for NotCalled {
    fn from(refused: JoinRefused) -> Self {
        match refused {
            JoinRefused::Unavailable => Self::Unavailable,
            JoinRefused::Overloaded => Self::Overloaded,
            JoinRefused::NoNode => Self::NoNode,
        }
    }
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
            tracer: None,
            interceptors: RwLock::default(),
            routes: RwLock::new(Arc::new(Routes::none())),
            store: OnceLock::new(),
            homes: OnceLock::new(),
            stop_by: OnceLock::new(),
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

    /// Has the store over this engine. Topics that have to be looked at wake as soon as a route leads to them, and this node is their
    /// home.
    ///
    /// # Errors
    ///
    /// If the engine cannot be read.
    pub(crate) fn open_store(
        self: &Arc<Self>,
        engine: Box<dyn Engine>,
        limits: config::Store,
    ) -> Result<(), StoreError> {
        let (hub, is_shared) = (Arc::downgrade(self), engine.is_shared());
        let look = move |key: &Key| {
            let Some(hub) = hub.upgrade() else { return true };
            if is_shared && hub.elsewhere(&key.topic).is_some() {
                // Whoever is its home looks at it.
                return true;
            }
            let slot = hub.routes().plugins.get(&*key.plugin).cloned();
            slot.is_some_and(|slot| hub.enter_here(&slot, &key.topic, Input::Look).is_ok())
        };
        let store = Store::over(engine, limits, look)?;
        let _ = self.store.set(store);
        Ok(())
    }

    /// The host is a node of a cluster from now on. To be called before any client is let in.
    #[cfg(feature = "cluster")]
    pub(crate) fn join_cluster(&self, homes: Arc<dyn Homes>) {
        let _ = self.homes.set(homes);
    }

    /// Where topics live, if this is a node of a cluster.
    #[must_use]
    pub(crate) fn homes(&self) -> Option<&Arc<dyn Homes>> {
        self.homes.get()
    }

    /// Gives a join to its topic, wherever that lives. What it returns takes all that the client sends to the topic.
    ///
    /// # Errors
    ///
    /// If no code is in service, the topic or the plugin has too much to do already, or the topic's home cannot be reached.
    pub(crate) fn enter(
        &self,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        join: Input,
    ) -> Result<Arc<Topic>, JoinRefused> {
        match self.homes() {
            None => slot.enter(topic, || self.number(), join),
            Some(homes) => homes.enter(self, slot, topic, join),
        }
    }

    /// Gives an input to a topic that lives here, and makes the topic if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter), or if the topic is on its way to another node.
    fn enter_here(&self, slot: &Arc<PluginSlot>, topic: &ByteString, input: Input) -> Result<(), JoinRefused> {
        match self.homes() {
            None => slot.enter(topic, || self.number(), input),
            Some(homes) => homes.enter_here(self, slot, topic, input),
        }
        .map(drop)
    }

    /// The cluster, if another node is the home of this topic, or nobody knows.
    fn elsewhere(&self, topic: &str) -> Option<&Arc<dyn Homes>> {
        self.homes().filter(|homes| !homes.is_here(topic))
    }

    /// The host stops, and has to be through by then.
    pub(super) fn stop_by(&self, deadline: Instant) {
        let _ = self.stop_by.set(deadline);
    }

    /// How long a plugin may take for its `shutdown`: if the host stops, all the time that is left, or else `usual`.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        let left = self
            .stop_by
            .get()
            .map(|at| at.saturating_duration_since(Instant::now()));
        left.unwrap_or_default().max(usual)
    }

    /// Has the present state of all topics that outlive the process stored, and waits for so long.
    pub(crate) async fn store_all(&self, patience: Duration) {
        let slots = self.routes().plugins.values().cloned().collect::<Vec<_>>();
        let durable = slots.iter().filter(|slot| slot.durable().is_some());
        let mut topics: Vec<_> = durable.flat_map(|slot| slot.topics()).collect();
        let is_behind = |topic: &Arc<Topic>| {
            let record = topic.record();
            record.live && record.stored.as_ref().is_some_and(|stored| stored.is_behind())
        };
        topics.retain(is_behind);
        topics.iter().for_each(|topic| topic.owe(Input::Checkpoint));
        let all_stored = async {
            while topics.iter().any(is_behind) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(patience, all_stored).await.is_err() {
            let topics = topics.iter().filter(|topic| is_behind(topic)).count();
            tracing::warn!(
                topics,
                "topics are not stored yet: their nodes find them as they were stored last"
            );
        }
    }

    /// The store, if it is open.
    #[must_use]
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// Asks a topic for a backend, in the trace of what that `asked` for. The answer may take as long as the plugin likes.
    ///
    /// # Errors
    ///
    /// If the question does not reach a topic.
    pub(crate) fn call(
        &self,
        topic: &ByteString,
        event: ByteString,
        payload: Payload,
        create: Create,
        asked: &Traced,
    ) -> Result<impl Future<Output = Called> + use<>, NotCalled> {
        let place = self.routes().place(topic).ok_or(NotCalled::NoRoute)?;
        let (caller, answer) = Caller::new();
        let answer = async { answer.await.unwrap_or(Called::Ended) };
        if let Some(homes) = self.elsewhere(topic) {
            homes.call(topic.clone(), event, payload, create, caller)?;
            return Ok(answer);
        }
        let trace = asked.as_ref().map(|asked| {
            let trace = asked.child("call");
            trace.text("bennu.event", &event);
            trace
        });
        let input = Input::Call {
            event,
            payload,
            create,
            caller,
            trace,
        };
        match place {
            Place::Alive(slot, _) | Place::Absent(slot) if slot.durable().is_some() => {
                self.enter_here(&slot, topic, input)?;
            }
            Place::Alive(_, topic) if create == Create::No => topic.push(input).map_err(|refused| match refused {
                Refused::Overloaded => NotCalled::Overloaded,
                Refused::Closed => NotCalled::NotAlive,
            })?,
            Place::Absent(_) if create == Create::No => return Err(NotCalled::NotAlive),
            Place::Alive(slot, _) | Place::Absent(slot) => {
                self.enter_here(&slot, topic, input)?;
            }
        }
        Ok(answer)
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

    /// Publishes what the topic itself says to all its subscribers except `except`. If another node is its home by now, nobody hears
    /// it: that node speaks for the topic.
    pub(crate) fn broadcast(&self, topic: ByteString, event: ByteString, payload: Payload, except: Option<MemberId>) {
        if &*event != message::event::DISCONNECT
            && let Some(homes) = self.elsewhere(&topic)
        {
            return homes.fenced(&topic);
        }
        self.publish(topic, event, payload, except, None);
    }

    /// Publishes to all subscribers of `topic`, whoever says it.
    ///
    /// If a plugin intercepts the event, the plugin gets it instead of its members, as one input per topic. This is decided here,
    /// once, so that no member gets a message twice, or misses it, while its code is replaced.
    pub(crate) fn broadcast_to(&self, topic: ByteString, event: ByteString, payload: Payload) {
        self.publish(topic, event, payload, None, None);
    }

    /// Publishes to all subscribers of `topic` as [`Hub::broadcast_to`] does, and counts them. `complete` tells the count.
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
        if &*event != message::event::DISCONNECT
            && let Some(homes) = self.elsewhere(&topic)
        {
            homes.publish(topic, event, payload, reach);
            return 0;
        }
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
