//! Keeps the capsules of topics where the end of the process does not lose them.
//!
//! The rest of the host asks a [`Store`], which never makes it wait for the disk: one thread writes what has been queued, many changes
//! with one sync, and another one reads. Both call back. What holds the bytes is an [`Engine`]: today a [folder](disk), in a cluster
//! a bucket that all nodes reach.
//!
//! The store also knows when a topic has to be looked at although nobody asks for it, because a timer of it is due or its time is
//! over.

mod disk;
mod looks;
mod reading;
mod reclaim;
mod writing;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use bytestring::ByteString;
use prometheus_client::metrics::counter::Counter;

use self::looks::Looks;
use self::reading::Reads;
pub(crate) use self::reading::Waking;
use self::writing::Writes;
use crate::config;
use crate::runtime::capsule::Fence;
use crate::runtime::threads;

/// Which topic of which plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The plugin.
    pub(crate) plugin: Arc<str>,
    /// The topic.
    pub(crate) topic: ByteString,
}

/// One change of what is stored.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A capsule takes the place of the one before.
    Put {
        /// Whose.
        key: Key,
        /// The capsule.
        capsule: Bytes,
        /// When the topic has to be looked at, in milliseconds since 1970.
        look_unix_ms: Option<u64>,
        /// The one before has state of this later version: it is kept beside the new one.
        set_aside: Option<u32>,
        /// What was [taken](Engine::take) with it, if several nodes write to the store.
        #[cfg_attr(
            not(feature = "cluster"),
            allow(dead_code, reason = "a build without clusters shares no store")
        )]
        fence: Option<Arc<Fence>>,
    },
    /// The topic is forgotten, with what was set aside of it.
    Remove {
        /// Which.
        key: Key,
        /// As above.
        #[cfg_attr(
            not(feature = "cluster"),
            allow(dead_code, reason = "a build without clusters shares no store")
        )]
        fence: Option<Arc<Fence>>,
    },
}

impl Change {
    /// Which topic.
    #[must_use]
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Remove { key, .. } => key,
        }
    }

    /// What was taken with it.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn fence(&self) -> Option<&Arc<Fence>> {
        match self {
            Self::Put { fence, .. } | Self::Remove { fence, .. } => fence.as_ref(),
        }
    }

    fn bytes(&self) -> usize {
        let capsule = match self {
            Self::Put { capsule, .. } => capsule.len(),
            Self::Remove { .. } => 0,
        };
        self.key().topic.len() + capsule
    }
}

/// One stored topic of a page.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its name.
    pub(crate) topic: ByteString,
    /// Its capsule.
    pub(crate) capsule: Bytes,
    /// It was set aside because older code took its place; its state has this version.
    pub(crate) set_aside: Option<u32>,
}

/// What became of a change.
pub(crate) type Done = Result<(), Arc<StoreError>>;

/// A topic that comes into memory, or why it does not.
pub(crate) type Taken = Result<Found, StoreError>;

/// What is stored of a topic that comes into memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Its capsule, if there is one.
    pub(crate) capsule: Option<Bytes>,
    /// What its changes bring along, if several nodes write to the store.
    pub(crate) fence: Option<Arc<Fence>>,
}

/// Is told when a topic has to be looked at, in milliseconds since 1970, as another host has written.
pub(crate) type Heard = Box<dyn Fn(Key, Option<u64>) + Send + Sync>;

/// Where capsules are kept. Any thread may call it.
pub(crate) trait Engine: fmt::Debug + Send + Sync {
    /// Makes changes, and says what became of each. Topics do not depend on each other; several changes of one topic are made in their
    /// order. What is made lasts once this returns.
    fn write(&self, changes: &[Change]) -> Vec<Done>;

    /// The capsule of a topic.
    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError>;

