//! Topics that outlive the process: when their state is stored, what waits for that, and how they come back.
//!
//! After each batch, [`Durable::run`] decides for each of its topics. If state has to be stored first, the topic keeps its inputs until
//! that is done: the plugin writes the state, the store syncs it, and [`Stored`] lets the topic go on, on its own shard. With
//! `durability = "commit"` the effects of the batch are [`Held`] until then, so nobody sees what might be lost. Other topics do not
//! wait.
//!
//! A topic that comes into memory is held while the store is asked for it; then its shard has the plugin read the state, as in a
//! [`handover`], and [`mod@wake`] releases it. If the state cannot be read, everybody who waits is refused, and the
//! stored bytes stay as they are.

mod held;
mod stored;
mod wake;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, OnceLock, Weak};

use bennu_plugin::abi::reason;
use bennu_wire::message;

pub(super) use self::held::{Act, Held};
pub(super) use self::stored::Stored;
use self::stored::Waiting;
#[cfg(feature = "cluster")]
pub(super) use self::wake::set_timer;
pub(super) use self::wake::{Woken, dispatch, refuse, wake};
use super::batch::{Plan, Rest};
use super::env::Env;
use super::handover;
use super::loader::ShardInstance;
use super::shard::Shard;
use super::slot::PluginSlot;
use crate::config::Durability;
use crate::runtime::capsule::{self, Capsule, Fence, Snapshot};
#[cfg(feature = "cluster")]
use crate::runtime::channel::StoredState;
use crate::runtime::channel::{Input, Notice, Record, Topic};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock::unix_ms;
use crate::runtime::store::{Change, Key, Store, StoreError};

/// How the topics of a plugin outlive the process.
#[derive(Debug)]
pub(crate) struct Durable {
    store: Store,
    plugin: Arc<str>,
    /// Nobody is told of anything before the state behind it is stored.
    commits: bool,
    /// Tells states apart, so that what has not changed is not stored again.
    hasher: RandomState,
    /// Refuses what waits for a topic when no code is in service.
    host: OnceLock<Weak<PluginSlot>>,
    hub: Weak<super::Hub>,
}

/// What becomes of a topic after a batch.
enum Next {
    /// It goes on.
    GoOn,
    /// It goes on once this is stored.
    Wait(Change, Option<Written>),
    /// The same, but nobody has to wait for it.
    Store(Change, Written),
    /// It cannot be stored.
    Fail(String),
}

/// What is known of a state once it is stored.
#[derive(Clone, Copy, Debug)]
struct Written {
    hash: u64,
    version: u32,
}

impl Durable {
    /// For the topics of `plugin`. `None`: they do not outlive the process.
    #[must_use]
    pub(crate) fn new(plugin: &str, durability: Durability, store: Store, hub: &Arc<super::Hub>) -> Option<Self> {
        let commits = match durability {
            Durability::None => return None,
            Durability::Checkpoint => false,
            Durability::Commit => true,
        };
        Some(Self {
            store,
            plugin: plugin.into(),
            commits,
            hasher: RandomState::new(),
            host: OnceLock::new(),
            hub: Arc::downgrade(hub),
        })
    }

    /// Says which slot it belongs to.
    pub(super) fn belongs_to(&self, slot: &Arc<PluginSlot>) {
        let _ = self.host.set(Arc::downgrade(slot));
    }

    /// The setting that is in force.
    #[must_use]
    pub(super) fn durability(&self) -> Durability {
        if self.commits {
            Durability::Commit
        } else {
            Durability::Checkpoint
        }
    }

    /// The store.
    #[must_use]
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The key of a topic.
    #[must_use]
    pub(crate) fn key(&self, topic: &bytestring::ByteString) -> Key {
        Key {
            plugin: Arc::clone(&self.plugin),
            topic: topic.clone(),
        }
    }

    /// Runs a batch. The topics whose state has to be stored first go on later.
    pub(super) fn run(&self, plan: Plan, shard: &Arc<Shard>, instance: &mut ShardInstance, env: &Env) {
        let held = self.commits.then(Arc::<Held>::default);
        let own = Env {
            held: held.clone(),
            ..env.clone()
        };
        let Some(plan) = plan.handle(shard, instance, &own) else {
            return;
        };
        drop(own);
        let rests = plan.rests();
        let mut acts = held.map(|held| held.take(rests.len())).unwrap_or_default().into_iter();
        let (mut waiting, mut changes) = (Vec::new(), Vec::new());
        for rest in rests {
            let acts = acts.next().unwrap_or_default();
            let Some(next) = self.next(&rest, shard, instance, env) else {
                // The shard was abandoned: whoever did that has answered.
                return;
            };
            match next {
                Next::GoOn => {
                    acts.into_iter().for_each(|act| act.take_place(env));
                    rest.finish(env);
                }
                Next::Wait(change, written) => {
                    changes.push(change);
                    waiting.push(Waiting { rest, acts, written });
                }
                Next::Store(change, written) => {
                    let topic = Arc::clone(&rest.topic);
                    rest.finish(env);
                    self.store_behind(topic, change, written, env);
                }
                Next::Fail(why) => {
                    let written = None;
                    say_unstored(&rest.topic, &why, env);
                    Waiting { rest, acts, written }.fail(self, self.commits, env);
                }
            }
        }
        if !waiting.is_empty() {
            let (shard, env) = (Arc::clone(shard), env.clone());
            self.store.write(changes, move |results| {
                Stored { waiting, results }.hand_to(&shard, &env);
            });
        }
    }

