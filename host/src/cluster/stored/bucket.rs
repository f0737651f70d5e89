//! The bucket itself: it is opened or made, its entries are followed, and what nobody needs is cleared.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::entry::{Head, META, Named, named};
use super::writing::Sent;
use super::{Inner, entry};
use crate::cluster::broker::ClusterError;
use crate::cluster::member::random;
use crate::cluster::partitions::partition_of;
use crate::runtime::store::Key;

/// How keys are laid out.
const FORMAT: u32 = 1;
/// How often it is seen whether this node is the home of more than before, and at which of these turns the size of the bucket is asked
/// for, and marks are cleared.
const TURN: Duration = Duration::from_millis(500);
const TIDY: u32 = 10;

/// What a bucket says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    /// A number that no other bucket has.
    store: u64,
}

impl Inner {
    /// The name of the bucket.
    pub(super) fn bucket(&self) -> String {
        self.broker.bucket("topics")
    }

    /// The name of the stream that it is.
    pub(super) fn stream(&self) -> String {
        format!("KV_{}", self.bucket())
    }

    /// The subject of a key.
    pub(super) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket())
    }

    /// Opens it, or makes it if there is none.
    pub(super) async fn open_bucket(&self) -> Result<Stream, ClusterError> {
        let unusable = |why: String| ClusterError::Bucket {
            bucket: self.bucket(),
            why,
        };
        let config = self.config();
        let stream = match self.context.get_stream(self.stream()).await {
            Ok(stream) => stream,
            Err(_) => match self.context.create_stream(config.clone()).await {
                Ok(stream) => stream,
                // Another node may have been faster.
                Err(error) => {
                    { self.context.get_stream(self.stream()).await }.map_err(|_| unusable(error.to_string()))?
                }
            },
        };
        let found = &stream.cached_info().config;
        if found.max_bytes != config.max_bytes {
            let (before, max_bytes) = (found.max_bytes, config.max_bytes);
            let changed = Config {
                max_bytes,
                ..found.clone()
            };
            match self.context.update_stream(changed).await {
                Ok(_) => tracing::info!(before, max_bytes, "the bound of the bucket of stored topics is changed"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        before,
                        max_bytes,
                        error,
                        "the bound of the bucket of stored topics cannot be changed"
                    );
                }
            }
        }
        self.bytes.store(stream.cached_info().state.bytes, Ordering::Relaxed);
        let meta = self.meta().await.map_err(unusable)?;
        if meta.format > FORMAT {
            return Err(ClusterError::NewerStore {
                bucket: self.bucket(),
                found: meta.format,
                known: FORMAT,
            });
        }
        self.store.store(meta.store, Ordering::Release);
        self.is_open.store(true, Ordering::Release);
        Ok(stream)
    }

    fn config(&self) -> Config {
        Config {
            name: self.stream(),
            description: Some("Stored topics of a Bennu cluster".to_owned()),
            subjects: vec![self.subject(">")],
            max_messages_per_subject: 1,
            // Beyond it, what is stored stays, and what is new is refused.
            max_bytes: i64::try_from(self.max_bytes).unwrap_or(i64::MAX),
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: self.broker.replicas(),
            allow_direct: true,
            deny_delete: true,
            ..Config::default()
        }
    }

    /// What the bucket says of itself. Whoever comes first decides.
    async fn meta(&self) -> Result<Meta, String> {
        let store = u64::from_ne_bytes(random().map_err(|error| error.to_string())?);
        let ours = Meta { format: FORMAT, store };
        let text = serde_json::to_vec(&ours).expect("numbers are JSON").into();
        let head = Head {
            by: None,
            look_unix_ms: None,
            is_mark: false,
        };
        if let Sent::Failed(error) = self.send(META, &head, text, Some(0)).await {
            return Err(error.to_string());
        }
        let found = self.last(META).await.map_err(|error| error.to_string())?;
        let meta = found.and_then(|found| serde_json::from_slice(&found.capsule).ok());
        meta.ok_or_else(|| "its `meta` cannot be read".to_owned())
    }

    /// Reads the heads of all entries, then of each that changes, until that fails.
    pub(super) async fn read_heads(&self) -> Result<(), String> {
        let opened = self.open_bucket().await;
        let stream = opened.map_err(|error| error.to_string())?;
        self.index.begin();
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: self.subject(">"),
            // Capsules are read when somebody asks for them.
            headers_only: true,
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..OrderedConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(|error| error.to_string())?;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        let prefix = self.subject("");
        let mut is_first = true;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            let head = Head::read(message.headers.as_ref().unwrap_or(&async_nats::HeaderMap::new()));
            if let Some(named) = message.subject.strip_prefix(&*prefix).and_then(named) {
                self.note(named, &head, info.stream_sequence, is_first);
            }
            // `meta` is always there, so this comes.
            if is_first && info.pending == 0 {
                is_first = false;
                self.index.end();
            }
        }
        Err("the broker has ended the watch".to_owned())
    }

    fn note(&self, named: Named, head: &Head, revision: u64, is_first: bool) {
        let is_mine = head.is_by(&self.me);
        let (key, look, is_news) = match named {
            Named::Meta => return,
            Named::Aside(key, version) => return self.index.put_aside(key, version),
            Named::Topic(key) if head.is_mark => {
                let is_news = self.index.forget(key.clone(), revision, is_mine || is_first);
                (key, None, is_news)
            }
            Named::Topic(key) => {
                let is_news = self.index.put(key.clone(), revision, head.look_unix_ms);
                (key, head.look_unix_ms, is_news)
            }
        };
        // This node's own are known, and may have been carried out since. Those of others are heard if this becomes their home.
        if is_news
            && !is_mine
            && self.shared.table.is_here(&key.topic)
            && let Some(heard) = self.heard.get()
        {
            heard(key, look);
        }
    }

    /// Measures the bucket, clears marks, and looks after the topics that this node has become the home of.
    pub(super) async fn tidy(&self) {
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut had = HashSet::new();
        for turn in 0_u32.. {
            turns.tick().await;
            self.hear_looks(&mut had);
            if turn % TIDY != 0 || self.check_open().is_err() {
                continue;
            }
            if let Ok(stream) = self.context.get_stream(self.stream()).await {
                self.bytes.store(stream.cached_info().state.bytes, Ordering::Relaxed);
            }
            while let Some((key, revision)) = self.index.take_mark(Instant::now()) {
                // Nothing that was written since goes with it. What is not cleared now is, when a node starts.
                let _ = self.clear(&entry::topic(&key), Some(revision)).await;
            }
        }
    }

    /// Whoever is the home of a topic looks at it.
    fn hear_looks(&self, had: &mut HashSet<u16>) {
        let (has, partitions): (HashSet<u16>, u16) = {
            let entries = self.shared.table.read();
            let here = (0..).zip(entries.iter()).filter(|(_, entry)| entry.place.is_here());
            // As many as it was made with.
            (here.map(|(partition, _)| partition).collect(), entries.len() as u16)
        };
        let is_new = |key: &Key| {
            let partition = partition_of(&key.topic, partitions);
            has.contains(&partition) && !had.contains(&partition)
        };
        if let Some(heard) = self.heard.get().filter(|_| !has.is_subset(had)) {
            for (key, look) in self.index.looks(is_new) {
                heard(key, Some(look));
            }
        }
        *had = has;
    }

    /// Removes what stands under a key, up to this revision.
    pub(super) async fn clear(&self, key: &str, revision: Option<u64>) -> Result<(), String> {
        let stream = self.context.get_stream_no_info(self.stream()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let purge = stream.purge().filter(self.subject(key));
        let purged = match revision {
            Some(revision) => purge.sequence(revision + 1).await,
            None => purge.await,
        };
        purged.map(drop).map_err(|error| error.to_string())
    }
}
