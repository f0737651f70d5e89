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
use crate::runtime::capsule::{self, Capsule, Snapshot};
use crate::runtime::channel::{Input, Record, Topic};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock::unix_ms;
use crate::runtime::store::{Change, Key, Store};

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
                    Waiting { rest, acts, written }.fail(self, env);
                }
            }
        }
        if !waiting.is_empty() {
            let (shard, env) = (Arc::clone(shard), env.clone());
            self.store.write(changes, move |result| {
                Stored { waiting, result }.hand_to(&shard, &env);
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
            let removed = || Next::Wait(Change::Remove(self.key(&topic.name)), None);
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
        self.store.write(vec![change], move |result| {
            let mut record = topic.record();
            match result {
                Ok(()) => {
                    if let Some(stored) = &mut record.stored {
                        (stored.hash, stored.version) = (Some(written.hash), written.version);
                    }
                }
                Err(error) => {
                    say_unstored(&topic, &chain(&*error), &env);
                    if let Some(durable) = env.slot.durable() {
                        durable.set_checkpoint(&topic, &mut record, &env);
                    }
                }
            }
        });
    }

    /// Asks the store for a topic whose mailbox is held. It goes on once that has answered.
    pub(super) fn load(&self, topic: &Arc<Topic>) {
        let (key, topic) = (self.key(&topic.name), Arc::clone(topic));
        let (Some(slot), Some(hub)) = (self.host.get().and_then(Weak::upgrade), self.hub.upgrade()) else {
            return;
        };
        self.store.read(key, move |found, waking| {
            let found = found.map_err(|error| (bennu_wire::message::reason::STORAGE, chain(&error)));
            wake::found(&topic, found, waking, &slot, &hub);
        });
    }

    fn hash(&self, state: &Snapshot, timers: &[capsule::Timer]) -> u64 {
        self.hasher.hash_one((&state.shared, state.version, timers))
    }

    /// Stores a topic that is not in memory, as if it had just left it: from now on its time to be forgotten runs.
    pub(crate) fn imported(&self, capsule: Capsule, slot: &PluginSlot) -> Change {
        let capsule = Capsule {
            written_unix_ms: unix_ms(),
            in_use: false,
            ..capsule
        };
        Change::Put {
            key: self.key(&(&*capsule.topic).into()),
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
