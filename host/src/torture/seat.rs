//! One client's stay in one topic: what it put, and whether all that comes back is as it must be.
//!
//! Nothing here sends. Whoever sends says so, hands in every message that comes, and is told what to do about it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::sequence::{Place, Sequence};
use super::tally::Tally;
use super::topic::{KEEP, Told, Topic, chained, entry};

/// One client's stay in one topic.
#[derive(Debug)]
pub struct Seat {
    /// Where.
    pub topic: Arc<Topic>,
    client: u32,
    tally: Arc<Tally>,
    stay: Stay,
    /// What it put last.
    last: u32,
    /// What it put and nobody has answered, by `ref`.
    owed: HashMap<u64, Put>,
    /// Asked for, by `ref`, behind the number that was put last.
    audits: HashMap<u64, u32>,
    /// Replies up to this `ref` may be missing, or late: their channel has ended.
    pardoned: u64,
    /// The last one that was answered at once.
    answered: u32,
    notes: Sequence,
    /// [`Tally::windows`] when it was joined.
    joined: u64,
}

#[derive(Debug)]
enum Stay {
    /// Not joined yet, or no longer.
    Outside,
    Joining(u64),
    Inside(View),
}

#[derive(Clone, Copy, Debug)]
struct Put {
    number: u32,
    later: bool,
    /// [`Tally::windows`] when it was sent.
    windows: u64,
}

/// What the state must be, after all that came.
#[derive(Debug)]
struct View {
    entries: Sequence,
    ticks: Sequence,
    digest: u64,
    list: VecDeque<u64>,
    /// Something was missing or came twice, and is counted. The rest cannot be known before the next audit.
    is_certain: bool,
}

#[derive(Deserialize)]
struct Answer {
    n: u32,
    s: u64,
    expected: u32,
}

/// What the plugin tells when it is asked.
#[derive(Deserialize)]
struct Audit {
    state: Told,
    member: Own,
}

/// The client's own state in a topic.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Own {
    last: u32,
    notes: u64,
}

#[derive(Deserialize)]
struct Entry {
    s: u64,
    c: u32,
    n: u32,
}

impl Seat {
    /// A seat that nobody has taken yet.
    #[must_use]
    pub fn new(topic: Arc<Topic>, client: u32, tally: Arc<Tally>) -> Self {
        Self {
            topic,
            client,
            tally,
            stay: Stay::Outside,
            last: 0,
            owed: HashMap::new(),
            audits: HashMap::new(),
            pardoned: 0,
            answered: 0,
            notes: Sequence::after(0),
            joined: 0,
        }
    }

    /// Whether it is to be joined (again).
    #[must_use]
    pub fn is_outside(&self) -> bool {
        matches!(self.stay, Stay::Outside)
    }

