//! One client in one topic: the events that it has pushed, and the check of all that arrives.
//!
//! Nothing here sends or receives. The client reports what it has sent and passes in what it receives.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bennu_wire::message::event;
use serde::Deserialize;
use serde_json::Value;

use super::sequence::{Place, Sequence};
use super::tally::Tally;
use super::topic::{KEEP, Topic, TopicState, chained, entry};

/// One client in one topic.
#[derive(Debug)]
pub(super) struct Member {
    /// The topic.
    pub(super) topic: Arc<Topic>,
    client: u32,
    tally: Arc<Tally>,
    phase: Phase,
    /// The number of the last event that it pushed.
    last: u32,
    /// Events in flight, by `ref`.
    in_flight: HashMap<u64, Put>,
    /// Audits in flight, by `ref`, each with the number of the event before it.
    audits: HashMap<u64, u32>,
    /// Replies up to this `ref` may be missing or late, because their channel has ended.
    excused_up_to: u64,
    /// The highest number with an immediate reply.
    answered: u32,
    notes: Sequence,
    /// [`Tally::windows`] at the time of the join.
    joined: u64,
}

#[derive(Debug)]
enum Phase {
    /// Not joined, or no longer.
    Outside,
    /// The join with this `ref` has no reply yet.
    Joining(u64),
    Joined(Expected),
}

/// An event in flight.
#[derive(Clone, Copy, Debug)]
struct Put {
    number: u32,
    /// Whether the plugin replies later. Such replies have no order.
    later: bool,
    /// [`Tally::windows`] at the time of the push.
    windows: u64,
}

/// What the state of the topic must be, given all that has arrived.
#[derive(Debug)]
struct Expected {
    entries: Sequence,
    ticks: Sequence,
    digest: u64,
    list: VecDeque<u64>,
    /// `false` if an entry was missing or arrived twice. Then the digest is unknown until the next audit.
    is_certain: bool,
}

/// The reply to a `put`.
#[derive(Deserialize)]
struct PutReply {
    /// The number of the event.
    n: u32,
    /// The number of the entry.
    s: u64,
    /// The number that the plugin expected.
    expected: u32,
}

/// The reply to an `audit`.
#[derive(Deserialize)]
struct Audit {
    state: TopicState,
    member: MemberState,
}

/// What the plugin keeps for each member of a topic.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct MemberState {
    last: u32,
    notes: u64,
}

/// The broadcast of an entry.
#[derive(Deserialize)]
struct Entry {
    /// The number of the entry.
    s: u64,
    /// The client.
    c: u32,
    /// The number of the client's event.
    n: u32,
}

impl Member {
    pub(super) fn new(topic: Arc<Topic>, client: u32, tally: Arc<Tally>) -> Self {
        Self {
            topic,
            client,
            tally,
            phase: Phase::Outside,
            last: 0,
            in_flight: HashMap::new(),
            audits: HashMap::new(),
            excused_up_to: 0,
            answered: 0,
            notes: Sequence::after(0),
            joined: 0,
        }
    }

    /// Whether the client must join the topic, again or for the first time.
    pub(super) fn is_outside(&self) -> bool {
        matches!(self.phase, Phase::Outside)
    }

