//! The thread that renews this node's lease, and does nothing else: whatever holds up the rest of the server, it does not hold up
//! this.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::kv::Store;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::broker::{Broker, ClusterError};
use super::exchange::Event;
use super::gate::Gate;
use super::node::{Lease, NodeId};
use crate::runtime::threads;

/// The name of the thread.
const THREAD: &str = "cluster.lease";

/// The lease of this node, as other threads see it.
#[derive(Debug)]
pub(super) struct Keeper {
    /// When the renewal that the broker has confirmed last was sent.
    renewed: AtomicU64,
    started: Instant,
    /// Renewals that failed.
    pub(super) failed: AtomicU64,
    ending: Notify,
}

impl Keeper {
    /// Takes the lease, and keeps it from then on.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached, or another node has this name.
    pub(super) async fn start(
        broker: Broker,
        id: NodeId,
        lease: Duration,
        gate: Arc<Gate>,
        say: mpsc::UnboundedSender<Event>,
    ) -> Result<(Arc<Self>, JoinHandle<()>), ClusterError> {
        let keeper = Arc::new(Self {
            renewed: AtomicU64::new(0),
            started: Instant::now(),
            failed: AtomicU64::new(0),
            ending: Notify::new(),
        });
        let (done, taken) = oneshot::channel();
        let kept = Arc::clone(&keeper);
        let body = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kept.run(&broker, &id, lease, &gate, &say, done));
            gate.remove();
            Ok(())
        };
        let thread = threads::try_spawn(THREAD, body)?;
        let ended = || ClusterError::System(io::Error::other("the thread of the lease has ended"));
        taken.await.map_err(|_| ended())??;
        Ok((keeper, thread))
    }

    /// How long ago the renewal was sent that the broker has confirmed last.
    #[must_use]
    pub(super) fn age(&self) -> Duration {
        let renewed = Duration::from_millis(self.renewed.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(renewed)
    }

    /// Gives the lease back, and ends the thread.
    pub(super) fn end(&self) {
        self.ending.notify_one();
    }

    async fn run(
        self: Arc<Self>,
        broker: &Broker,
        id: &NodeId,
        lease: Duration,
        gate: &Gate,
        say: &mpsc::UnboundedSender<Event>,
        done: oneshot::Sender<Result<(), ClusterError>>,
    ) {
        let mut held = match Held::take(broker, id, lease).await {
            Ok(held) => held,
            Err(error) => return drop(done.send(Err(error))),
        };
        self.note(Instant::now());
        gate.beat();
        let _ = done.send(Ok(()));
        let (mut beat, mut renew) = (interval(lease / 20), interval(lease / 4));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (sent, renewed) = {
                let renewal = async {
                    renew.tick().await;
                    let sent = Instant::now();
                    (sent, timeout(lease / 2, held.renew(broker)).await)
                };
                let mut renewal = std::pin::pin!(renewal);
                loop {
                    tokio::select! {
                        done = &mut renewal => break done,
                        _ = beat.tick() => {
                            if let Some(late) = gate.beat() {
                                let _ = say.send(Event::Late(late));
                            }
                        }
                        () = self.ending.notified() => break (Instant::now(), Ok(Renewed::Over)),
                    }
                }
            };
            match renewed {
                Ok(Renewed::Held) => self.note(sent),
                Ok(Renewed::Taken) => drop(say.send(Event::NameTaken)),
                Ok(Renewed::Failed(why)) => self.fail(&why),
                Err(_) => self.fail("the broker does not answer"),
                Ok(Renewed::Over) => {
                    let _ = timeout(lease / 4, held.give_back()).await;
                    return;
                }
            }
        }
    }

    fn note(&self, sent: Instant) {
        let renewed = sent.saturating_duration_since(self.started).as_millis();
        self.renewed
            .store(u64::try_from(renewed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn fail(&self, why: &str) {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed);
        let age_ms = self.age().as_millis() as u64;
        if failed == 0 {
            tracing::warn!(
                age_ms,
                why,
                "the lease of this node could not be renewed. Further failures are only counted"
            );
        } else {
            tracing::debug!(age_ms, why, "the lease of this node could not be renewed");
        }
    }
}

/// A lease as the broker has confirmed it.
struct Held {
    client: Client,
    store: Store,
    id: NodeId,
    value: bytes::Bytes,
    revision: u64,
}

/// What became of a renewal.
enum Renewed {
    Held,
    /// Another node has the name.
    Taken,
    Failed(String),
    /// It is to be given back.
    Over,
}

impl Held {
    /// Takes it. If a node that is called so has been there, waits until its lease ends.
    async fn take(broker: &Broker, id: &NodeId, lease: Duration) -> Result<Self, ClusterError> {
        let client = broker.connect(format!("bennu lease {id}"), |_| {}).await?;
        let store = broker.nodes(&client).await?;
        let value = Lease {
            id: id.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_unix_ms: crate::runtime::clock::unix_ms(),
        };
        let mut held = Self {
            client,
            store,
            id: id.clone(),
            value: serde_json::to_vec(&value).expect("a lease is JSON").into(),
            revision: 0,
        };
        let deadline = Instant::now() + lease * 2;
        loop {
            match held.create().await {
                Renewed::Held => return Ok(held),
                Renewed::Failed(why) => {
                    return Err(ClusterError::Bucket {
                        bucket: held.store.name.clone(),
                        why,
                    });
                }
                _ if Instant::now() < deadline => {
                    tracing::info!(
                        node = id.name(),
                        "waiting: another run of this node has not been gone for long enough"
                    );
                    sleep(lease / 4).await;
                }
                _ => {
                    return Err(ClusterError::NameTaken {
                        node: id.name().to_owned(),
                    });
                }
            }
        }
    }

    async fn create(&mut self) -> Renewed {
        let found = match self.store.entry(self.id.name()).await {
            Ok(found) => found.filter(|entry| !entry.value.is_empty()),
            Err(error) => return Renewed::Failed(error.to_string()),
        };
        if let Some(found) = found {
            let theirs: Option<Lease> = serde_json::from_slice(&found.value).ok();
            if theirs.is_none_or(|theirs| theirs.id != self.id.as_str()) {
                return Renewed::Taken;
            }
            self.revision = found.revision;
            return self.update().await;
        }
        match self.store.create(self.id.name(), self.value.clone()).await {
            Ok(revision) => {
                self.revision = revision;
                Renewed::Held
            }
            Err(error) => Renewed::Failed(error.to_string()),
        }
    }

    async fn update(&mut self) -> Renewed {
        match self
            .store
            .update(self.id.name(), self.value.clone(), self.revision)
            .await
        {
            Ok(revision) => {
                self.revision = revision;
                Renewed::Held
            }
            Err(error) => Renewed::Failed(error.to_string()),
        }
    }

    /// Renews it, or takes it again if it has ended, or if the broker has forgotten everything.
    async fn renew(&mut self, broker: &Broker) -> Renewed {
        if let Renewed::Held = self.update().await {
            return Renewed::Held;
        }
        match broker.nodes(&self.client).await {
            Ok(store) => self.store = store,
            Err(error) => return Renewed::Failed(error.to_string()),
        }
        self.create().await
    }

    async fn give_back(&self) {
        let deleted = self.store.delete_expect_revision(self.id.name(), Some(self.revision));
        if let Err(error) = deleted.await {
            tracing::debug!(%error, "the lease of this node was not given back, and ends by itself");
        }
    }
}