    /// Whether it may be put to.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        matches!(self.stay, Stay::Inside(_))
    }

    /// What is not answered yet.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.len() + self.audits.len()
    }

    /// What it put last: a join says so.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.last
    }

    /// A join was sent as `msg_ref`.
    pub fn joining(&mut self, msg_ref: u64) {
        self.stay = Stay::Joining(msg_ref);
    }

    /// The number that is to be put next.
    pub fn next_number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// `number` was put as `msg_ref`, to be answered at once or `later`.
    pub fn put(&mut self, msg_ref: u64, number: u32, later: bool) {
        let put = Put {
            number,
            later,
            windows: self.tally.windows(),
        };
        self.owed.insert(msg_ref, put);
        self.tally.sent.one();
        self.tally.in_flight.one();
    }

    /// An audit was asked for as `msg_ref`.
    pub fn audit(&mut self, msg_ref: u64) {
        self.audits.insert(msg_ref, self.last);
    }

    /// A reply came.
    pub fn reply(&mut self, msg_ref: u64, status: &str, response: Value) {
        if matches!(self.stay, Stay::Joining(joining) if joining == msg_ref) {
            self.joined(status, response);
        } else if let Some(last) = self.audits.remove(&msg_ref) {
            self.audited(last, status, response);
        } else if let Some(put) = self.owed.remove(&msg_ref) {
            self.tally.in_flight.add(-1);
            self.answered(put, status, response);
        } else if msg_ref > self.pardoned {
            self.tally.received.one();
            self.tally.doubled.one();
            self.find(|| format!("a second reply to {msg_ref}: {response}"));
        }
    }

    /// An event came.
    pub fn event(&mut self, event: &str, payload: Value) {
        let what = payload.to_string();
        match event {
            "phx_error" | "phx_close" => return self.ended(event),
            _ if !self.is_inside() => return,
            "put" => serde_json::from_value(payload).map(|entry| self.entered(&entry)).ok(),
            "note" => payload["k"].as_u64().map(|number| self.noted(number)),
            "tick" => payload["t"].as_u64().map(|number| self.ticked(number)),
            _ => None,
        }
        .unwrap_or_else(|| self.differ(|| format!("{event} came with {what}")));
    }

    /// Nothing more comes: what is owed is lost.
    pub fn give_up(&mut self) {
        let owed = i64::try_from(self.owed.len()).unwrap_or(i64::MAX);
        if owed > 0 {
            let mut numbers: Vec<u32> = self.owed.values().map(|put| put.number).collect();
            numbers.sort_unstable();
            self.find(|| format!("{numbers:?} were never answered"));
        }
        if !self.audits.is_empty() {
            self.differ(|| "an audit was never answered".to_owned());
        }
        self.tally.lost.add(owed);
        self.tally.in_flight.add(-owed);
        self.owed.clear();
        self.audits.clear();
    }

    fn joined(&mut self, status: &str, response: Value) {
        let told = serde_json::from_value(response.clone());
        let (Ok(told), "ok") = (told, status) else {
            self.stay = Stay::Outside;
            return self.differ(|| format!("a join was answered with {status}: {response}"));
        };
        self.tally.inside.one();
        self.joined = self.tally.windows();
        self.notes = Sequence::after(0);
        self.answered = 0;
        self.stay = Stay::Inside(View::new(told));
    }

    fn ended(&mut self, event: &str) {
        if self.is_outside() {
            return;
        }
        if self.is_inside() {
            self.tally.inside.add(-1);
        }
        if self.may_end() {
            self.tally.excused_ends.one();
        } else {
            self.tally.ended.one();
            self.find(|| "the channel ended".to_owned());
        }
        let owed = i64::try_from(self.owed.len()).unwrap_or(i64::MAX);
        self.tally.excused.add(owed);
        self.tally.in_flight.add(-owed);
        let known = self.owed.keys().chain(self.audits.keys()).max();
        self.pardoned = known.copied().unwrap_or(self.pardoned).max(self.pardoned);
        self.owed.clear();
        self.audits.clear();
        self.stay = Stay::Outside;
        if event == "phx_close" {
            self.differ(|| "the channel was closed".to_owned());
        }
    }

    /// Whether a panic may have ended it, or the way back from code that panics. The news of that may take its time.
    fn may_end(&self) -> bool {
        let now = self.tally.windows();
        let (is_open, closed) = (now % 2 == 1, now / 2 * 2);
        let is_from_before = |windows: u64| windows < closed;
        // Who came within a window is unknown to the state from before it.
        let came_within = self.joined % 2 == 1 && now - self.joined <= 1;
        is_open || came_within || self.owed.values().any(|put| is_from_before(put.windows))
    }

    fn answered(&mut self, put: Put, status: &str, response: Value) {
        let Put { number, later, .. } = put;
        let (Ok(Answer { n, s, expected }), "ok") = (Answer::deserialize(&response), status) else {
            self.tally.lost.one();
            return self.find(|| format!("{number} was answered with {status}: {response}"));
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
            // It is here, so it does not count as one that came after all.
            self.tally.lost.one();
        }
        let whose = format!("client {}, {}", self.client, self.topic.name);
        self.tally
            .place(place, || format!("{whose}: the answer to {number} is {response}"));
        if !later {
            self.answered = self.answered.max(number);
        }
        self.compare(s, entry(self.client, n));
    }

    fn entered(&mut self, Entry { s, c, n }: &Entry) {
        let entry = entry(*c, *n);
        let whose = self.whose();
        let Stay::Inside(view) = &mut self.stay else { return };
        let place = view.entries.take(*s);
        if place == Place::Next {
            view.digest = chained(view.digest, entry);
            view.list.push_back(entry);
            if view.list.len() > KEEP {
                view.list.pop_front();
            }
        } else {
            view.is_certain = false;
        }
        self.tally
            .place(place, || format!("{whose}: entry {s}, number {n} of client {c}"));
        self.compare(*s, entry);
    }

    /// Everybody on a topic sees the same under the same number.
    fn compare(&self, number: u64, entry: u64) {
        if !self.topic.note(number, entry) {
            self.differ(|| format!("entry {number} stands for two things"));
        }
    }

    fn noted(&mut self, number: u64) {
        let place = self.notes.take(number);
        let whose = self.whose();
        self.tally.place(place, || format!("{whose}: note {number}"));
    }

    fn ticked(&mut self, number: u64) {
        let whose = self.whose();
        let Stay::Inside(view) = &mut self.stay else { return };
        let place = view.ticks.take(number);
        self.tally.place(place, || format!("{whose}: tick {number}"));
    }

    fn audited(&mut self, last: u32, status: &str, response: Value) {
        let audit = Audit::deserialize(&response);
        let (Ok(Audit { state, member }), "ok") = (audit, status) else {
            return self.differ(|| format!("an audit was answered with {status}: {response}"));
        };
        self.tally.audits.one();
        let Stay::Inside(view) = &mut self.stay else { return };
        let (seen, is_certain) = (view.told(), view.is_certain);
        *view = View::new(state.clone());
        // What was sent before the answer must have come before it.
        let missed = state.count.saturating_sub(seen.count) + member.notes.saturating_sub(self.notes.last());
        if missed > 0 {
            self.tally.lost.add(i64::try_from(missed).unwrap_or(i64::MAX));
            self.find(|| format!("{missed} entries or notes did not come before an audit"));
        }
        if is_certain && seen != state {
            self.differ(|| format!("the state is {state:?}, and was seen to be {seen:?}"));
        }
        let seen = Own {
            last,
            notes: self.notes.last(),
        };
        if seen != member {
            self.notes = Sequence::after(member.notes);
            self.differ(|| format!("the member's state is {member:?}, and was seen to be {seen:?}"));
        }
    }

    fn differ(&self, what: impl FnOnce() -> String) {
        self.tally.differences.one();
        self.find(what);
    }

    fn find(&self, what: impl FnOnce() -> String) {
        self.tally.find(|| format!("{}: {}", self.whose(), what()));
    }

    fn whose(&self) -> String {
        format!("client {}, {}", self.client, self.topic.name)
    }
}

impl View {
    fn new(told: Told) -> Self {
        Self {
            entries: Sequence::after(told.count),
            ticks: Sequence::after(told.ticks.saturating_sub(1)),
            digest: told.digest,
            list: told.list.into(),
            is_certain: true,
        }
    }

    /// What the plugin should tell.
    fn told(&self) -> Told {
        Told {
            count: self.entries.last(),
            digest: self.digest,
            list: self.list.iter().copied().collect(),
            ticks: self.ticks.last() + 1,
        }
    }
}
