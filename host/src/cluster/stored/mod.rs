//! Where a cluster keeps stored topics: a bucket of NATS that all nodes reach, as the [`Engine`] of the store.
//!
//! Each topic has an entry in the bucket `NAME-topics`, and each write of it names the revision that it replaces, by
//! compare-and-set. What a topic in memory knows of its entry is its [`Fence`](crate::runtime::capsule::Fence). A node that takes a
//! topic which another one has written *claims* it: it writes the entry once more. From then on whatever the other one still writes is
//! refused, whether it knows that it is not the home any more or not. [`writing`] has the writes, [`taking`] reads and claims,
//! [`entry`] says what stands in the bucket, and [`index`] knows which entries there are, because NATS lists nothing in order.
//!
//! A write that is not acknowledged is neither made nor not made. The entry is read back; if that does not tell, the topic's state is
//! taken as not stored, and the next write or claim finds out first.

mod bucket;
mod entry;
mod index;
mod taking;
mod writing;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, Event};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use self::index::Index;
use super::broker::{Broker, ClusterError, TIMEOUT};
use super::member::Shared;
use super::node::NodeId;
use crate::runtime::store::{Change, Done, Engine, Heard, Key, StoreError, Stored, Taken};
use crate::runtime::threads;

/// The name of the thread.
const THREAD: &str = "cluster.store";
/// How long after a failure the bucket is opened again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long somebody waits who asks before all heads are read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The stored topics of a cluster.
pub(super) struct SharedStore {
    inner: Arc<Inner>,
    /// The thread that all requests to NATS are made on.
    handle: Handle,
    /// Dropped, the thread ends.
    _running: oneshot::Sender<()>,
}

struct Inner {
    me: NodeId,
    broker: Broker,
    client: Client,
    context: Context,
    shared: Arc<Shared>,
    max_bytes: u64,
    /// The bucket was opened since the connection came back.
    is_open: AtomicBool,
    /// Has it opened again.
    again: Notify,
    /// Which store it is: one that NATS has lost, and a node made again, is another.
    store: AtomicU64,
    /// The number of the last write.
    last_write: AtomicU64,
    /// Topics of which nobody knows what was written last.
    unsure: Mutex<HashSet<Key>>,
    index: Index,
    heard: OnceLock<Heard>,
    begin: Notify,
    /// How many bytes the bucket takes.
    bytes: AtomicU64,
}

impl SharedStore {
    /// Opens the bucket over a connection of its own, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// If NATS cannot be reached, has no room, or has a bucket that this version does not read.
    pub(super) async fn open(
        broker: Broker,
        me: NodeId,
        shared: Arc<Shared>,
        max_bytes: u64,
    ) -> Result<Self, ClusterError> {
        let (done, opened) = oneshot::channel();
        let (running, ended) = oneshot::channel::<()>();
        let body = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let inner = match Inner::open(broker, me, shared, max_bytes).await {
                    Ok(inner) => inner,
                    Err(error) => return drop(done.send(Err(error))),
                };
                let _ = done.send(Ok((Arc::clone(&inner), Handle::current())));
                tokio::select! {
                    () = inner.run() => {}
                    _ = ended => {}
                }
            });
            Ok(())
        };
        threads::try_spawn(THREAD, body)?;
        let ended = || ClusterError::System(io::Error::other("the thread of the stored topics has ended"));
        let (inner, handle) = opened.await.map_err(|_| ended())??;
        Ok(Self {
            inner,
            handle,
            _running: running,
        })
    }
}

impl Inner {
    async fn open(broker: Broker, me: NodeId, shared: Arc<Shared>, max_bytes: u64) -> Result<Arc<Self>, ClusterError> {
        let (say, connected) = tokio::sync::watch::channel(true);
        let heard = move |event| match event {
            Event::Connected => drop(say.send(true)),
            Event::Disconnected => drop(say.send(false)),
            event => tracing::debug!(%event, "heard of the broker of stored topics"),
        };
        let client = broker.connect(format!("bennu store {me}"), heard).await?;
        let mut context = async_nats::jetstream::new(client.clone());
        context.set_timeout(TIMEOUT);
        let inner = Arc::new(Self {
            me,
            broker,
            client,
            context,
            shared,
            max_bytes,
            is_open: AtomicBool::new(false),
            again: Notify::new(),
            store: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            unsure: Mutex::default(),
            index: Index::default(),
            heard: OnceLock::new(),
            begin: Notify::new(),
            bytes: AtomicU64::new(0),
        });
        inner.open_bucket().await?;
        let minded = Arc::downgrade(&inner);
        let mut connected = connected;
        tokio::spawn(async move {
            while connected.changed().await.is_ok() {
                let Some(inner) = minded.upgrade() else { return };
                // What NATS has by now is known once the bucket is opened again.
                inner.is_open.store(false, Ordering::Release);
                inner.again.notify_one();
            }
        });
        Ok(inner)
    }

    /// Follows the bucket for ever.
    async fn run(&self) {
        self.begin.notified().await;
        let follow = async {
            loop {
                let ended = tokio::select! {
                    ended = self.read_heads() => ended,
                    () = self.again.notified() => continue,
                };
                if let Err(why) = ended {
                    tracing::debug!(why, "the bucket of stored topics cannot be followed; Bennu tries again");
                }
                self.is_open.store(false, Ordering::Release);
                sleep(PAUSE).await;
            }
        };
        tokio::join!(follow, self.tidy());
    }

    /// Nothing is asked of a broker that is away: it would be answered too late.
    fn check_open(&self) -> Result<(), StoreError> {
        match self.is_open.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(self.unavailable("NATS cannot be reached")),
        }
    }

    fn unavailable(&self, why: impl Into<String>) -> StoreError {
        StoreError::Unavailable {
            place: self.place(),
            why: why.into(),
        }
    }

    fn place(&self) -> String {
        format!("the bucket {} of NATS", self.bucket())
    }

    fn unsure(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStore").finish_non_exhaustive()
    }
}

impl Engine for SharedStore {
    fn write(&self, changes: &[Change]) -> Vec<Done> {
        self.handle.block_on(self.inner.write(changes))
    }

    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.handle.block_on(self.inner.read(key))
    }

    fn take(&self, keys: &[Key]) -> Vec<Taken> {
        // After a standstill others may be the home of them, who would lose what they have.
        self.inner.shared.gate.pass();
        self.handle
            .block_on(join_all(keys.iter().map(|key| self.inner.take(key))))
    }

    fn page(&self, plugin: &str, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<Stored>, StoreError> {
        self.handle.block_on(async {
            let complete = timeout(PATIENCE, self.inner.index.complete());
            complete
                .await
                .map_err(|_| self.inner.unavailable("their names are not read yet"))?;
            self.inner.page(plugin, prefix, after, most).await
        })
    }

    fn looks(&self) -> Result<Vec<(u64, Key)>, StoreError> {
        // They come with the heads.
        Ok(Vec::new())
    }

    fn follow(&self, heard: Heard) {
        let _ = self.inner.heard.set(heard);
        self.inner.begin.notify_one();
    }

    fn look(&self, key: &Key) -> Option<u64> {
        self.inner.index.look(key)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}
