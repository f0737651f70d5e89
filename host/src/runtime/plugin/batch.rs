//! One batch of events: what the plugin gets in one call, and what follows from each.
//!
//! The inputs of several topics become steps. A step is an event for the plugin, or something that the host does itself. Steps
//! run in order: after each event the plugin calls `done`, the host commits the event's effects, and then runs its own steps up
//! to the next event. If something makes a later step of the same topic invalid (a member stops, a join is refused), the batch ends
//! there, and the rest goes back to the mailboxes to be planned again.

mod progress;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bennu_plugin::abi::{self, event};
use bennu_wire::message::{Payload, reason};
use bytes::Bytes;

pub(super) use self::progress::{After, Progress};
use super::commit::Commit;
use super::env::Env;
use super::loader::{Event, ShardInstance};
use super::shard::{Shard, Work};
use crate::runtime::channel::{Called, Create, Ending, Flush, Input, Member, Notice, Promise, Record, Timer, Topic};
use crate::runtime::id::MemberId;
use crate::runtime::trace::Traced;

/// The kind of a step that the host does itself.
pub(super) const HOST: u32 = 0;

/// Steps of some topics, in order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) topics: Vec<Arc<Topic>>,
    pub(super) steps: Vec<Step>,
    pub(super) progress: Progress,
}

/// A topic at the end of a batch.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) topic: Arc<Topic>,
    /// What has to be handled next.
    pub(super) inputs: VecDeque<Input>,
    /// The plugin has closed it.
    pub(super) closed: bool,
    /// It leaves memory next.
    pub(super) leaves: bool,
    /// The plugin has handled events that may have changed its state.
    pub(super) touched: bool,
    /// Its state is to be stored.
    pub(super) checkpoint: bool,
}

impl Rest {
    /// The topic goes on, or is gone.
    pub(super) fn finish(mut self, env: &Env) {
        if self.leaves {
            self.inputs.push_front(Input::Close);
        }
        flush_presence(&self.topic, env);
        self.topic.finish(self.inputs.into_iter());
        if self.closed {
            env.slot.remove(&self.topic);
        }
    }
}

/// One input, and what it is for the plugin.
#[derive(Debug)]
pub(super) struct Step {
    /// Index into [`Plan::topics`].
    pub(super) topic: usize,
    pub(super) input: Input,
    /// One of `abi::event`, or [`HOST`].
    pub(super) kind: u32,
    /// For a join and its answer, and for new claims.
    pub(super) info: Bytes,
    /// The member that it is about, if any.
    pub(super) member: Option<MemberId>,
    /// Its span, if it is traced. For the answer to a join, that of the join.
    pub(super) trace: Traced,
    /// The timer that has sent it. If the step is not reached, it goes back to the record, so that it is among what is stored.
    timer: Option<Timer>,
}

/// What the steps before have done to a topic by then.
#[derive(Default)]
struct Ahead {
    joining: Vec<MemberId>,
    ended: Vec<MemberId>,
    /// A call makes the topic.
    created: bool,
    /// The timer of the input at hand.
    timer: Option<Timer>,
}

impl Ahead {
    /// Whether the plugin has state of the topic by then.
    fn is_live(&self, record: &Record) -> bool {
        record.live || self.created || !self.joining.is_empty()
    }
}

impl Plan {
    /// Adds what a topic has taken from its mailbox.
    pub(super) fn add(&mut self, topic: Arc<Topic>, inputs: VecDeque<Input>, env: &Env) {
        let mut record = topic.record();
        let mut ahead = Ahead::default();
        let index = self.topics.len();
        let mut inputs = inputs;
        while let Some(mut input) = inputs.pop_front() {
            if let Input::EndAll { reason, notice } = input {
                expand(&record, &ahead, reason, notice, &mut inputs);
                continue;
            }
            if matches!(input, Input::Linger { epoch } if epoch == record.epoch) && record.owes_answer() {
                env.linger(&topic, &mut record);
                continue;
            }
            let planned = plan(&mut record, &mut ahead, &mut input, env);
            let timer = ahead.timer.take();
            let Some((kind, info, member)) = planned else {
                continue;
            };
            let trace = match (kind, member.and_then(|member| record.members.get(&member))) {
                (event::ANSWER, Some(Member::Pending(pending))) => pending.trace.clone(),
                _ => input.trace().clone(),
            };
            let step = Step {
                topic: index,
                input,
                kind,
                info,
                member,
                trace,
                timer,
            };
            match step {
                // Events for a pending member wait in the record until its join is answered.
                Step {
                    kind: u32::MAX,
                    input,
                    member: Some(member),
                    ..
                } => stash(&mut record, member, input, env),
                step => {
                    if matches!(step.input, Input::Linger { .. }) {
                        // One is enough. Another would come back behind the close, and close again, for ever.
                        inputs.retain(|input| !matches!(input, Input::Linger { .. }));
                    }
                    self.steps.push(step);
                }
            }
        }
        drop(record);
        self.topics.push(topic);
    }