    /// Reads topics that come into memory here. If several nodes write, they are this node's from then on: what another one had in
    /// hand is refused.
    fn take(&self, keys: &[Key]) -> Vec<Taken> {
        let found = |key| {
            let (capsule, fence) = (self.read(key)?, None);
            Ok(Found { capsule, fence })
        };
        keys.iter().map(found).collect()
    }

    /// Up to `most` topics of a plugin whose names begin with `prefix`, in the order of their names, after the name `after`.
    fn page(&self, plugin: &str, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<Stored>, StoreError>;

    /// All topics that have to be looked at one day, with the time in milliseconds since 1970.
    fn looks(&self) -> Result<Vec<(u64, Key)>, StoreError>;

    /// Has `heard` told of looks that other hosts have written, once they are this one's business.
    fn follow(&self, heard: Heard) {
        drop(heard);
    }

    /// When a topic has to be looked at that has been looked at in vain.
    fn look(&self, key: &Key) -> Option<u64> {
        let _ = key;
        None
    }

    /// Whether other hosts write to it as well.
    fn is_shared(&self) -> bool {
        false
    }

    /// How many bytes it takes.
    fn bytes(&self) -> u64;

    /// Where that is, for messages.
    fn place(&self) -> String;
}

/// Why something was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another host has it.
    #[error(
        "the stored topics in {} are in use by another server{}: stop it, or set another `[server] state_dir`",
        folder.display(),
        process.as_ref().map(|process| format!(" (process {process})")).unwrap_or_default()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Who has it.
        process: Option<String>,
    },
    /// A later host wrote it.
    #[error("the stored topics in {} have format {found}, and this server knows format {known}: use a newer server", folder.display())]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: String,
        /// The newest that is known.
        known: u32,
    },
    /// It is damaged.
    #[error(
        "the stored topics in {place} cannot be read ({why}); nothing was changed. Move the folder away to start without them, or put a \
         copy in its place"
    )]
    Damaged {
        /// Where.
        place: String,
        /// In what way.
        why: String,
    },
    /// It is as large as it may be.
    #[error(
        "the stored topics in {place} take {bytes} bytes, and `[store] max_bytes` allows {max_bytes}: forget some with `bennu topics \
         --forget`, or raise it"
    )]
    Full {
        /// Where.
        place: String,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        max_bytes: u64,
    },
    /// The system reported an error.
    #[error("the stored topics in {place} cannot be read or written")]
    System {
        /// Where.
        place: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The storage engine panicked.
    #[error("the stored topics in {place} cannot be read or written: the storage engine panicked")]
    Panicked {
        /// Where.
        place: String,
    },
    /// It cannot be reached, or does not answer. It may later.
    #[error("the stored topics in {place} cannot be read or written now: {why}")]
    Unavailable {
        /// Where.
        place: String,
        /// What was heard.
        why: String,
    },
    /// Another node has written the topic since this one has read it.
    #[error("another node is the home of this topic now, and has written it since: what this one has of it is void")]
    Superseded,
    /// It does not go into one message.
    #[error(
        "it takes {bytes} bytes, and NATS takes {most} in a message: raise `max_payload` of nats-server, or lower `max_state_bytes` of \
         the plugin"
    )]
    TooLarge {
        /// How many it takes.
        bytes: usize,
        /// How many it may.
        most: usize,
    },
}

/// What the store counts, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct StoreStats {
    /// Capsules written.
    pub(crate) writes: Counter,
    /// Bytes of these.
    pub(crate) bytes: Counter,
    /// Syncs; each made one or more changes last.
    pub(crate) syncs: Counter,
    /// Changes that could not be made.
    pub(crate) failures: Counter,
    /// Nanoseconds that syncs took.
    pub(crate) nanos: Counter,
}

/// The store of a host. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Box<dyn Engine>,
    limits: config::Store,
    writes: Writes,
    reads: Reads,
    looks: Mutex<Looks>,
    stats: StoreStats,
}

