//! What the threads of a running server share: its plugins, the current routing, and the number of connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Instant;

use super::api::metrics::ApiMetrics;
use super::changes::Changes;
use super::closes::{Closes, Outcome, Record, RefusalReason, Refused};
use super::held::Pool;
use super::limits::{Addresses, Refusals, SessionPlace, TurnedAway, UsePeaks};
use super::routing::Routing;
use crate::cluster::Cluster;
use crate::runtime::plugin::Hub;
use crate::runtime::throttle::LogThrottle;

/// One per server.
#[derive(Debug)]
pub(crate) struct State {
    /// What runs the channels.
    pub(crate) hub: Arc<Hub>,
    routing: RwLock<Arc<Routing>>,
    /// Connections and sessions of each I/O thread.
    loads: Box<[AtomicUsize]>,
    /// The number of the connection that was last asked for.
    last_connection: AtomicU64,
    /// Why clients were closed or refused.
    pub(crate) closes: Closes,
    /// What has changed lately.
    pub(crate) changes: Changes,
    /// What each address may do.
    pub(crate) addresses: Addresses,
    /// How often limits of addresses, clients and routes have refused something.
    pub(crate) limited: Arc<Refusals>,
    /// How near clients were to their limits.
    pub(crate) peaks: UsePeaks,
    /// The server stops: nobody may connect any more.
    stopping: AtomicBool,
    /// Listeners of clients that cannot accept connections at the moment.
    failing_listeners: AtomicUsize,
    /// Limits how often the log says that the server is full.
    full: Mutex<LogThrottle<()>>,
    /// Request bodies that are being received, or wait to be dispatched.
    pub(crate) bodies: Arc<Pool>,
    /// Responses that are being sent.
    pub(crate) responses: Arc<Pool>,
    /// What the API counts.
    pub(crate) api: Arc<ApiMetrics>,
    /// The cluster that this host is a node of.
    pub(crate) cluster: OnceLock<Arc<Cluster>>,
}

impl State {
    /// The state of a server with so many I/O threads, and its first routing.
    #[must_use]
    pub(crate) fn new(hub: Arc<Hub>, routing: Arc<Routing>, threads: usize) -> Self {
        hub.set_routes(Arc::clone(&routing.routes));
        let closes = Closes::new(routing.config.admin.max_closes);
        let limited = Arc::default();
        Self {
            addresses: Addresses::new(&routing.config.limits, &routing.config.proxies, &limited),
            limited,
            peaks: UsePeaks::default(),
            hub,
            routing: RwLock::new(routing),
            loads: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            last_connection: AtomicU64::new(0),
            closes,
            changes: Changes::default(),
            stopping: AtomicBool::new(false),
            failing_listeners: AtomicUsize::new(0),
            full: Mutex::default(),
            bodies: Arc::default(),
            responses: Arc::default(),
            api: Arc::default(),
            cluster: OnceLock::new(),
        }
    }

    /// The current routing.
    #[must_use]
    pub(crate) fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing.read().expect("no holder panics"))
    }

    /// Replaces the routing for whoever asks from now on. I/O threads learn of it by
    /// [`Inboxes::set_routing`](super::io::Inboxes::set_routing).
    pub(crate) fn set_routing(&self, routing: Arc<Routing>) {
        self.hub.client_lines.set_limits(routing.config.log.lines);
        self.closes.keep(routing.config.admin.max_closes);
        self.addresses
            .set_limits(&routing.config.limits, &routing.config.proxies);
        self.hub.set_routes(Arc::clone(&routing.routes));
        *self.routing.write().expect("no holder panics") = routing;
    }

    /// The I/O thread with the fewest connections.
    #[must_use]
    pub(crate) fn idlest(&self) -> u8 {
        let idlest = self
            .loads
            .iter()
            .enumerate()
            .min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        // The configuration allows 254 threads at most.
        idlest.map_or(0, |(thread, _)| thread as u8)
    }

    /// A number that no other connection of this server has.
    #[must_use]
    pub(crate) fn next_connection(&self) -> u64 {
        self.last_connection.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many connections were asked for so far.
    #[must_use]
    pub(crate) fn asked_connections(&self) -> u64 {
        self.last_connection.load(Ordering::Relaxed)
    }

    /// Notes that a client was closed or refused, and why.
    pub(crate) fn note(&self, record: Record) {
        self.closes.note(record, &self.hub.client_lines);
    }

    /// Counts one more connection on this thread.
    pub(crate) fn acquire(&self, thread: u8) {
        self.loads[usize::from(thread)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub(crate) fn release(&self, thread: u8) {
        self.loads[usize::from(thread)].fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a client from this address that wants to connect now, if it may. Counts and logs it if the server is full. While the
    /// server stops, a long-poll client whose session was just ended would only get another one that ends.
    ///
    /// # Errors
    ///
    /// If it may not.
    pub(crate) fn take_in(&self, address: IpAddr) -> Result<Option<SessionPlace>, TurnedAway> {
        if self.is_full() {
            self.refuse_as_full();
            return Err(TurnedAway::new(RefusalReason::Full));
        }
        if self.is_stopping() {
            return Err(TurnedAway::new(RefusalReason::Stopping));
        }
        self.addresses.session(address, Instant::now())
    }

    /// Notes that a client is refused of which nothing is known but its address.
    pub(crate) fn note_refused(&self, peer: SocketAddr, refused: Refused) {
        self.note(Record::new(self.next_connection(), peer, Outcome::Refused(refused)));
    }

    /// Counts a client that is refused because the server is full, and logs it at most once a second.
    pub(crate) fn refuse_as_full(&self) {
        self.hub.metrics.refused_full.inc();
        let mut full = self.full.lock().expect("no holder panics");
        let said = full.say((), || (), Instant::now()).map(|((), more)| more);
        drop(full);
        if let Some(more) = said {
            let max_connections = self.routing().config.limits.max_connections;
            let more = (more > 0).then_some(more);
            tracing::warn!(
                max_connections,
                more,
                "server full, client refused: if the machine has room, raise `[limits] max_connections`"
            );
        }
    }

    /// Whether there are more connections than there may be.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.connections() > self.routing().config.limits.max_connections
    }

    /// Whether there are so many connections that even a refusal costs too much.
    #[must_use]
    pub(crate) fn is_flooded(&self) -> bool {
        let limit = self.routing().config.limits.max_connections;
        self.connections() > limit.saturating_add((limit / 8).max(16))
    }

    /// How many I/O threads there are.
    #[must_use]
    pub(crate) fn threads(&self) -> usize {
        self.loads.len()
    }

    /// How many connections there are.
    #[must_use]
    pub(crate) fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// Notes that a listener of clients accepts connections again, or cannot any more.
    pub(crate) fn note_accepting(&self, works: bool) {
        match works {
            true => self.failing_listeners.fetch_sub(1, Ordering::Relaxed),
            false => self.failing_listeners.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Whether all listeners of clients accept connections.
    #[must_use]
    pub(crate) fn accepts(&self) -> bool {
        self.failing_listeners.load(Ordering::Relaxed) == 0
    }

    /// Nobody may connect from now on: the server stops, and closes its connections.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the server stops.
    #[must_use]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