    /// Whether the client may push to the topic.
    pub(super) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined(_))
    }

    /// How many events and audits have no reply so far.
    pub(super) fn unanswered(&self) -> usize {
        self.in_flight.len() + self.audits.len()
    }

    /// The number of the last event. A join tells it to the plugin.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The client has sent a join.
    pub(super) fn joining(&mut self, msg_ref: u64) {
        self.phase = Phase::Joining(msg_ref);
    }

    /// The number for the next event.
    pub(super) fn next_number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The client has pushed an event.
    pub(super) fn pushed(&mut self, msg_ref: u64, number: u32, later: bool) {
        let put = Put {
            number,
            later,
            windows: self.tally.windows(),
        };
        self.in_flight.insert(msg_ref, put);
        self.tally.sent.increment();
        self.tally.in_flight.increment();
    }

    /// The client has asked for an audit.
    pub(super) fn audit(&mut self, msg_ref: u64) {
        self.audits.insert(msg_ref, self.last);
    }

    /// A reply has arrived.
    pub(super) fn reply(&mut self, msg_ref: u64, status: &str, response: Value) {
        if matches!(self.phase, Phase::Joining(joining) if joining == msg_ref) {
            self.joined(status, response);
        } else if let Some(last) = self.audits.remove(&msg_ref) {
            self.audited(last, status, response);
        } else if let Some(put) = self.in_flight.remove(&msg_ref) {
            self.tally.in_flight.add(-1);
            self.answered(put, status, response);
        } else if msg_ref > self.excused_up_to {
            self.tally.received.increment();
            self.tally.doubled.increment();
            self.find(|| format!("second reply to ref {msg_ref}: {response}"));
        }
    }

    /// An event has arrived.
    pub(super) fn event(&mut self, event: &str, payload: Value) {
        let text = payload.to_string();
        match event {
            event::ERROR | event::CLOSE => return self.ended(event),
            _ if !self.is_joined() => return,
            "put" => serde_json::from_value(payload).map(|entry| self.entered(&entry)).ok(),
            "note" => payload["k"].as_u64().map(|number| self.noted(number)),
            "tick" => payload["t"].as_u64().map(|number| self.ticked(number)),
            _ => None,
        }
        .unwrap_or_else(|| self.differ(|| format!("unexpected {event}: {text}")));
    }

    /// The connection has ended: what is in flight is lost.
    pub(super) fn give_up(&mut self) {
        let in_flight = i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX);
        if in_flight > 0 {
            let mut numbers: Vec<u32> = self.in_flight.values().map(|put| put.number).collect();
            numbers.sort_unstable();
            self.find(|| format!("no reply to events {numbers:?}"));
        }
        if !self.audits.is_empty() {
            self.differ(|| "no reply to an audit".to_owned());
        }
        self.tally.lost.add(in_flight);
        self.tally.in_flight.add(-in_flight);
        self.in_flight.clear();
        self.audits.clear();
    }

    fn joined(&mut self, status: &str, response: Value) {
        let state = serde_json::from_value(response.clone());
        let (Ok(state), "ok") = (state, status) else {
            self.phase = Phase::Outside;
            return self.differ(|| format!("reply to the join: {status} {response}"));
        };
        self.tally.joined.increment();
        self.joined = self.tally.windows();
        self.notes = Sequence::after(0);
        self.answered = 0;
        self.phase = Phase::Joined(Expected::new(state));
    }

    fn ended(&mut self, event: &str) {
        if self.is_outside() {
            return;
        }
        if self.is_joined() {
            self.tally.joined.add(-1);
        }
        if !self.may_end() {
            self.tally.ended.increment();
            self.find(|| "the channel ended".to_owned());
        }
        let in_flight = i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX);
        self.tally.excused.add(in_flight);
        self.tally.in_flight.add(-in_flight);
        let newest = self.in_flight.keys().chain(self.audits.keys()).max();
        self.excused_up_to = self.excused_up_to.max(newest.copied().unwrap_or_default());
        self.in_flight.clear();
        self.audits.clear();
        self.phase = Phase::Outside;
        if event == event::CLOSE {
            self.differ(|| "the server closed the channel".to_owned());
        }
    }

    /// Whether a panic may have ended the channel, or the rollback from code that panics. Such an end may arrive late.
    fn may_end(&self) -> bool {
        let now = self.tally.windows();
        let (is_open, closed) = (now % 2 == 1, now / 2 * 2);
        let is_from_before = |windows: u64| windows < closed;
        // A rollback restores a state from before the window, which lacks members that have joined since.
        let joined_within = self.joined % 2 == 1 && now - self.joined <= 1;
        is_open || joined_within || self.in_flight.values().any(|put| is_from_before(put.windows))
    }

    fn answered(&mut self, put: Put, status: &str, response: Value) {
        let Put { number, later, .. } = put;
        let (Ok(PutReply { n, s, expected }), "ok") = (PutReply::deserialize(&response), status) else {
            self.tally.lost.increment();
            return self.find(|| format!("reply to event {number}: {status} {response}"));
        };
        let missed = i64::from(number) - i64::from(expected);
        let place = match missed {
            _ if n != number => Place::Again,
            1.. => Place::Ahead(missed.unsigned_abs()),
            0 if later || number > self.answered => Place::Next,
            0 => Place::Late,
            _ => Place::Again,
        };
        if place == Place::Late {
            // `place` takes it off the lost ones, but it has never been among them.
            self.tally.lost.increment();
        }
        let whose = self.whose();
        self.tally
            .place(place, || format!("{whose}: reply {response} to event {number}"));
        if !later {
            self.answered = self.answered.max(number);
        }
        self.compare(s, entry(self.client, n));
    }

    fn entered(&mut self, Entry { s, c, n }: &Entry) {
        let entry = entry(*c, *n);
        let whose = self.whose();
        let Phase::Joined(state) = &mut self.phase else {
            return;
        };
        let place = state.entries.take(*s);
        if place == Place::Next {
            state.digest = chained(state.digest, entry);
            state.list.push_back(entry);
            if state.list.len() > KEEP {
                state.list.pop_front();
            }
        } else {
            state.is_certain = false;
        }
        self.tally
            .place(place, || format!("{whose}: entry {s}, number {n} of client {c}"));
        self.compare(*s, entry);
    }

    /// All clients of a topic must see the same entry under the same number.
    fn compare(&self, number: u64, entry: u64) {
        if !self.topic.note(number, entry) {
            self.differ(|| format!("entry {number} differs between clients"));
        }
    }

    fn noted(&mut self, number: u64) {
        let place = self.notes.take(number);
        let whose = self.whose();
        self.tally.place(place, || format!("{whose}: note {number}"));
    }

    fn ticked(&mut self, number: u64) {
        let whose = self.whose();
        let Phase::Joined(state) = &mut self.phase else {
            return;
        };
        let place = state.ticks.take(number);
        self.tally.place(place, || format!("{whose}: tick {number}"));
    }

    fn audited(&mut self, last: u32, status: &str, response: Value) {
        let audit = Audit::deserialize(&response);
        let (Ok(Audit { state, member }), "ok") = (audit, status) else {
            return self.differ(|| format!("reply to an audit: {status} {response}"));
        };
        self.tally.audits.increment();
        let Phase::Joined(expected) = &mut self.phase else {
            return;
        };
        let (seen, is_certain) = (expected.state(), expected.is_certain);
        *expected = Expected::new(state.clone());
        // The server keeps the order: what it sent before the reply must have arrived before it.
        let missed = state.count.saturating_sub(seen.count) + member.notes.saturating_sub(self.notes.last());
        if missed > 0 {
            self.tally.lost.add(i64::try_from(missed).unwrap_or(i64::MAX));
            self.find(|| format!("{missed} entries or notes had not arrived before an audit"));
        }
        if is_certain && seen != state {
            self.differ(|| format!("the state is {state:?}, but the client expected {seen:?}"));
        }
        let seen = MemberState {
            last,
            notes: self.notes.last(),
        };
        if seen != member {
            self.notes = Sequence::after(member.notes);
            self.differ(|| format!("the state of the member is {member:?}, but the client expected {seen:?}"));
        }
    }

    fn differ(&self, what: impl FnOnce() -> String) {
        self.tally.differences.increment();
        self.find(what);
    }

    fn find(&self, what: impl FnOnce() -> String) {
        self.tally.find(|| format!("{}: {}", self.whose(), what()));
    }

    fn whose(&self) -> String {
        format!("client {}, {}", self.client, self.topic.name)
    }
}

impl Expected {
    fn new(state: TopicState) -> Self {
        Self {
            entries: Sequence::after(state.count),
            ticks: Sequence::after(state.ticks.saturating_sub(1)),
            digest: state.digest,
            list: state.list.into(),
            is_certain: true,
        }
    }

    /// The state that the plugin should send.
    fn state(&self) -> TopicState {
        TopicState {
            count: self.entries.last(),
            digest: self.digest,
            list: self.list.iter().copied().collect(),
            ticks: self.ticks.last() + 1,
        }
    }
}
