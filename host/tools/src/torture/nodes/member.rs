//! One client in its topic: the events that it has pushed, and the check of all that arrives.
//!
//! Nothing here sends or receives. The client reports what it has sent and passes in what it receives. What a client hears must be
//! without a gap from its join to the end of its channel, whatever happens to the nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_wire::message::{event, reason};
use serde::Deserialize;
use serde_json::Value;

use super::life::{Found, Mark, Topic};
use super::world::{Away, RunId, World};
use crate::torture::sequence::{Place, Sequence};
use crate::torture::topic::{chained, entry};

/// How long a join may be without an answer.
const JOINING: Duration = Duration::from_secs(60);
/// Why an event may be refused. None of these was handled.
const NOT_HANDLED: [&str; 5] = [
    reason::TOPIC_MOVED,
    reason::UNMATCHED_TOPIC,
    reason::NODE_LOST,
    reason::NODE_UNAVAILABLE,
    reason::OVERLOADED,
];
/// Why a join may be refused.
const NOT_JOINED: [&str; 2] = [reason::NODE_UNAVAILABLE, reason::OVERLOADED];

/// One client in its topic.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) topic: Arc<Topic>,
    client: u32,
    world: Arc<World>,
    phase: Phase,
    /// The number of the last event that it pushed.
    last: u32,
    /// The `ref` of the last join.
    join_ref: u64,
    /// Events in flight, by `ref`.
    in_flight: BTreeMap<u64, Put>,
    /// Events whose channel ended first, by `ref`. An error may still be the answer.
    left: HashMap<u64, u32>,
    /// The audit in flight: its `ref`, its number, and what was known when it was asked for.
    audit: Option<(u64, usize, Mark)>,
    /// The number of the last audit.
    audited: usize,
    /// Why it is not back: its channel had ended. `None` at first, and as long as all is well.
    away: Option<Away>,
    /// It is in its topic, and was answered there.
    is_back: bool,
}

#[derive(Debug)]
enum Phase {
    /// Not joined, or no longer.
    Outside,
    /// A join has no reply yet: its `ref`, and what was known when it was sent.
    Joining(u64, Mark, Instant),
    Joined(Box<Joined>),
}

/// An event in flight.
#[derive(Clone, Copy, Debug)]
struct Put {
    number: u32,
    at: Instant,
}

/// What the client expects between a join and the end of that channel.
#[derive(Debug)]
struct Joined {
    /// The life of the topic that it has met.
    born: u64,
    entries: Sequence,
    ticks: Sequence,
    notes: Sequence,
    digest: u64,
    /// The number of the last event that was handled.
    handled: u32,
    /// `false` if an entry was missing or arrived twice: then the digest is unknown until the next audit.
    is_certain: bool,
}

/// The reply to a `put`.
#[derive(Deserialize)]
struct PutReply {
    n: u32,
    s: u64,
    expected: u32,
}

/// The reply to an `audit`.
#[derive(Deserialize)]
struct Audit {
    state: Found,
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
    s: u64,
    c: u32,
    n: u32,
}

