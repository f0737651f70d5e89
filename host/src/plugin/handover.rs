//! How a topic moves from one generation to the next: held, written, read, released.
//!
//! The old shard holds the mailbox and has the plugin write the topic's state; the new one has it read. Only when that
//! worked does the mailbox wake on the new shard and the old one forget the topic. If it did not, the mailbox wakes where
//! it was, as if nothing had been tried.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use bennu_plugin::abi::{effect, error, event, reason};
use bytes::Bytes;

use super::loader::{Calls, Effect, Event, Go, Outcome, ShardInstance};
use super::shard::{Control, Env, ShardQueue};
use crate::channel::{Home, Input, Member, Notice, Topic};
use crate::config::OnMigrateError;
use crate::id::MemberId;

/// One topic, to be given to another generation.
#[derive(Debug)]
pub struct Move {
    /// Which.
    pub topic: Arc<Topic>,
    /// The shard that takes it.
    pub to: Reserved,
    /// The version of the state that the giving generation writes.
    pub version: u32,
    /// Where it is said how it went.
    pub report: mpsc::Sender<Moved>,
}

/// A shard that waits for a topic: its generation is not retired meanwhile.
#[derive(Debug)]
pub struct Reserved(Home);

impl Reserved {
    /// Reserves a place.
    #[must_use]
    pub fn new(home: Home) -> Self {
        home.enter();
        Self(home)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// How one move went.
#[derive(Debug)]
pub struct Moved {
    /// How long the topic's mailbox was held, in microseconds.
    pub held_us: u64,
    /// Why the topic stayed where it was, or had to start anew.
    pub failed: Option<String>,
}

/// A topic's state on its way.
#[derive(Debug)]
pub struct Carried {
    moving: Move,
    from: Home,
    since: Instant,
    /// The topic's own, `None` where the plugin held none.
    shared: Option<Bytes>,
    members: Vec<(MemberId, Bytes, Bytes)>,
}

/// The old shard's half.
pub(super) fn give(home: &Home, moving: Move, instance: &mut ShardInstance, env: &Env) {
    let since = Instant::now();
    let current = env
        .slot
        .current()
        .is_some_and(|current| current.number == moving.to.0.generation);
    if !current || !moving.topic.hold(home) {
        // Other code is in service by now, or the topic is closed, or not here any more: nothing to move.
        let _ = moving.report.send(Moved {
            held_us: 0,
            failed: None,
        });
        return;
    }
    let live = moving.topic.book().live;
    let mut written = Written::default();
    if live {
        instance.handle(&[plain(event::SNAPSHOT, &moving.topic)], &mut written);
    }
    let failure = written
        .failure()
        .or_else(|| (live && written.shared.is_none()).then(|| "no state was written".into()));
    match failure {
        Some(why) => fail(moving, home, since, why, env),
        None => {
            let members = with_infos(&moving.topic, written.members);
            let to = Arc::clone(&moving.to.0);
            let carried = Carried {
                moving,
                from: Arc::clone(home),
                since,
                shared: written.shared,
                members,
            };
            to.control(Control::Take(Box::new(carried)));
        }
    }
}

/// The new shard's half.
pub(super) fn take(home: &Arc<ShardQueue>, carried: Carried, instance: &mut ShardInstance, env: &Env) {
    let Carried {
        moving,
        from,
        since,
        shared,
        members,
    } = carried;
    let topic = &moving.topic;
    if let Some(shared) = &shared {
        let number = u64::from(moving.version);
        let mut events = vec![Event {
            number,
            name: &topic.name,
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
        let mut read = Written::default();
        instance.handle(&events, &mut read);
        if let Some(why) = read
            .failure()
            .or_else(|| (read.done < events.len()).then(|| "not all of the state was read".into()))
        {
            forget(topic, instance);
            fail(moving, &from, since, why, env);
            return;
        }
        from.control(Control::Forget(Arc::clone(topic)));
    }
    topic.release(home, shared.is_some().then_some(Input::Restored));
    let _ = moving.report.send(Moved {
        held_us: micros(since),
        failed: None,
    });
}

/// The plugin drops its copy of a topic.
pub(super) fn forget(topic: &Topic, instance: &mut ShardInstance) {
    instance.handle(&[plain(event::CLOSE, topic)], &mut Written::default());
}

/// The state could not be carried over: the topic stays where it was, or its members rejoin on the new code.
fn fail(moving: Move, from: &Home, since: Instant, why: String, env: &Env) {
    let Move { topic, report, .. } = moving;
    topic.release(from, None);
    if env.slot.config().on_migrate_error == OnMigrateError::Rejoin {
        topic.owe(Input::EndAll {
            reason: reason::REROUTED,
            notice: Notice::Error,
        });
    }
    let _ = report.send(Moved {
        held_us: micros(since),
        failed: Some(format!("{}: {why}", topic.name)),
    });
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Puts to each member's state the `info` of its join. Members that only wait for their join have no state to carry.
fn with_infos(topic: &Topic, states: Vec<(MemberId, Bytes)>) -> Vec<(MemberId, Bytes, Bytes)> {
    let book = topic.book();
    let info = |member| match book.members.get(&member) {
        Some(Member::Joined(info)) => Some(info.clone()),
        _ => None,
    };
    states
        .into_iter()
        .filter_map(|(member, state)| Some((member, info(member)?, state)))
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

/// Takes what the plugin writes, and how it went.
#[derive(Default)]
struct Written {
    shared: Option<Bytes>,
    members: Vec<(MemberId, Bytes)>,
    done: usize,
    failed: Option<String>,
}

impl Written {
    fn failure(&mut self) -> Option<String> {
        self.failed.take()
    }
}

impl Calls for Written {
    fn done(&mut self, index: usize, outcome: Outcome, message: &str) -> Go {
        self.done = index + 1;
        if outcome == Outcome::Ok {
            return Go::On;
        }
        self.failed = Some(message.to_owned());
        Go::Back
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        if effect.kind != effect::STATE {
            return error::MISPLACED;
        }
        let state = Bytes::copy_from_slice(effect.payload);
        match MemberId::from_number(effect.member) {
            None => self.shared = Some(state),
            Some(member) => self.members.push((member, state)),
        }
        0
    }

    fn read(&mut self, _what: u32, _key: &str, _out: &mut Vec<u8>) -> i64 {
        error::MISPLACED
    }
}
