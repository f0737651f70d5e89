//! What the HTTP side of all I/O threads shares.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, mpsc};

use super::{Board, Routing};
use crate::config::secret::SecretKeyBase;
use crate::config::{Crypto, Mount};
use crate::hub::Hub;
use crate::io::Inbox;
use crate::transport::longpoll::token::{TokenKey, TokenKeys};

/// One per host.
#[derive(Debug)]
pub struct Shared {
    /// The rest of the host.
    pub hub: Arc<Hub>,
    /// Tells this node's tokens from those of others, and the page this run from others. Random, anew with every start.
    pub node: u64,
    /// In `dev`: what its page is told.
    pub dev: Option<Board>,
    secret: SecretKeyBase,
    routing: RwLock<Arc<Routing>>,
    keys: TokenKeys,
    /// Connections and sessions of each I/O thread.
    loads: Box<[AtomicUsize]>,
    /// Whoever wants to connect now is too late.
    stopping: AtomicBool,
}

impl Shared {
    /// What is shared, with the routing to begin with.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn new(
        hub: Arc<Hub>,
        routing: Arc<Routing>,
        secret: SecretKeyBase,
        dev: Option<Board>,
    ) -> Result<Self, getrandom::Error> {
        let threads = hub.pubsub.inboxes().len();
        Ok(Self {
            hub,
            node: getrandom::u64()?,
            dev,
            secret,
            routing: RwLock::new(routing),
            keys: TokenKeys::default(),
            loads: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            stopping: AtomicBool::new(false),
        })
    }

    /// The routing as it is now.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing.read().expect("no holder panics"))
    }

    /// Replaces it, here and on every I/O thread; each says when it has taken it up.
    pub fn set_routing(&self, routing: Arc<Routing>) -> mpsc::Receiver<()> {
        *self.routing.write().expect("no holder panics") = Arc::clone(&routing);
        let (done, all_done) = mpsc::channel();
        self.hub
            .pubsub
            .send_all(|| crate::io::Entry::Routing(Arc::clone(&routing), done.clone()));
        all_done
    }

    /// The inbox of an I/O thread.
    #[must_use]
    pub fn inbox(&self, thread: usize) -> Option<&Arc<Inbox>> {
        self.hub.pubsub.inboxes().get(thread)
    }

    /// The key of a mount's long-poll tokens; derived anew each time where `cache` is off.
    #[must_use]
    pub fn token_key(&self, mount: &Mount, crypto: &Crypto) -> Arc<TokenKey> {
        self.keys.get(self.secret.bytes(), &mount.path, crypto)
    }

    /// The I/O thread with the fewest connections.
    #[must_use]
    pub fn idlest(&self) -> u8 {
        let idlest = self
            .loads
            .iter()
            .enumerate()
            .min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        // The configuration allows 255 threads at most.
        idlest.map_or(0, |(thread, _)| thread as u8)
    }

    /// One connection more on this thread.
    pub fn acquire(&self, thread: u8) {
        self.loads[usize::from(thread)].fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn release(&self, thread: u8) {
        self.loads[usize::from(thread)].fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nobody is let in at the moment. While the host stops, a long-poll client whose session was just ended would
    /// only get another one that ends.
    #[must_use]
    pub fn turns_away(&self) -> bool {
        self.is_full() || self.is_stopping()
    }

    /// Whether there are more connections than there may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connections() > self.routing().config.limits.max_connections
    }

    /// Whether there are so many that even a refusal is too much.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        let limit = self.routing().config.limits.max_connections;
        self.connections() > limit.saturating_add((limit / 8).max(16))
    }

    /// How many I/O threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.loads.len()
    }

    fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// From now on nobody may connect: the host stops, and lets those go that are there.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the host stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