impl Store {
    /// Starts the threads over an engine. `look` is called for each topic that has to be looked at; it returns false if that must be
    /// tried again later.
    ///
    /// # Errors
    ///
    /// If the engine cannot be read, or the system gives no thread.
    pub(crate) fn over(
        engine: Box<dyn Engine>,
        limits: config::Store,
        look: impl Fn(&Key) -> bool + Send + 'static,
    ) -> Result<Self, StoreError> {
        let place = engine.place();
        let looks = Looks::new(engine.looks()?);
        let inner = Arc::new(Inner {
            engine,
            limits,
            writes: Writes::default(),
            reads: Reads::default(),
            looks: Mutex::new(looks),
            stats: StoreStats::default(),
        });
        let heard = Arc::downgrade(&inner);
        inner.engine.follow(Box::new(move |key, look| {
            if let Some(inner) = heard.upgrade() {
                inner.looks().set(key, look);
                inner.reads.look_again();
            }
        }));
        let failed = |source| StoreError::System { place, source };
        let (writer, reader) = (Arc::clone(&inner), Arc::clone(&inner));
        threads::spawn("store.write", move || writing::run(&writer))
            .and_then(|_| threads::spawn("store.read", move || reading::run(&reader, &look)))
            .map_err(failed)?;
        Ok(Self(inner))
    }

    /// Finds out whether the folder could be opened, as far as that is seen without a change to it.
    ///
    /// # Errors
    ///
    /// If it could not.
    pub(crate) fn check(folder: &Path) -> Result<(), StoreError> {
        disk::check(folder)
    }

    /// Queues changes that are made together. Calls `then` on the store's thread, with what became of each, once they last or cannot
    /// be made. So with no changes, it is called once everything is written that was queued before. Waits while too much is queued.
    pub(crate) fn write(&self, changes: Vec<Change>, then: impl FnOnce(Vec<Done>) + Send + 'static) {
        self.0
            .writes
            .push(changes, Box::new(then), self.0.limits.max_queue_bytes);
    }

    /// Reads a topic for `then`, which runs on the store's other thread. What it gets keeps a place among the topics that wake at a
    /// time, until it is dropped.
    pub(crate) fn read(&self, key: Key, then: impl FnOnce(Taken, Waking) + Send + 'static) {
        self.0.reads.push(key, Box::new(then));
    }

    /// See [`Engine::read`]. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.0.engine.read(key)
    }

    /// What a change of a topic brings along that is not in memory, if several nodes write to the store: the topic is
    /// [taken](Engine::take) for that. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn fence(&self, key: Key) -> Result<Option<Arc<Fence>>, StoreError> {
        if !self.0.engine.is_shared() {
            return Ok(None);
        }
        let taken = self.0.engine.take(&[key]).pop();
        taken.map_or_else(|| Err(self.0.panicked()), |taken| Ok(taken?.fence))
    }

    /// See [`Engine::page`]. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub(crate) fn page(
        &self,
        plugin: &str,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        self.0.engine.page(plugin, prefix, after, most)
    }

    /// How many bytes it takes.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.engine.bytes()
    }

    /// What it has counted.
    #[must_use]
    pub(crate) fn stats(&self) -> &StoreStats {
        &self.0.stats
    }

    /// Ends the threads once everything that is queued is written.
    pub(crate) fn stop(&self) {
        self.0.writes.stop();
        self.0.reads.stop();
    }
}

/// The engine that keeps capsules in a folder, up to so many bytes.
///
/// # Errors
///
/// If the folder cannot be used.
pub(crate) fn in_folder(folder: &Path, max_bytes: u64) -> Result<Box<dyn Engine>, StoreError> {
    Ok(Box::new(disk::Disk::open(folder, max_bytes)?))
}

impl Inner {
    fn panicked(&self) -> StoreError {
        let place = self.engine.place();
        StoreError::Panicked { place }
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().expect("no holder of the looks panics")
    }
}

#[cfg(test)]
mod tests;
