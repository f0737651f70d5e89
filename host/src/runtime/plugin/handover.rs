//! How a topic moves from one generation to the next: hold, write, read, release.
//!
//! The old shard holds the mailbox, and its plugin writes the topic's state. The plugin on the new shard reads it. If that works, the
//! mailbox wakes on the new shard, and the old one forgets the topic. If not, the mailbox wakes where it was, as if nothing had
//! happened. A topic that moves to another node is written by [`departure`], and read there by [`arrival`], in the same way.

#[cfg(feature = "cluster")]
mod arrival;
#[cfg(feature = "cluster")]
mod departure;
mod written;

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bennu_plugin::abi::{event, reason};
use bennu_wire::message;
use bytes::Bytes;

#[cfg(feature = "cluster")]
pub(crate) use self::arrival::{Arrived, Arriving, NotTaken};
#[cfg(feature = "cluster")]
pub(crate) use self::departure::{Departed, Departing, Stays, Terms};
use self::written::{Panic, Written, Wrote};
use super::abandon;
use super::env::Env;
use super::loader::{Event, ShardInstance};
use super::shard::{BATCH, Control, Shard, Work};
use crate::config::{OnMigrateError, OnPanic};
use crate::runtime::capsule::{MemberState, Snapshot};
use crate::runtime::channel::{Ending, Input, Member, Notice, Topic};
use crate::runtime::id::MemberId;

/// Why a topic stays if the plugin has ended its call too early.
const NOT_ALL_READ: &str = "not all of the state was read";
/// What members are told if their state has not come along: they join again, on the new code.
const RELOADED: Notice = Notice::Error(message::reason::RELOADED);

/// One topic, to be given to another generation.
#[derive(Debug)]
pub(crate) struct Move {
    /// Which.
    pub(crate) topic: Arc<Topic>,
    /// The shard that takes it.
    pub(crate) to: Reserved,
    /// The version of the state that is carried.
    pub(crate) version: u32,
    /// The state to carry; `None`: what the giving generation writes.
    pub(crate) from: Option<Snapshot>,
    /// If the state cannot be moved, its members are told to rejoin.
    pub(crate) else_rejoin: bool,
    /// Where to report how it went.
    pub(crate) report: mpsc::Sender<Moved>,
}

/// A place on a shard that waits for a topic. While it is reserved, the shard's generation is not retired.
#[derive(Debug)]
pub(crate) struct Reserved(Arc<Shard>);

impl Reserved {
    /// Reserves a place.
    #[must_use]
    pub(crate) fn new(shard: Arc<Shard>) -> Self {
        shard.queue.enter();
        Self(shard)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.queue.leave();
    }
}

/// How one move went.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Which topic.
    pub(crate) topic: Arc<Topic>,
    /// What was carried, if anything was.
    pub(crate) carried: Option<Snapshot>,
    /// How long the topic's mailbox was held, in microseconds.
    pub(crate) held_us: u64,
    /// What waited in it when it was released.
    pub(crate) waited: usize,
    /// Why the topic stayed where it was, or had to start anew.
    pub(crate) failed: Option<String>,
}

/// A topic's state on its way.
#[derive(Debug)]
pub(crate) struct Carried {
    moving: Move,
    from: Arc<Shard>,
    since: Instant,
    /// `None` where the plugin held nothing.
    state: Option<Snapshot>,
}

impl Carried {
    /// The topic.
    pub(super) fn topic(&self) -> &Topic {
        &self.moving.topic
    }
}

/// The old shard's half.
pub(super) fn give(shard: &Arc<Shard>, moving: Move, instance: &mut ShardInstance, env: &Env) {
    let since = Instant::now();
    if moving.topic.is_running() {
        // Its effects wait for the store.
        return shard.put_off(moving);
    }
    let current = env
        .slot
        .current()
        .is_some_and(|current| current.number == moving.to.0.generation());
    if !current || !(fault::unheld() || moving.topic.hold(&shard.queue)) {
        // Nothing to move: other code is in service by now, or the topic is closed, or it has left this shard.
        moving.tell(since, 0, None, None);
        return;
    }
    let Some((moving, wrote)) = with_state(moving, shard, instance) else {
        return;
    };
    match wrote {
        Wrote::Failed(why) => fail(moving, shard, since, &why, env),
        Wrote::Panicked(panics) => end_first(shard, moving, since, panics, instance, env),
        Wrote::State(state) => {
            let to = Arc::clone(&moving.to.0);
            let carried = Carried {
                moving,
                from: Arc::clone(shard),
                since,
                state,
            };
            if let Err(Control::Take(carried)) = to.control(Control::Take(Box::new(carried))) {
                give_back(*carried, "the new code has stopped", env);
            }
        }
    }
}

