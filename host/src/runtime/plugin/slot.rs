//! One plugin of the configuration: the code in service, and the directory of its topics.
//!
//! The slot stays while generations come and go. It finds or makes a topic and adds its first input under one lock. So a topic is
//! removed only if nothing waits for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use bytestring::ByteString;

use super::connect::ConnectCall;
use super::durable::Durable;
use super::generation::Generation;
use super::journal::Journal;
use super::refused_effects::RefusedEffects;
use super::shard::Shard;
use crate::config::{self, Durability};
use crate::runtime::channel::{Bounds, Input, Owner, Topic, Totals};
use crate::runtime::metrics::PluginStats;

/// One plugin of the configuration.
#[derive(Debug)]
pub(crate) struct PluginSlot {
    /// Its name: of the folder, the crate, the library and the TOML table.
    pub(crate) name: String,
    /// Identifies it in a broadcast.
    pub(crate) index: u32,
    /// What it did so far.
    pub(crate) stats: PluginStats,
    /// What happened to its libraries.
    pub(crate) journal: Journal,
    /// The effects that the host refuses it, for the log.
    pub(crate) refused_effects: RefusedEffects,
    config: RwLock<Arc<config::Plugin>>,
    current: RwLock<Option<Arc<Generation>>>,
    /// All that were in service. Some may have topics still.
    #[cfg(feature = "cluster")]
    generations: Mutex<Vec<Weak<Generation>>>,
    directory: Mutex<Directory>,
    hasher: RandomState,
    next_connect: AtomicUsize,
    /// The bytes that wait for all its topics.
    waiting: Arc<Totals>,
    /// How its topics outlive the process, if they do.
    durable: Option<Durable>,
}

#[derive(Debug, Default)]
struct Directory {
    /// In order, so that a page of them costs as much as the page.
    by_name: BTreeMap<ByteString, Arc<Topic>>,
    by_number: HashMap<u64, Weak<Topic>>,
}

impl Directory {
    fn add(&mut self, topic: &Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), Arc::clone(topic));
        self.by_number.insert(topic.number, Arc::downgrade(topic));
    }

    fn remove(&mut self, topic: &Topic) {
        self.by_name.remove(&topic.name);
        self.by_number.remove(&topic.number);
    }
}

/// Why a join or a call does not reach its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinRefused {
    /// No generation of the plugin is in service.
    Unavailable,
    /// The topic has too much to do, or there are too many topics.
    Overloaded,
    /// The topic has no home now, or this node cannot reach it.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    NoNode,
}

impl PluginSlot {
    /// A plugin that has no code yet.
    #[must_use]
    pub(crate) fn new(name: String, index: u32, config: config::Plugin) -> Self {
        let waiting = Arc::new(Totals::within(bounds_of(&config)));
        Self {
            name,
            index,
            stats: PluginStats::default(),
            journal: Journal::default(),
            refused_effects: RefusedEffects::default(),
            config: RwLock::new(Arc::new(config)),
            current: RwLock::default(),
            #[cfg(feature = "cluster")]
            generations: Mutex::default(),
            directory: Mutex::default(),
            hasher: RandomState::new(),
            next_connect: AtomicUsize::new(0),
            waiting,
            durable: None,
        }
    }

    /// The same plugin, whose topics outlive the process.
    #[must_use]
    pub(crate) fn with(self, durable: Durable) -> Self {
        let durable = Some(durable);
        Self { durable, ..self }
    }

    /// How its topics outlive the process, if they do.
    #[must_use]
    pub(crate) fn durable(&self) -> Option<&Durable> {
        self.durable.as_ref()
    }

    /// What of its topics outlives the process, whatever the configuration says by now.
    #[must_use]
    pub(crate) fn durability(&self) -> Durability {
        self.durable.as_ref().map_or(Durability::None, Durable::durability)
    }

    /// Its settings in the configuration, as they are now.
    #[must_use]
    pub(crate) fn config(&self) -> Arc<config::Plugin> {
        Arc::clone(&self.config.read().expect("no holder panics"))
    }

    /// Replaces its settings. Some of them only take effect at the next load.
    pub(crate) fn configure(&self, config: config::Plugin) {
        self.waiting.set_bounds(bounds_of(&config));
        *self.config.write().expect("no holder panics") = Arc::new(config);
    }