    /// What becomes of a topic. `None`: the shard was abandoned meanwhile.
    fn next(&self, rest: &Rest, shard: &Arc<Shard>, instance: &mut ShardInstance, env: &Env) -> Option<Next> {
        let topic = &rest.topic;
        let mut record = topic.record();
        let (forgotten, in_use) = (record.forgotten, !record.members.is_empty());
        let stored = record.stored.get_or_insert_default();
        let void = stored.void;
        if rest.checkpoint {
            stored.is_due = false;
        }
        if forgotten {
            // Its end follows. Until then nothing more is stored of it, or a kill would bring it back.
            let now = rest.leaves || (self.commits && rest.touched);
            let (key, fence) = (self.key(&topic.name), stored.fence.clone());
            let removed = || Next::Wait(Change::Remove { key, fence }, None);
            return Some(if now { removed() } else { Next::GoOn });
        }
        let now = rest.leaves || rest.checkpoint || (self.commits && rest.touched);
        if !record.live || rest.closed || void || !now {
            if rest.touched && record.live && !void && !self.commits {
                self.set_checkpoint(topic, &mut record, env);
            }
            return Some(Next::GoOn);
        }
        drop(record);
        let state = match handover::written_for_store(shard, topic, env.code.state_version, instance)? {
            Ok(state) => state,
            Err(why) => return Some(Next::Fail(why)),
        };
        Some(self.compared(rest, state, in_use, env))
    }

    /// What has to be done with the present state of a topic.
    fn compared(&self, rest: &Rest, state: Snapshot, in_use: bool, env: &Env) -> Next {
        let topic = &rest.topic;
        let mut record = topic.record();
        let timers = record.own_timers();
        let hash = self.hash(&state, &timers);
        let stored = record.stored.get_or_insert_default();
        // A topic that leaves is stored anew in any case: its time to be forgotten begins.
        if stored.hash == Some(hash) && !rest.leaves {
            return Next::GoOn;
        }
        let (version, before) = (state.version, stored.version);
        let fence = stored.fence.clone();
        if !rest.leaves && !self.commits {
            // Known only once it is stored; until then the next change has it stored again.
            stored.hash = None;
        }
        drop(record);
        let config = env.slot.config();
        let capsule = Capsule {
            plugin: self.plugin.to_string(),
            topic: topic.name.to_string(),
            written_unix_ms: unix_ms(),
            in_use,
            state,
            timers,
            revision: None,
        };
        let bytes = capsule.encode();
        if bytes.len() > config.max_state_bytes {
            let most = config.max_state_bytes;
            return Next::Fail(format!(
                "it takes {} bytes, and `max_state_bytes` allows {most}",
                bytes.len()
            ));
        }
        let change = Change::Put {
            key: self.key(&topic.name),
            capsule: bytes,
            look_unix_ms: look_unix_ms(&capsule, &env.slot),
            set_aside: (before > version).then_some(before),
            fence,
        };
        let written = Written { hash, version };
        if rest.leaves || self.commits {
            Next::Wait(change, Some(written))
        } else {
            Next::Store(change, written)
        }
    }

    /// Has the present state stored a little later. Whatever changes until then is stored with it.
    fn set_checkpoint(&self, topic: &Arc<Topic>, record: &mut Record, env: &Env) {
        let stored = record.stored.get_or_insert_default();
        if !std::mem::replace(&mut stored.is_due, true) {
            // The rest of the time is for writing.
            let after = env.slot.config().checkpoint * 3 / 4;
            let timers = &env.hub.timers;
            timers.set(timers.number(), after, Arc::downgrade(topic), Input::Checkpoint);
        }
    }

    /// Stores a state for which nobody waits. If that fails, it is tried again.
    fn store_behind(&self, topic: Arc<Topic>, change: Change, written: Written, env: &Env) {
        let env = env.clone();
        self.store.write(vec![change], move |results| {
            let mut record = topic.record();
            match results.into_iter().collect::<Result<(), _>>() {
                Ok(()) => {
                    if let Some(stored) = &mut record.stored {
                        (stored.hash, stored.version) = (Some(written.hash), written.version);
                    }
                }
                Err(error) if matches!(*error, StoreError::Superseded) => {
                    say_refused(&topic, &error, &env);
                    record.stored.get_or_insert_default().void = true;
                    drop(record);
                    topic.owe(void());
                }
                Err(error) => {
                    say_refused(&topic, &error, &env);
                    if let Some(durable) = env.slot.durable() {
                        durable.set_checkpoint(&topic, &mut record, &env);
                    }
                }
            }
        });
    }