    /// Hands the events to the plugin, commits their effects, and gives back the steps that were not reached. If the shard is
    /// abandoned meanwhile, the thread that did so goes on with the plan.
    pub(super) fn run(self, queue: &Arc<Shard>, instance: &mut ShardInstance, env: &Env) {
        if let Some(durable) = env.slot.durable() {
            return durable.run(self, queue, instance, env);
        }
        if let Some(plan) = self.handle(queue, instance, env) {
            plan.rests().into_iter().for_each(|rest| rest.finish(env));
        }
    }

    /// Hands the events to the plugin, and commits their effects. `None` if the shard was abandoned meanwhile.
    pub(super) fn handle(self, queue: &Shard, instance: &mut ShardInstance, env: &Env) -> Option<Self> {
        let plan = Arc::new(self);
        let events: Vec<Event<'_>> = plan
            .steps
            .iter()
            .filter(|step| step.kind != HOST)
            .map(|step| plan.event(step))
            .collect();
        let mut commit = Commit::new(&plan, env);
        commit.begin();
        if !events.is_empty() && !commit.is_back() {
            queue.begin(Work::Events(Arc::clone(&plan)));
            let begun = Instant::now();
            let handled = instance.handle(&events, &mut commit).ok()?;
            let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            env.slot.stats.handler_nanos.inc_by(nanos);
            queue.end();
            if handled < events.len() && !commit.is_back() {
                // Otherwise it would get the same event for ever.
                commit.fail_first("the plugin returned without having handled the event");
            }
        }
        drop(events);
        Arc::into_inner(plan)
    }

    /// What is left of each topic.
    pub(super) fn rests(mut self) -> Vec<Rest> {
        let After {
            followups,
            closed,
            leaving,
            ..
        } = self.progress.take_after();
        let rest = |topic| Rest {
            topic,
            inputs: VecDeque::new(),
            closed: false,
            leaves: false,
            touched: false,
            checkpoint: false,
        };
        let mut rests: Vec<Rest> = self.topics.into_iter().map(rest).collect();
        closed.into_iter().for_each(|topic| rests[topic].closed = true);
        leaving.into_iter().for_each(|topic| rests[topic].leaves = true);
        for (topic, input) in followups {
            rests[topic].inputs.push_back(input);
        }
        for step in self.steps.drain(self.progress.at()..) {
            let rest = &mut rests[step.topic];
            if let (
                Input::Info {
                    timer: Some(number), ..
                },
                Some(timer),
                false,
            ) = (&step.input, step.timer, rest.closed)
            {
                rest.topic.record().timers.insert(*number, timer);
            }
            rest.inputs.push_back(step.input);
        }
        for step in self.steps {
            rests[step.topic].touched |= step.kind != HOST;
            rests[step.topic].checkpoint |= matches!(step.input, Input::Checkpoint);
        }
        rests
    }

    /// The step that the plugin is at, and its topic.
    pub(super) fn at_hand(&self) -> Option<(&Step, &Topic)> {
        let step = self.steps.get(self.progress.at())?;
        Some((step, &self.topics[step.topic]))
    }