/// Ends the members whose state the plugin cannot write, or all of them if `on_panic = "topic"`. The others move after that.
fn end_first(
    shard: &Arc<Shard>,
    moving: Move,
    since: Instant,
    panics: Vec<Panic>,
    instance: &mut ShardInstance,
    env: &Env,
) {
    let topic = Arc::clone(&moving.topic);
    let ends = ends_after(&panics, &topic, env);
    if ends.is_empty() {
        // The panic belongs to no member.
        return fail(moving, shard, since, &panics[0].message, env);
    }
    let batches = ends.len().div_ceil(BATCH);
    topic.release(&shard.queue, ends);
    // Asked for before the ends run: if one of them hangs, the thread that gives the shard up finds the move.
    if let Err(Control::Give(moving)) = shard.control(Control::Give(Box::new(moving))) {
        abandon::sweep(shard, env);
        return moving.fail(since, 0, "its thread has ended");
    }
    for _ in 0..batches {
        shard.run_topics(vec![Arc::clone(&topic)], instance, env);
    }
}

/// Notes these panics, and returns the ends of the members that they were about, or of all if `on_panic = "topic"`.
fn ends_after(panics: &[Panic], topic: &Topic, env: &Env) -> Vec<Input> {
    for Panic { message, .. } in panics {
        env.panicked(&topic.name, "snapshot", message);
    }
    match env.slot.config().on_panic {
        OnPanic::Topic => vec![Input::EndAll {
            reason: reason::PANICKED,
            notice: Notice::Error(message::reason::CHANNEL_CRASH),
        }],
        OnPanic::Member => panics.iter().filter_map(Panic::end).collect(),
    }
}

/// The topic's own state alone is larger than a sample may be. How large, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLarge(pub(super) usize);

/// A topic's state as it is now, with as many of its members as fit into `bytes_left`, which shrinks by that much. The topic
/// stays here. `None` if the plugin cannot write it.
pub(super) fn snapshot_up_to(
    shard: &Shard,
    topic: &Arc<Topic>,
    version: u32,
    bytes_left: &Arc<AtomicUsize>,
    instance: &mut ShardInstance,
) -> Option<Result<Snapshot, TooLarge>> {
    let mut written = Written::up_to(bytes_left);
    shard.begin(Work::Sample(Arc::clone(topic)));
    instance.handle(&[plain(event::SNAPSHOT, topic)], &mut written).ok()?;
    shard.end();
    if let Some(too_large) = written.too_large {
        return Some(Err(too_large));
    }
    match written.wrote(version, topic) {
        Wrote::State(state) => state.map(Ok),
        Wrote::Panicked(_) | Wrote::Failed(_) => None,
    }
}

/// How a shard has written a topic's own state, without its members. The topic stays here. `None` if the shard was abandoned meanwhile.
pub(super) fn written_for_store(
    shard: &Shard,
    topic: &Arc<Topic>,
    version: u32,
    instance: &mut ShardInstance,
) -> Option<Result<Snapshot, String>> {
    let mut written = Written::default();
    shard.begin(Work::Sample(Arc::clone(topic)));
    let event = Event {
        number: 1,
        ..plain(event::SNAPSHOT, topic)
    };
    instance.handle(&[event], &mut written).ok()?;
    shard.end();
    Some(match written.wrote(version, topic) {
        // An earlier kit writes the members, too.
        Wrote::State(state) => state.map_or(Err("it has no state".to_owned()), |state| {
            let members = Vec::new();
            Ok(Snapshot { members, ..state })
        }),
        Wrote::Failed(why) => Err(why),
        Wrote::Panicked(panics) => Err(panics
            .into_iter()
            .next()
            .map_or_else(String::new, |panic| format!("the plugin panicked: {}", panic.message))),
    })
}