impl Member {
    pub(super) fn new(topic: Arc<Topic>, client: u32, world: Arc<World>) -> Self {
        Self {
            topic,
            client,
            world,
            phase: Phase::Outside,
            last: 0,
            join_ref: 0,
            in_flight: BTreeMap::new(),
            left: HashMap::new(),
            audit: None,
            audited: 0,
            away: None,
            is_back: false,
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

    /// How many events have no answer so far.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the client has yet to ask for this audit.
    pub(super) fn lacks_audit(&self, number: usize) -> bool {
        self.audited < number && self.is_joined() && self.audit.is_none()
    }

    /// Whether the client has had this audit.
    pub(super) fn has_audit(&self, number: usize) -> bool {
        self.audited >= number
    }

    /// The number of the last event. A join tells it to the plugin.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The client is about to send a join or an audit: what is known now must be known there.
    pub(super) fn mark(&self) -> Mark {
        self.topic.mark()
    }

    /// The client has sent a join.
    pub(super) fn joining(&mut self, msg_ref: u64, mark: Mark) {
        self.join_ref = msg_ref;
        self.phase = Phase::Joining(msg_ref, mark, Instant::now());
    }

    /// A join that is not answered is a fault, and the client tries again.
    pub(super) fn mind_join(&mut self) {
        if let Phase::Joining(_, _, since) = self.phase
            && since.elapsed() > JOINING
        {
            self.phase = Phase::Outside;
            self.world.tally.lost.increment();
            self.find(|| format!("no reply to a join within {JOINING:?}"));
        }
    }

    /// The number for the next event.
    pub(super) fn next_number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The client has pushed an event: at that time or later.
    pub(super) fn pushed(&mut self, msg_ref: u64, number: u32, at: Instant) {
        self.in_flight.insert(msg_ref, Put { number, at });
        self.world.tally.sent.increment();
    }

    /// The client has asked for an audit.
    pub(super) fn audit(&mut self, msg_ref: u64, number: usize, mark: Mark) {
        self.audit = Some((msg_ref, number, mark));
    }

    /// A reply has arrived.
    pub(super) fn reply(&mut self, msg_ref: u64, status: &str, response: &Value) {
        if let Phase::Joining(joining, mark, _) = self.phase
            && joining == msg_ref
        {
            self.joined(mark, status, response);
        } else if let Some((_, number, mark)) = self.audit.take_if(|(audit, ..)| *audit == msg_ref) {
            self.audited(msg_ref, (number, mark), status, response);
        } else if let Some(put) = self.in_flight.remove(&msg_ref) {
            self.answered(msg_ref, put, status, response);
        } else if let Some(number) = self.left.remove(&msg_ref) {
            self.world.counts.unanswered.add(-1);
            self.refused(number, status, response);
        } else if status == "ok" {
            self.world.tally.doubled.increment();
            self.find(|| format!("second reply to ref {msg_ref}: {response}"));
        }
    }

    /// An event has arrived.
    pub(super) fn event(&mut self, run: RunId, name: &str, join_ref: Option<u64>, payload: &Value) {
        if join_ref.is_some_and(|join_ref| join_ref != self.join_ref) {
            return self.differ(|| format!("{name} for a channel that has ended: {payload}"));
        }
        if name == event::ERROR {
            return self.ended(run, payload["reason"].as_str().unwrap_or("without a reason"));
        }
        if !self.is_joined() {
            return self.differ(|| format!("{name} outside of a channel: {payload}"));
        }
        let known = match name {
            "put" => Entry::deserialize(payload).map(|entry| self.entered(&entry)).ok(),
            "note" => payload["k"].as_u64().map(|number| self.noted(number)),
            "tick" => payload["t"].as_u64().map(|number| self.ticked(number)),
            _ => None,
        };
        known.unwrap_or_else(|| self.differ(|| format!("unexpected {name}: {payload}")));
    }

    /// The channel has ended, alone or with its connection.
    pub(super) fn ended(&mut self, run: RunId, reason: &str) {
        if self.is_outside() {
            return;
        }
        self.phase = Phase::Outside;
        self.audit = None;
        let in_flight = std::mem::take(&mut self.in_flight);
        self.world.counts.unanswered.add(count(in_flight.len()));
        let left = in_flight.into_iter().map(|(msg_ref, put)| (msg_ref, put.number));
        self.left.extend(left);
        if std::mem::take(&mut self.is_back) {
            self.world.counts.back.add(-1);
            self.away = Some(self.world.ended(run, reason));
        }
    }

    /// The connection has ended: the next one has `ref`s of its own.
    pub(super) fn disconnected(&mut self, run: RunId, why: &str) {
        self.ended(run, why);
        self.left.clear();
    }

    fn joined(&mut self, mark: Mark, status: &str, response: &Value) {
        self.phase = Phase::Outside;
        if status != "ok" {
            self.world.counts.joins_refused.increment();
            let why = response["reason"].as_str().unwrap_or_default();
            if !NOT_JOINED.contains(&why) {
                self.differ(|| format!("a join is refused: {response}"));
            }
            return;
        }
        let Ok(found) = Found::deserialize(response) else {
            return self.differ(|| format!("reply to a join: {response}"));
        };
        self.judge(self.topic.found(&found, mark));
        let Found { born, state } = found;
        self.phase = Phase::Joined(Box::new(Joined {
            born,
            entries: Sequence::after(state.count),
            ticks: Sequence::after(state.ticks.saturating_sub(1)),
            notes: Sequence::after(0),
            digest: state.digest,
            handled: self.last,
            is_certain: true,
        }));
    }

    fn answered(&mut self, msg_ref: u64, put: Put, status: &str, response: &Value) {
        if status != "ok" {
            return self.refused(put.number, status, response);
        }
        let reply = PutReply::deserialize(response);
        let (Ok(PutReply { n, s, expected }), Phase::Joined(joined)) = (reply, &mut self.phase) else {
            return self.differ(|| format!("reply to event {}: {response}", put.number));
        };
        let before = joined.handled;
        joined.handled = n;
        let (born, heard) = (joined.born, joined.entries.last());
        let waiting = self.in_flight.range(..msg_ref).count();
        let place = match i64::from(expected) - i64::from(before) - 1 {
            _ if n != put.number => Place::Again,
            // Its broadcast, and the answers to earlier events, come first.
            0 if waiting > 0 || heard < s => Place::Late,
            0 => Place::Next,
            missed @ 1.. => Place::Ahead(missed.unsigned_abs()),
            _ => Place::Again,
        };
        if place == Place::Late {
            // `place` takes it off the lost ones, but it has never been among them.
            self.world.tally.lost.increment();
        }
        self.place(place, || {
            let before = format!("after entry {heard}, with {waiting} earlier events unanswered");
            format!("reply {response} to event {}, {before},", put.number)
        });
        self.world.counts.answered.increment();
        self.judge(self.topic.told(born, s, entry(self.client, n), Some(put.at)));
        if !std::mem::replace(&mut self.is_back, true) {
            self.world.counts.back.increment();
            if let Some(away) = self.away.take() {
                self.world.returned(away, || self.whose());
            }
        }
    }

    /// An event has an error as its answer, or an answer after the end of its channel.
    fn refused(&mut self, number: u32, status: &str, response: &Value) {
        if status == "ok" {
            self.world.tally.reordered.increment();
            return self.find(|| format!("event {number} is answered after the end of its channel: {response}"));
        }
        self.world.counts.refused.increment();
        let why = response["reason"].as_str().unwrap_or_default();
        if !NOT_HANDLED.contains(&why) {
            return self.differ(|| format!("reply to event {number}: {status} {response}"));
        }
        self.judge(self.topic.refused(entry(self.client, number)));
    }

    fn entered(&mut self, Entry { s, c, n }: &Entry) {
        let entry = entry(*c, *n);
        let Phase::Joined(joined) = &mut self.phase else {
            return;
        };
        let place = joined.entries.take(*s);
        if place == Place::Next {
            joined.digest = chained(joined.digest, entry);
        } else {
            joined.is_certain = false;
        }
        let born = joined.born;
        self.place(place, || format!("entry {s}, number {n} of client {c}"));
        self.judge(self.topic.told(born, *s, entry, None));
    }

    fn noted(&mut self, number: u64) {
        if let Phase::Joined(joined) = &mut self.phase {
            let place = joined.notes.take(number);
            self.place(place, || format!("note {number}"));
        }
    }

    fn ticked(&mut self, number: u64) {
        if let Phase::Joined(joined) = &mut self.phase {
            let (place, born) = (joined.ticks.take(number), joined.born);
            self.topic.ticked(born, number);
            self.place(place, || format!("tick {number}"));
        }
    }

    fn audited(&mut self, msg_ref: u64, (number, mark): (usize, Mark), status: &str, response: &Value) {
        if status != "ok" {
            // Its channel is about to end.
            return;
        }
        let Ok(Audit { state: found, member }) = Audit::deserialize(response) else {
            return self.differ(|| format!("reply to an audit: {response}"));
        };
        self.world.tally.audits.increment();
        self.audited = number;
        self.judge(self.topic.found(&found, mark));
        let Phase::Joined(joined) = &mut self.phase else {
            return self.differ(|| "an audit is answered after the end of its channel".to_owned());
        };
        // The server keeps the order: what it sent before must have arrived before.
        let Found { born, state } = &found;
        let entries = state.count.saturating_sub(joined.entries.last());
        let ticks = state.ticks.saturating_sub(joined.ticks.last() + 1);
        let notes = member.notes.saturating_sub(joined.notes.last());
        let unanswered = self.in_flight.range(..msg_ref).count();
        let (count_heard, tick_heard) = (joined.entries.last(), joined.ticks.last() + 1);
        let differs = joined.born != *born
            || (joined.is_certain && (state.count, state.digest) != (count_heard, joined.digest))
            || state.ticks != tick_heard
            || member.last != joined.handled
            || member.notes != joined.notes.last();
        let expected = differs.then(|| format!("{joined:?}"));
        joined.born = *born;
        joined.entries = Sequence::after(state.count);
        joined.ticks = Sequence::after(state.ticks.saturating_sub(1));
        joined.notes = Sequence::after(member.notes);
        (joined.digest, joined.handled, joined.is_certain) = (state.digest, member.last, true);
        let missed = entries + ticks + notes + unanswered as u64;
        if missed > 0 {
            self.world.tally.lost.add(i64::try_from(missed).unwrap_or(i64::MAX));
            self.find(|| format!("{missed} entries, ticks, notes or answers had not arrived before an audit"));
        }
        if let Some(expected) = expected {
            let (count, ticks) = (state.count, state.ticks);
            self.differ(|| {
                format!("{count} entries, {ticks} ticks and {member:?} differ from what was heard: {expected}")
            });
        }
    }

    fn place(&self, place: Place, what: impl FnOnce() -> String) {
        if self.world.tally.count(place) {
            self.find(|| format!("{} {place}", what()));
        }
    }

    fn judge(&self, wrong: impl IntoIterator<Item = super::life::Wrong>) {
        self.world.judge(wrong, || self.whose());
    }

    fn differ(&self, what: impl FnOnce() -> String) {
        self.world.tally.differences.increment();
        self.find(what);
    }

    fn find(&self, what: impl FnOnce() -> String) {
        self.world.find(|| format!("{}: {}", self.whose(), what()));
    }

    fn whose(&self) -> String {
        format!("client {}, {}", self.client, self.topic.name)
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