    fn event<'a>(&'a self, step: &'a Step) -> Event<'a> {
        let topic = &self.topics[step.topic];
        let mut event = Event {
            kind: step.kind,
            binary: false,
            topic: topic.number,
            member: step.member.map_or(0, MemberId::number),
            token: 0,
            number: 0,
            name: "",
            payload: b"",
            info: &step.info,
        };
        match &step.input {
            Input::Join { params: payload, .. } => (event.name, event.payload) = (&topic.name, payload.bytes()),
            Input::In {
                event: name, payload, ..
            }
            | Input::Out {
                event: name, payload, ..
            }
            | Input::Info { name, payload, .. } => {
                (event.name, event.payload) = (name, payload.bytes());
            }
            Input::Call {
                event: name, payload, ..
            } => (event.name, event.payload, event.info) = (name, payload.bytes(), topic.name.as_bytes()),
            Input::End(ending) => (event.name, event.number) = (&ending.text, u64::from(ending.reason)),
            Input::Complete {
                serial,
                status,
                payload,
            } => (event.token, event.name, event.payload) = (*serial, status, payload.bytes()),
            Input::Claims { .. }
            | Input::JoinDeadline { .. }
            | Input::Retired { .. }
            | Input::Linger { .. }
            | Input::PresenceDiff
            | Input::Restored
            | Input::Checkpoint
            | Input::Look
            | Input::Leave
            | Input::Close
            | Input::EndAll { .. } => {}
        }
        event.binary = step.payload().is_some_and(Payload::is_binary);
        event
    }
}

impl Step {
    /// The name of the callback that it calls.
    pub(super) fn callback(&self) -> &'static str {
        // Every step has a topic. Which one makes no difference to the name.
        abi::callback_name(self.kind, u64::MAX, self.member.map_or(0, MemberId::number))
    }

    /// The name of the event or message.
    pub(super) fn event_name(&self) -> &str {
        match &self.input {
            Input::In { event: name, .. }
            | Input::Call { event: name, .. }
            | Input::Out { event: name, .. }
            | Input::Info { name, .. } => name,
            _ => "",
        }
    }

    /// The payload that the plugin borrows for the event.
    pub(super) fn payload(&self) -> Option<&Payload> {
        match &self.input {
            Input::Join { params: payload, .. }
            | Input::In { payload, .. }
            | Input::Call { payload, .. }
            | Input::Out { payload, .. }
            | Input::Info { payload, .. }
            | Input::Complete { payload, .. } => Some(payload),
            _ => None,
        }
    }
}

/// What an input means at this point; `None` if it means nothing any more. The kind `u32::MAX` says that it has to wait.
fn plan(
    record: &mut Record,
    ahead: &mut Ahead,
    input: &mut Input,
    env: &Env,
) -> Option<(u32, Bytes, Option<MemberId>)> {
    let none = Bytes::new();
    match input {
        Input::Join { member, info, .. } => {
            ahead.joining.push(*member);
            Some((event::JOIN, info.clone(), Some(*member)))
        }
        Input::In { member, .. } => {
            let kind = match standing(record, ahead, *member) {
                Standing::In => event::IN,
                Standing::Pending => u32::MAX,
                Standing::Out => HOST,
            };
            Some((kind, none, Some(*member)))
        }
        Input::Claims { member, info } => match standing(record, ahead, *member) {
            Standing::In => Some((event::CLAIMS, info.clone(), Some(*member))),
            // The plugin does not know it yet.
            Standing::Pending => Some((HOST, none, Some(*member))),
            Standing::Out => None,
        },
        Input::Call { create, caller, .. } => {
            if *create == Create::No && !ahead.is_live(record) {
                caller.answer(Called::NotAlive);
                return None;
            }
            // What comes behind it finds the topic.
            ahead.created = true;
            Some((event::CALL, none, None))
        }
        Input::End(Ending { member, .. }) => {
            let kind = if matches!(standing(record, ahead, *member), Standing::In) {
                event::TERMINATE
            } else {
                HOST
            };
            ahead.ended.push(*member);
            Some((kind, none, Some(*member)))
        }
        Input::Out { except, .. } => {
            (!record.members.is_empty() || !ahead.joining.is_empty()).then_some((event::OUT, none, *except))
        }
        Input::Info { member, timer, .. } => {
            if let Some(number) = timer {
                // `None`: it was cancelled.
                ahead.timer = Some(record.timers.remove(number)?);
            }
            match member {
                None if !ahead.is_live(record) => {
                    env.hub.metrics.undelivered.inc();
                    None
                }
                None => Some((event::INFO, none, None)),
                Some(member) => matches!(standing(record, ahead, *member), Standing::In).then_some((
                    event::INFO,
                    none,
                    Some(*member),
                )),
            }
        }
        Input::Complete { serial, .. } => match record.promises.get(serial) {
            Some(Promise::Reply { member, .. }) => Some((HOST, none, Some(*member))),
            Some(Promise::Call { .. }) => Some((HOST, none, None)),
            Some(Promise::Join { member, .. }) => match record.members.get(member) {
                Some(Member::Pending(pending)) => Some((event::ANSWER, pending.info.clone(), Some(*member))),
                _ => None,
            },
            None => {
                env.hub.metrics.late_answers.inc();
                None
            }
        },
        Input::JoinDeadline { .. } | Input::Retired { .. } => Some((HOST, none, None)),
        Input::Linger { epoch } => {
            let empty = record.members.is_empty() && ahead.joining.is_empty();
            // A topic that this batch makes has a time of its own.
            let idle = empty && !ahead.created && *epoch == record.epoch;
            idle.then(|| (leave(record, env), none, None))
        }
        Input::Leave => Some((leave(record, env), none, None)),
        // If the topic leaves before them, they are for its next life.
        Input::Checkpoint | Input::Look => Some((HOST, none, None)),
        Input::Restored => record.live.then_some((event::RESTORED, none, None)),
        Input::Close => Some((event::CLOSE, none, None)),
        // Every batch sends the diffs that are due when it ends.
        Input::EndAll { .. } | Input::PresenceDiff => None,
    }
}