/// Has the plugin read a topic's own state. The error says why it cannot; `None`: the shard was abandoned meanwhile.
pub(super) fn read_from_store(
    shard: &Shard,
    topic: &Arc<Topic>,
    state: &Snapshot,
    instance: &mut ShardInstance,
    env: &Env,
) -> Option<Result<(), String>> {
    let mut read = Written::default();
    shard.begin(Work::Wake(Arc::clone(topic)));
    instance
        .handle(&events(topic, state.version, &state.shared, &[]), &mut read)
        .ok()?;
    shard.end();
    let why = read
        .failure()
        .or_else(|| (read.done == 0).then(|| NOT_ALL_READ.to_owned()));
    Some(match why {
        None => Ok(()),
        Some(why) => {
            forget(shard, topic, instance, env);
            Err(why)
        }
    })
}

/// A move with the state that it carries, if the plugin holds any. `None` if the shard was abandoned meanwhile.
fn with_state(moving: Move, shard: &Arc<Shard>, instance: &mut ShardInstance) -> Option<(Move, Wrote)> {
    let topic = Arc::clone(&moving.topic);
    if !topic.record().live {
        return Some((moving, Wrote::State(None)));
    }
    if let Some(snapshot) = moving.from.clone() {
        return Some((moving, Wrote::State(Some(snapshot))));
    }
    let mut written = Written::default();
    shard.begin(Work::Give(moving));
    instance.handle(&[plain(event::SNAPSHOT, &topic)], &mut written).ok()?;
    let Some(Work::Give(moving)) = shard.end() else {
        return None;
    };
    let wrote = written.wrote(moving.version, &topic);
    Some((moving, wrote))
}

/// The new shard's half.
pub(super) fn take(shard: &Arc<Shard>, mut carried: Carried, instance: &mut ShardInstance, env: &Env) {
    let topic = Arc::clone(&carried.moving.topic);
    if fault::unheld() {
        std::thread::sleep(fault::WINDOW);
    }
    let mut first = Vec::new();
    if let Some(state) = &carried.state {
        // The plugin borrows these, so they stay here, even if another thread takes the rest.
        let (shared, members) = (state.shared.clone(), with_infos(&topic, &state.members));
        let events = events(&topic, state.version, &shared, &members);
        let mut read = Written::default();
        shard.begin(Work::Take(carried));
        if instance.handle(&events, &mut read).is_err() {
            return;
        }
        let Some(Work::Take(back)) = shard.end() else { return };
        carried = back;
        if let Some(why) = read
            .failure()
            .or_else(|| (read.done < events.len()).then(|| NOT_ALL_READ.into()))
        {
            forget(shard, &topic, instance, env);
            return give_back(carried, &why, env);
        }
        let mut record = topic.record();
        for serial in read.promises {
            match record.promises.get_mut(&serial) {
                Some(promise) => promise.pass_to(shard.generation()),
                None => env.hub.connects.pass_to(serial, shard.generation()),
            }
        }
        drop(record);
        // A shard that is closed has forgotten everything.
        let _ = carried.from.control(Control::Forget(Arc::clone(&topic)));
        first.push(Input::Restored);
        if carried.moving.from.is_some() {
            first.extend(without_state(&topic, &members));
        }
    }
    let waited = topic.release(&shard.queue, first);
    carried.moving.tell(carried.since, waited, None, carried.state);
}

/// The topic, then each of its members.
fn events<'a>(
    topic: &'a Topic,
    version: u32,
    shared: &'a [u8],
    members: &'a [(MemberId, Bytes, Bytes)],
) -> Vec<Event<'a>> {
    let number = u64::from(version);
    let mut events = vec![Event {
        number,
        payload: shared,
        ..plain(event::RESTORE, topic)
    }];
    events.extend(members.iter().map(|(member, info, state)| Event {
        member: member.number(),
        number,
        payload: state,
        info,
        ..plain(event::RESTORE_MEMBER, topic)
    }));
    events
}

/// Ends the members that joined after the state was written: an earlier snapshot lacks them.
fn without_state(topic: &Topic, restored: &[(MemberId, Bytes, Bytes)]) -> Vec<Input> {
    let restored: HashSet<MemberId> = restored.iter().map(|(member, ..)| *member).collect();
    let record = topic.record();
    let joined = record
        .members
        .iter()
        .filter(|(_, member)| matches!(member, Member::Joined(_)));
    joined
        .filter(|(member, _)| !restored.contains(member))
        .map(|(member, _)| Input::End(Ending::new(*member, reason::REROUTED, RELOADED)))
        .collect()
}