    /// The code in service.
    #[must_use]
    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.current.read().expect("no holder panics").clone()
    }

    /// Makes this the code in service, for topics that are made from now on.
    pub(crate) fn set_current(&self, generation: Option<Arc<Generation>>) {
        // Under the directory's lock, so that no topic is made on the old code after this returns.
        let _directory = self.directory();
        #[cfg(feature = "cluster")]
        if let Some(generation) = &generation {
            let mut known = self.generations.lock().expect("no holder panics");
            let other =
                |other: &Weak<Generation>| other.strong_count() > 0 && other.as_ptr() != Arc::as_ptr(generation);
            known.retain(other);
            known.push(Arc::downgrade(generation));
        }
        *self.current.write().expect("no holder panics") = generation;
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("no holder of the directory panics")
    }

    /// Gives a join, a call or a look to its topic, which comes into memory if it is not there.
    ///
    /// # Errors
    ///
    /// If no code is in service, or the topic or the plugin has too much to do already.
    pub(crate) fn enter(
        &self,
        name: &ByteString,
        number: impl FnOnce() -> u64,
        input: Input,
    ) -> Result<Arc<Topic>, JoinRefused> {
        let mut directory = self.directory();
        if let Some(topic) = directory.by_name.get(name) {
            topic.push(input).map_err(|_| JoinRefused::Overloaded)?;
            return Ok(Arc::clone(topic));
        }
        let (topic, owner) = self.make(&directory, name, number)?;
        if self.durable.is_some() {
            // Until it is known whether the topic is stored.
            topic.hold(&owner);
        }
        if topic.push(input).is_err() {
            owner.leave();
            return Err(JoinRefused::Overloaded);
        }
        if let Some(durable) = &self.durable {
            durable.load(&topic);
        }
        directory.add(&topic);
        Ok(topic)
    }

    /// Makes a topic whose state comes from another node. Its mailbox is held until that is here. `None`: there is one already.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    #[cfg(feature = "cluster")]
    pub(super) fn receive(
        &self,
        name: &ByteString,
        number: impl FnOnce() -> u64,
    ) -> Result<Option<Arc<Topic>>, JoinRefused> {
        let mut directory = self.directory();
        if directory.by_name.contains_key(name) {
            return Ok(None);
        }
        let (topic, owner) = self.make(&directory, name, number)?;
        topic.hold(&owner);
        directory.add(&topic);
        Ok(Some(topic))
    }

    /// A topic that stands in the directory next, and its owner.
    fn make(
        &self,
        directory: &Directory,
        name: &ByteString,
        number: impl FnOnce() -> u64,
    ) -> Result<(Arc<Topic>, Owner), JoinRefused> {
        let generation = self.current().ok_or(JoinRefused::Unavailable)?;
        let config = self.config();
        if directory.by_name.len() >= config.max_topics {
            return Err(JoinRefused::Overloaded);
        }
        let owner = Arc::clone(&generation.shard(self.hasher.hash_one(&**name)).queue);
        if owner.is_closed() {
            return Err(JoinRefused::Unavailable);
        }
        owner.enter();
        let topic = self.new_topic(name, number(), &owner);
        Ok((topic, owner))
    }

    fn new_topic(&self, name: &str, number: u64, owner: &Owner) -> Arc<Topic> {
        // A copy, because the name is a slice of a frame and would keep all of it in memory.
        let name = ByteString::from(name);
        let totals = Arc::clone(&self.waiting);
        Arc::new(Topic::new(name, number, totals, Arc::clone(owner)))
    }

    /// A mailbox for a topic whose home is another node, with the same bounds as the topic has there. It stands in no directory of
    /// the plugin; `owner` sends on what arrives in it.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    #[must_use]
    pub(crate) fn away(&self, name: &str, number: u64, owner: &Owner) -> Arc<Topic> {
        owner.enter();
        self.new_topic(name, number, owner)
    }

    /// The topic of that name.
    #[must_use]
    pub(crate) fn find(&self, name: &ByteString) -> Option<Arc<Topic>> {
        self.directory().by_name.get(name).cloned()
    }

    /// The topic of that number.
    #[must_use]
    pub(crate) fn find_number(&self, number: u64) -> Option<Arc<Topic>> {
        self.directory().by_number.get(&number)?.upgrade()
    }

    /// All topics, as they are now.
    #[must_use]
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.directory().by_name.values().cloned().collect()
    }

    /// Up to `most` topics whose names begin with `prefix`, in the order of their names, after the name `after`.
    #[must_use]
    pub(crate) fn page(&self, prefix: &str, after: Option<&str>, most: usize) -> Vec<Arc<Topic>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let directory = self.directory();
        let names = directory.by_name.range::<str, _>((from, Bound::Unbounded));
        names
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(most)
            .map(|(_, topic)| Arc::clone(topic))
            .collect()
    }

    /// Bytes that wait for its handlers, in all its topics.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// How many topics there are.
    #[must_use]
    pub(crate) fn topic_count(&self) -> usize {
        self.directory().by_name.len()
    }

    /// Removes a topic whose mailbox is held, because nobody knows its stored state, or because it lives elsewhere. Returns what has
    /// waited for it.
    pub(super) fn withdraw(&self, topic: &Arc<Topic>) -> VecDeque<Input> {
        let mut directory = self.directory();
        let waited = topic.abandon(&topic.owner(), true);
        if waited.is_some() {
            directory.remove(topic);
        }
        waited.unwrap_or_default()
    }

    /// Removes a topic that the plugin has closed. If something has arrived for it meanwhile, it stays, on the code that is in
    /// service now; it has no state that would have to move.
    pub(crate) fn remove(&self, topic: &Arc<Topic>) {
        let mut directory = self.directory();
        if topic.close() {
            directory.remove(topic);
            return;
        }
        let owner = topic.owner();
        if let Some(durable) = &self.durable {
            // Its next life begins with its stored state.
            if topic.hold(&owner) {
                durable.load(topic);
            }
            return;
        }
        let (live, linger) = {
            let record = topic.record();
            (
                record.live,
                record
                    .members
                    .is_empty()
                    .then_some(Input::Linger { epoch: record.epoch }),
            )
        };
        if let Some(current) = self.current().filter(|current| current.number != owner.generation)
            && !live
            && topic.hold(&owner)
        {
            topic.release(&self.shard_of(topic, &current).queue, Vec::new());
        }
        // If nobody joins with what has arrived, the topic closes again behind it.
        if let Some(linger) = linger {
            topic.owe(linger);
        }
    }

    /// Removes the topics of a shard that will never run again, and `held` although that is held. Returns them with the inputs that
    /// waited for them.
    pub(super) fn abandon(&self, owner: &Owner, held: Option<&Arc<Topic>>) -> Vec<(Arc<Topic>, VecDeque<Input>)> {
        let mut directory = self.directory();
        let mut abandoned = Vec::new();
        directory.by_name.retain(|_, topic| {
            let held = held.is_some_and(|held| Arc::ptr_eq(held, topic));
            let waited = topic.abandon(owner, held);
            let stays = waited.is_none();
            abandoned.extend(waited.map(|waited| (Arc::clone(topic), waited)));
            stays
        });
        for (topic, _) in &abandoned {
            directory.remove(topic);
        }
        abandoned
    }

    /// The shard of `generation` that a topic belongs to.
    #[must_use]
    pub(crate) fn shard_of(&self, topic: &Topic, generation: &Generation) -> Arc<Shard> {
        generation.shard(self.hasher.hash_one(&*topic.name))
    }

    /// The shard that handles a topic now, of whichever generation. `None` if that has ended.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(super) fn shard_that_owns(&self, topic: &Topic) -> Option<Arc<Shard>> {
        let (owner, known) = (
            topic.owner(),
            self.generations.lock().expect("no holder panics").clone(),
        );
        let mut known = known.iter().filter_map(Weak::upgrade);
        known.find_map(|generation| generation.shard_of(&owner))
    }

    /// Runs the connect handler on one of the shards. `false` if no code is in service, or too many wait.
    pub(crate) fn connect(&self, call: ConnectCall) -> bool {
        let Some(generation) = self.current() else { return false };
        let turn = self.next_connect.fetch_add(1, Ordering::Relaxed);
        generation.living_shard(turn).is_some_and(|shard| shard.connect(call))
    }
}

/// How much may wait for a topic of this plugin.
fn bounds_of(config: &config::Plugin) -> Bounds {
    Bounds {
        events: config.max_mailbox_events,
        bytes: config.max_mailbox_bytes,
        messages: config.max_mailbox_messages,
        message_bytes: config.max_mailbox_message_bytes,
        total_bytes: config.max_mailbox_total_bytes,
        share_bytes: config.max_mailbox_total_bytes / config.max_topics,
    }
}
