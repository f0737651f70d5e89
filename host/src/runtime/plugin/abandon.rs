//! Abandons a shard whose plugin does not return: answers its clients in its place, and has another shard take over later work.
//!
//! Runs on the watchdog's thread. Nobody waits for the stuck thread any longer, and [`Pulse`](super::watchdog::Pulse) makes sure that nothing it still
//! does counts. The state of its topics is lost.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bennu_wire::message::{Payload, Ref, reason};
use bytestring::ByteString;

use super::batch::{After, Plan};
use super::connect::Connected;
use super::durable;
use super::env::Env;
use super::generation::ShardSet;
use super::handover;
use super::shard::{Control, Shard, Work};
use crate::runtime::channel::{Called, Caller, Ending, Input, Member, Notice, Promise, Record, Topic};
use crate::runtime::id::MemberId;

/// Why a topic could not be moved.
pub(super) const HUNG: &str = "its thread does not return";

/// What was lost with a shard.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) topics: usize,
    pub(super) channels: usize,
    /// Another shard has taken its place.
    pub(super) replaced: bool,
}

/// Answers for a shard that does not return, and puts another in its place. The caller has locked its thread out before.
pub(super) fn abandon(set: &Arc<ShardSet>, shard: &Arc<Shard>) -> Lost {
    set.env.slot.stats.stuck_threads.inc();
    close(set, shard, true)
}

/// Closes a shard and answers what it was doing and what waits for it. `replace`: puts another shard in its place if possible, which
/// gets later joins and what has no state yet.
pub(super) fn close(set: &Arc<ShardSet>, shard: &Arc<Shard>, replace: bool) -> Lost {
    let env = &set.env;
    let controls = shard.close();
    // First, so that no new topic goes to the closed one.
    let other = if replace { set.replace(shard) } else { None };
    let mut rest = Rest::default();
    let mut held = None;
    match shard.end() {
        Some(Work::Events(plan)) => rest = Rest::of(&plan),
        Some(Work::Connect(call)) => call.answer(Connected::Crashed),
        Some(Work::Give(moving)) => {
            held = Some(Arc::clone(&moving.topic));
            moving.fail(Instant::now(), 0, HUNG);
        }
        Some(Work::Take(carried)) => handover::give_back(carried, HUNG, env),
        Some(Work::Wake(woken)) => durable::refuse(&woken, env, reason::CHANNEL_CRASH),
        #[cfg(feature = "cluster")]
        Some(Work::Depart(departing)) => {
            held = Some(Arc::clone(departing.topic()));
            departing.fail(HUNG);
        }
        #[cfg(feature = "cluster")]
        Some(Work::Arrive(arriving)) => arriving.refuse(HUNG, env),
        Some(Work::Sample(_) | Work::Forget | Work::Life(_)) | None => {}
    }
    let mut lost = Lost {
        replaced: other.is_some(),
        ..Lost::default()
    };
    for (topic, waited) in env.slot.abandon(&shard.queue, held.as_ref()) {
        let in_hand = rest.by_topic.remove(&topic.number).unwrap_or_default();
        lost.topics += 1;
        lost.channels += end(&topic, &in_hand, &waited, rest.announced, &CRASHED, env);
    }
    for control in controls {
        pass_on(control, other.as_ref(), env);
    }
    lost
}

/// Ends the topics of a shard that was closed before they came back to it.
pub(super) fn sweep(shard: &Arc<Shard>, env: &Env) {
    for (topic, waited) in env.slot.abandon(&shard.queue, None) {
        end(&topic, &[], &waited, None, &CRASHED, env);
    }
}

/// What those are told whose topic has ended with what it had still to do.
#[derive(Debug)]
pub(super) struct Told {
    /// Members, and clients that wait for a reply.
    pub(super) ended: &'static str,
    /// Clients that wait for the answer to a join.
    pub(super) refused: &'static str,
    /// Backends.
    pub(super) called: Called,
}

/// The state of the topic is lost with its thread.
const CRASHED: Told = Told {
    ended: reason::CHANNEL_CRASH,
    refused: reason::JOIN_CRASHED,
    called: Called::Crashed,
};

/// Passes a request to a closed shard on to another, if that can do it.
fn pass_on(control: Control, other: Option<&Arc<Shard>>, env: &Env) {
    let control = match (control, other) {
        // The topic has ended.
        (Control::Give(moving), _) => return moving.fail(Instant::now(), 0, HUNG),
        (Control::Forget(_) | Control::Sample(_), _) => return,
        (Control::Stored(stored), _) => return stored.void(env),
        (Control::Wake(woken), _) => return durable::dispatch(*woken, env),
        #[cfg(feature = "cluster")]
        (Control::Depart(departing), _) => return departing.fail(HUNG),
        #[cfg(feature = "cluster")]
        (Control::Arrive(arriving), _) => return arriving.dispatch(env),
        (control, Some(other)) => match other.control(control) {
            Ok(()) => return,
            Err(control) => control,
        },
        (control, None) => control,
    };
    match control {
        Control::Connect(call) => call.answer(Connected::Unavailable(reason::UNAVAILABLE)),
        Control::Take(carried) => handover::give_back(*carried, HUNG, env),
        Control::Give(_) | Control::Forget(_) | Control::Sample(_) | Control::Stored(_) | Control::Wake(_) => {}
        #[cfg(feature = "cluster")]
        Control::Depart(_) | Control::Arrive(_) => {}
    }
}