/// The plugin drops its copy of a topic.
pub(super) fn forget(queue: &Shard, topic: &Topic, instance: &mut ShardInstance, env: &Env) {
    let mut dropped = Written::default();
    queue.begin(Work::Forget);
    if instance.handle(&[plain(event::CLOSE, topic)], &mut dropped).is_err() {
        return;
    }
    queue.end();
    if let Some(panic) = dropped.failure() {
        env.panicked(&topic.name, "drop", &panic);
    }
}

/// Gives back what was carried: the topic stays where it was.
pub(super) fn give_back(carried: Carried, why: &str, env: &Env) {
    let Carried {
        moving, from, since, ..
    } = carried;
    fail(moving, &from, since, why, env);
}

/// The state could not be moved: the topic stays where it was, or its members rejoin on the new code.
fn fail(moving: Move, from: &Arc<Shard>, since: Instant, why: &str, env: &Env) {
    let waited = moving.topic.release(&from.queue, Vec::new());
    if from.is_closed() {
        abandon::sweep(from, env);
    }
    moving.stay(since, waited, why);
}

impl Move {
    /// The move of a topic that has come into memory on a shard whose code is not in service any more. Nobody asks how it went.
    pub(super) fn late(topic: &Arc<Topic>, env: &Env) -> Option<Self> {
        let current = { env.slot.current() }.filter(|current| current.number != env.generation)?;
        Some(Self {
            to: Reserved::new(env.slot.shard_of(topic, &current)),
            topic: Arc::clone(topic),
            version: env.code.state_version,
            from: None,
            else_rejoin: env.slot.config().on_migrate_error == OnMigrateError::Rejoin,
            report: mpsc::channel().0,
        })
    }

    /// Leaves the topic on the code that serves it, or has its members rejoin on the new code.
    pub(super) fn stay(self, since: Instant, waited: usize, why: &str) {
        if self.else_rejoin {
            self.topic.owe(Input::EndAll {
                reason: reason::REROUTED,
                notice: RELOADED,
            });
        }
        self.fail(since, waited, why);
    }

    /// Says that the topic was not moved.
    pub(super) fn fail(self, since: Instant, waited: usize, why: &str) {
        self.tell(since, waited, Some(why.to_owned()), None);
    }

    fn tell(self, since: Instant, waited: usize, failed: Option<String>, carried: Option<Snapshot>) {
        let held_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        // The swap may have stopped waiting.
        let _ = self.report.send(Moved {
            topic: self.topic,
            carried,
            held_us,
            waited,
            failed,
        });
    }
}

/// Adds the `info` of its join to each member's state. Pending members have no state, and some members may have left since.
fn with_infos(topic: &Topic, states: &[MemberState]) -> Vec<(MemberId, Bytes, Bytes)> {
    let record = topic.record();
    let info = |member| match record.members.get(member) {
        Some(Member::Joined(info)) => Some(info.clone()),
        _ => None,
    };
    states
        .iter()
        .filter_map(|MemberState { member, state, .. }| Some((*member, info(member)?, state.clone())))
        .collect()
}

fn plain(kind: u32, topic: &Topic) -> Event<'_> {
    Event {
        kind,
        binary: false,
        topic: topic.number,
        member: 0,
        token: 0,
        number: 0,
        name: &topic.name,
        payload: b"",
        info: b"",
    }
}

/// Breaks the hand-over on purpose, so that a test can show that `bennu torture` notices. Not in release builds.
mod fault {
    use std::time::Duration;

    /// If it is set, mailboxes go on with the old code while their topic moves.
    #[cfg(debug_assertions)]
    const VARIABLE: &str = "BENNU_FAULT_UNHELD";
    /// How long that lasts at least, so that something arrives meanwhile.
    pub(super) const WINDOW: Duration = Duration::from_millis(5);

    #[cfg(debug_assertions)]
    pub(super) fn unheld() -> bool {
        static UNHELD: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os(VARIABLE).is_some());
        *UNHELD
    }

    #[cfg(not(debug_assertions))]
    pub(super) const fn unheld() -> bool {
        false
    }
}