/// The step with which a topic leaves memory.
fn leave(record: &Record, env: &Env) -> u32 {
    match record.live {
        true if env.code.closes => event::CLOSING,
        // Of an earlier kit: its state is stored all the same.
        true if env.slot.durable().is_some() => HOST,
        _ => event::CLOSE,
    }
}

enum Standing {
    In,
    Pending,
    Out,
}

fn standing(record: &Record, ahead: &Ahead, member: MemberId) -> Standing {
    if ahead.ended.contains(&member) {
        return Standing::Out;
    }
    match record.members.get(&member) {
        Some(Member::Joined(_)) => Standing::In,
        Some(Member::Pending(_)) => Standing::Pending,
        None if ahead.joining.contains(&member) => Standing::In,
        None => Standing::Out,
    }
}

/// Turns the end of a topic into the ends of its members and its own, in front of the other inputs.
fn expand(record: &Record, ahead: &Ahead, reason: u32, notice: Notice, inputs: &mut VecDeque<Input>) {
    inputs.push_front(Input::Leave);
    let members = record
        .members
        .keys()
        .chain(&ahead.joining)
        .filter(|member| !ahead.ended.contains(member));
    for member in members {
        inputs.push_front(Input::End(Ending::new(*member, reason, notice)));
    }
}

/// Keeps an event until its member's join is answered. Beyond the bound, the client is told `overloaded`.
fn stash(record: &mut Record, member: MemberId, input: Input, env: &Env) {
    let Some(Member::Pending(pending)) = record.members.get_mut(&member) else {
        return;
    };
    if pending.waiting.len() < env.slot.config().max_pending_events {
        pending.keep(input);
    } else if let Input::In { msg_ref, trace, .. } = input {
        trace.inspect(|trace| trace.end(reason::OVERLOADED));
        env.reply_error(member, msg_ref, reason::OVERLOADED);
    }
}

/// Broadcasts what has changed in the topic's presence, or sets a timer if it is too early for that.
pub(super) fn flush_presence(topic: &Arc<Topic>, env: &Env) {
    let interval = env.slot.config().presence_interval;
    let flush = match &mut topic.record().presence {
        Some(presence) => presence.flush(Instant::now(), interval),
        None => Flush::Nothing,
    };
    let (hub, event) = (&env.hub, bennu_wire::message::event::PRESENCE_DIFF.into());
    match flush {
        Flush::Nothing => {}
        Flush::Diff(diff) => hub.broadcast(topic.name.clone(), event, Payload::Json(diff), None),
        Flush::After(wait) => {
            let number = hub.timers.number();
            hub.timers.set(number, wait, Arc::downgrade(topic), Input::PresenceDiff);
        }
    }
}