/// The events of a batch that are not done, by the number of their topic.
#[derive(Default)]
struct Rest {
    by_topic: HashMap<u64, Vec<Late>>,
    /// The member whose client was told of its end before the plugin was.
    announced: Option<MemberId>,
}

/// An input that the plugin will not handle and that somebody must be told of.
#[derive(Debug)]
enum Late {
    Join(MemberId),
    In {
        member: MemberId,
        join_ref: Ref,
        msg_ref: Ref,
    },
    End(Ending),
    Call(Caller),
    Complete(u64, ByteString, Payload),
}

impl Rest {
    /// The rest of a plan, which its plugin may still be reading.
    fn of(plan: &Plan) -> Self {
        let mut rest = Self::default();
        let mut add = |topic: usize, input: &Input| {
            let number = plan.topics[topic].number;
            rest.by_topic.entry(number).or_default().extend(Late::of(input));
        };
        let After { followups, ended, .. } = plan.progress.take_after();
        for (topic, input) in &followups {
            add(*topic, input);
        }
        let undone = &plan.steps[plan.progress.at()..];
        for step in undone {
            // The stuck thread may keep the plan for ever.
            if let Some(trace) = &step.trace {
                trace.fail("hung");
            }
            add(step.topic, &step.input);
        }
        if let Some(Input::End(ending)) = undone.first().map(|step| &step.input)
            && !ended
        {
            rest.announced = Some(ending.member);
        }
        rest
    }
}

impl Late {
    fn of(input: &Input) -> Option<Self> {
        match input {
            Input::Join { member, .. } => Some(Self::Join(*member)),
            Input::In {
                member,
                join_ref,
                msg_ref,
                ..
            } => Some(Self::In {
                member: *member,
                join_ref: join_ref.clone(),
                msg_ref: msg_ref.clone(),
            }),
            Input::Call { caller, .. } => Some(Self::Call(caller.promised())),
            Input::End(ending) => Some(Self::End(ending.clone())),
            Input::Complete {
                serial,
                status,
                payload,
            } => Some(Self::Complete(*serial, status.clone(), payload.clone())),
            _ => None,
        }
    }
}

/// Ends a topic whose state is not here any more, and that nobody handles: answers everything that waited for it.
#[cfg(feature = "cluster")]
pub(super) fn end_without_state(topic: &Arc<Topic>, waited: &VecDeque<Input>, told: &Told, env: &Env) {
    end(topic, &[], waited, None, told, env);
}

/// Ends a topic whose state is lost: answers everything that waits, and tells everybody in it. Returns how many channels ended.
fn end(
    topic: &Arc<Topic>,
    in_hand: &[Late],
    waited: &VecDeque<Input>,
    announced: Option<MemberId>,
    told: &Told,
    env: &Env,
) -> usize {
    let mut record = std::mem::take(&mut *topic.record());
    for timer in record.timers.keys() {
        env.hub.timers.cancel(*timer);
    }
    let waited: Vec<Late> = waited.iter().filter_map(Late::of).collect();
    for late in in_hand.iter().chain(&waited) {
        answer(topic, &mut record, late, announced, told, env);
    }
    for promise in { record.promises.drain() }.map(|(_, promise)| promise) {
        match promise {
            Promise::Reply { member, msg_ref, .. } => env.reply_error(member, msg_ref, told.ended),
            Promise::Call { caller, .. } => caller.answer(told.called.clone()),
            Promise::Join { .. } => {}
        }
    }
    let channels = record.members.len();
    for (member, entry) in record.members.into_entries() {
        match entry {
            Member::Joined(_) => env.farewell(&Ending::new(member, 0, Notice::Error(told.ended))),
            Member::Pending(pending) => {
                env.hub.timers.cancel(pending.deadline);
                env.refuse(member, Payload::reason(told.refused));
                for input in pending.waiting {
                    if let Input::In { join_ref, msg_ref, .. } = input {
                        env.orphan(topic, member, join_ref, msg_ref);
                    }
                }
            }
        }
    }
    channels
}

fn answer(topic: &Arc<Topic>, record: &mut Record, late: &Late, announced: Option<MemberId>, told: &Told, env: &Env) {
    match late {
        Late::Join(member) => env.refuse(*member, Payload::reason(told.refused)),
        Late::In { member, msg_ref, .. } if record.is_in(*member) => {
            env.reply_error(*member, msg_ref.clone(), told.ended)
        }
        Late::In {
            member,
            join_ref,
            msg_ref,
        } => env.orphan(topic, *member, join_ref.clone(), msg_ref.clone()),
        Late::Call(caller) => caller.answer(told.called.clone()),
        Late::End(ending) => match record.members.get(&ending.member) {
            Some(Member::Joined(_)) => {
                if announced != Some(ending.member) {
                    env.announce(ending);
                }
                record.forget(ending.member);
                env.farewell(ending);
            }
            Some(Member::Pending(_)) => env.end_pending(topic, record, ending),
            None => {
                if let Some(leave) = &ending.leave {
                    env.left(topic, ending.member, leave);
                }
            }
        },
        Late::Complete(serial, status, payload) => {
            if let Some(promise) = record.promises.remove(serial) {
                env.keep(promise, status.clone(), payload.clone());
            }
        }
    }
}