    /// Whether a state of the topic is on its way to a store that nodes share.
    #[cfg(feature = "cluster")]
    pub(super) fn is_writing(&self, topic: &Topic) -> bool {
        let record = topic.record();
        let fence = record.stored.as_ref().and_then(|stored| stored.fence.as_ref());
        // What waits to be written brings the fence along.
        fence.is_some_and(|fence| Arc::strong_count(fence) > 1)
    }

    /// A topic has come from another node: what is known of its entry. The next thing that it does is to be stored.
    #[cfg(feature = "cluster")]
    pub(super) fn arrived(&self, capsule: &Capsule, record: &mut Record) -> Input {
        record.stored = Some(Box::new(StoredState {
            version: capsule.state.version,
            // Where its plugin stores nothing, nothing is known, and nothing is stored.
            fence: Some(Arc::new(Fence::at(capsule.revision.unwrap_or_default()))),
            ..StoredState::default()
        }));
        Input::Checkpoint
    }

    /// Asks the store for a topic whose mailbox is held. It goes on once that has answered.
    pub(super) fn load(&self, topic: &Arc<Topic>) {
        let (key, topic) = (self.key(&topic.name), Arc::clone(topic));
        let (Some(slot), Some(hub)) = (self.host.get().and_then(Weak::upgrade), self.hub.upgrade()) else {
            return;
        };
        self.store.read(key, move |found, waking| {
            let found = found.map_err(|error| {
                let told = match error {
                    StoreError::Superseded => message::reason::NODE_UNAVAILABLE,
                    _ => message::reason::STORAGE,
                };
                (told, chain(&error))
            });
            wake::found(&topic, found, waking, &slot, &hub);
        });
    }

    fn hash(&self, state: &Snapshot, timers: &[capsule::Timer]) -> u64 {
        self.hasher.hash_one((&state.shared, state.version, timers))
    }

    /// What stores a topic that is not in memory, as if it had just left it: from now on its time to be forgotten runs.
    pub(crate) fn imported(&self, capsule: Capsule, fence: Option<Arc<Fence>>, slot: &PluginSlot) -> Change {
        let capsule = Capsule {
            written_unix_ms: unix_ms(),
            in_use: false,
            revision: None,
            ..capsule
        };
        Change::Put {
            key: self.key(&(&*capsule.topic).into()),
            fence,
            look_unix_ms: look_unix_ms(&capsule, slot),
            capsule: capsule.encode(),
            set_aside: None,
        }
    }
}

/// When a stored topic is past its time, in milliseconds since 1970, if nobody comes until then.
fn over_unix_ms(capsule: &Capsule, slot: &PluginSlot) -> Option<u64> {
    let retain = u64::try_from(slot.config().retain.as_millis()).unwrap_or(u64::MAX);
    (retain > 0).then(|| capsule.written_unix_ms.saturating_add(retain))
}

/// When a stored topic has to be looked at, in milliseconds since 1970.
fn look_unix_ms(capsule: &Capsule, slot: &PluginSlot) -> Option<u64> {
    { capsule.due_unix_ms().into_iter() }
        .chain(over_unix_ms(capsule, slot))
        .min()
}

/// Whether a stored topic is past its time.
fn is_over(capsule: &Capsule, slot: &PluginSlot) -> bool {
    !capsule.in_use && over_unix_ms(capsule, slot).is_some_and(|over| over <= unix_ms())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The topic ends: its state is void.
fn void() -> Input {
    Input::EndAll {
        reason: reason::OTHER,
        notice: Notice::Error(message::reason::STORAGE),
    }
}

/// Says that the store has not taken a topic.
fn say_refused(topic: &Topic, error: &StoreError, env: &Env) {
    if !matches!(error, StoreError::Superseded) {
        return say_unstored(topic, &chain(error), env);
    }
    let plugin = &env.slot.name;
    env.slot.stats.unstored_topics.inc();
    // Nobody has to do anything: the topic goes on where it lives.
    client_line!(
        WARN,
        env.hub.client_lines,
        "superseded",
        Source::Plugin(plugin.as_str().into()),
        plugin,
        topic = &*super::loader::said(&topic.name),
        "topic not stored: {error}"
    );
}

/// Says that a topic could not be stored.
fn say_unstored(topic: &Topic, why: &str, env: &Env) {
    let plugin = &env.slot.name;
    env.slot.stats.unstored_topics.inc();
    client_line!(
        ERROR,
        env.hub.client_lines,
        "unstored",
        Source::Plugin(plugin.as_str().into()),
        plugin,
        topic = &*super::loader::said(&topic.name),
        "topic not stored: {why}"
    );
}
