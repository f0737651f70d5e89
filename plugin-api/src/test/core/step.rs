//! The event at hand: what a plugin asks for, judged as the host judges it.

use super::{Core, Standing};
use crate::abi::{callback_name, effect, error, event, go, outcome, read, reason};
use crate::refused_effect;
use crate::test::body::Body;
use crate::test::boundary::{Answers, Asked, Event};

/// An effect that is granted.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) asked: Asked,
    /// What the plugin was answered: the number of a promise or a timer, or 0.
    pub(super) number: u64,
}

/// The event at hand, until it is done.
struct Step<'a> {
    core: &'a mut Core,
    kind: u32,
    topic: u64,
    member: u64,
    noted: Vec<Noted>,
    outcome: u32,
    message: String,
}

impl Core {
    /// Has the plugin handle an event. Returns what it asked for, or how it panicked.
    pub(super) fn handle(&mut self, event: &Event<'_>) -> Result<Vec<Noted>, String> {
        let generation = match event.topic {
            0 => self.newest(),
            topic => self.topics[&topic].generation,
        };
        self.handle_in(generation, event)
    }

    pub(super) fn handle_in(&mut self, generation: usize, event: &Event<'_>) -> Result<Vec<Noted>, String> {
        let Some(running) = self.generations[generation].running.clone() else {
            return Err("its generation has ended".to_owned());
        };
        let presence = self.topics.get(&event.topic).map(|topic| topic.presence.clone());
        let mut step = Step {
            core: self,
            kind: event.kind,
            topic: event.topic,
            member: event.member,
            noted: Vec::new(),
            outcome: outcome::FAILED,
            message: "the plugin did not say that it was done".to_owned(),
        };
        running.handle(std::slice::from_ref(event), &mut step);
        let Step {
            noted,
            mut outcome,
            mut message,
            ..
        } = step;
        if std::mem::take(&mut self.panic_next) && outcome == outcome::OK {
            (outcome, message) = (outcome::PANICKED, "a panic that the test injected".to_owned());
        }
        if outcome == outcome::OK {
            return Ok(noted);
        }
        for noted in noted.iter().filter(|noted| noted.asked.kind == effect::LATER) {
            self.outside.forget(noted.number);
        }
        if let Some(presence) = presence {
            self.topic_mut(event.topic, |topic| topic.presence = presence);
        }
        let how = if outcome == outcome::FAILED {
            "failed"
        } else {
            "panicked"
        };
        let callback = callback_name(event.kind, event.topic, event.member);
        self.outside.note(format!("{callback} {how}: {message}"));
        Err(message)
    }
}

impl Step<'_> {
    fn is_join(&self) -> bool {
        self.topic != 0 && matches!(self.kind, event::JOIN | event::ANSWER)
    }

    fn is_connect(&self) -> bool {
        self.topic == 0
    }

    /// Whether an effect may name this member.
    fn is_there(&self, member: u64) -> bool {
        let is_joining = self.is_join() && member == self.member;
        is_joining || matches!(self.core.standing(member), Standing::In | Standing::Ending)
    }

    fn is_answered(&self) -> bool {
        self.noted.iter().any(|Noted { asked, .. }| {
            matches!(asked.kind, effect::ACCEPT | effect::REFUSE | effect::LATER)
                || (asked.kind == effect::REPLY && asked.token == 0)
        })
    }

    /// What the host would say to it.
    fn judge(&mut self, asked: &Asked) -> Result<u64, i64> {
        if asked.body.binary && self.is_too_long(asked) {
            return Err(error::FIELD);
        }
        match asked.kind {
            effect::REPLY if asked.token != 0 => self.promise_kept(asked),
            effect::ACCEPT | effect::REFUSE | effect::LATER | effect::REPLY => self.answer(asked),
            effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE => self.presence(asked),
            effect::CONNECT_ACCEPT | effect::CONNECT_REFUSE if self.is_connect() => Ok(0),
            effect::PUSH | effect::PRESENCE | effect::STOP if !self.is_there(asked.member) => Err(error::GONE),
            effect::PUSH | effect::BROADCAST if !asked.body.is_object_or_binary() => Err(error::INVALID),
            effect::STOP if !is_stop(asked.number) => Err(error::INVALID),
            effect::PUSH | effect::BROADCAST | effect::PRESENCE | effect::STOP => Ok(0),
            effect::SEND if asked.member != 0 && !self.is_there(asked.member) => Err(error::GONE),
            effect::SEND => valid(&asked.body).map(|()| self.core.number()),
            effect::CANCEL if self.has_timer(asked.number) => Ok(0),
            effect::CANCEL => Err(error::GONE),
            effect::SEND_TO if asked.topic.is_empty() => Err(error::INVALID),
            effect::SEND_TO => valid(&asked.body).map(|()| 0),
            effect::FORGET | effect::PROMISE_READ | effect::PROMISE_WRITTEN => Ok(0),
            // Nothing is traced here.
            effect::SPAN_BEGIN | effect::SPAN_END => Ok(0),
            effect::STATE if self.kind == event::SNAPSHOT => Ok(0),
            effect::STATE | effect::CONNECT_ACCEPT | effect::CONNECT_REFUSE => Err(error::MISPLACED),
            _ => Err(error::UNKNOWN),
        }
    }

    /// Whether a header field of a binary message would not fit: each has one byte for its length.
    fn is_too_long(&self, asked: &Asked) -> bool {
        const MOST: usize = u8::MAX as usize;
        let topic = self.topic_len(asked);
        match asked.kind {
            effect::REPLY | effect::PUSH | effect::BROADCAST => asked.name.len() > MOST || topic > MOST,
            effect::ACCEPT | effect::REFUSE => topic > MOST,
            _ => false,
        }
    }

    /// The length of the topic that an effect goes to.
    fn topic_len(&self, asked: &Asked) -> usize {
        match asked.topic.len() {
            0 => self.core.topics.get(&self.topic).map_or(0, |topic| topic.name.len()),
            len => len,
        }
    }

    /// The one answer to the event at hand.
    fn answer(&mut self, asked: &Asked) -> Result<u64, i64> {
        let is_push = matches!(self.kind, event::IN | event::CALL);
        let is_placed = match asked.kind {
            effect::LATER => is_push || self.is_join() || self.is_connect(),
            effect::REPLY => is_push,
            _ => self.is_join(),
        };
        if self.is_answered() || !is_placed {
            return Err(error::MISPLACED);
        }
        if asked.kind != effect::LATER {
            return valid(&asked.body).map(|()| 0);
        }
        let serial = self.core.number();
        self.core.outside.expect(serial);
        Ok(serial)
    }

    /// The answer to a promise, once only.
    fn promise_kept(&self, asked: &Asked) -> Result<u64, i64> {
        let is_same = |noted: &Noted| noted.asked.kind == effect::REPLY && noted.asked.token == asked.token;
        if self.noted.iter().any(is_same) || !self.core.outside.expects(asked.token) {
            return Err(error::GONE);
        }
        valid(&asked.body).map(|()| 0)
    }

    fn has_timer(&self, timer: u64) -> bool {
        let is_new = |noted: &Noted| noted.asked.kind == effect::SEND && noted.number == timer;
        self.core.timers.contains_key(&timer) || self.noted.iter().any(is_new)
    }

    /// Presence changes at once: the same event reads it so.
    fn presence(&mut self, asked: &Asked) -> Result<u64, i64> {
        let Some(topic) = self.core.topics.get(&self.topic) else {
            return Err(error::GONE);
        };
        if !asked.topic.is_empty() && asked.topic != topic.name {
            return Err(error::MISPLACED);
        }
        if asked.kind != effect::DESCRIBE && !self.is_there(asked.member) {
            return Err(error::GONE);
        }
        let (member, key, body) = (asked.member, &asked.name, &asked.body);
        let object = serde_json::from_slice(&body.bytes).ok().filter(|_| !body.binary);
        let changed = self.core.topic_mut(self.topic, |topic| match (asked.kind, object) {
            (effect::UNTRACK, _) => topic.presence.untrack(member, key),
            (_, None) => Err(error::INVALID),
            (effect::TRACK, Some(meta)) => topic.presence.track(member, key, meta),
            (effect::UPDATE, Some(meta)) => topic.presence.update(member, key, meta),
            (_, Some(extra)) => topic.presence.describe(key, extra),
        });
        changed.unwrap_or(Err(error::GONE)).map(|()| 0)
    }

    /// Says what the host would say in its log.
    fn note_refusal(&self, kind: u32, error: i64, event: &str, topic: usize) {
        if !refused_effect::is_usual(error) {
            let (what, why) = (
                refused_effect::word(kind),
                refused_effect::why(kind, error, event.len(), topic),
            );
            self.core
                .outside
                .note(format!("warn effect refused: {why} effect={what:?} event={event:?}"));
        }
    }
}

/// Reasons that a callback may stop with.
fn is_stop(number: u64) -> bool {
    let stops = [reason::NORMAL, reason::SHUTDOWN, reason::OTHER, reason::PANICKED];
    stops.into_iter().any(|stop| u64::from(stop) == number)
}

fn valid(body: &Body) -> Result<(), i64> {
    if body.is_valid() { Ok(()) } else { Err(error::INVALID) }
}

impl Answers for Step<'_> {
    fn effect(&mut self, asked: Asked) -> i64 {
        match self.judge(&asked) {
            Ok(number) => {
                self.noted.push(Noted { asked, number });
                number.cast_signed()
            }
            Err(error) => {
                let topic = self.topic_len(&asked);
                self.note_refusal(asked.kind, error, &asked.name, topic);
                error
            }
        }
    }

    fn unreadable(&mut self, kind: u32, error: i64) {
        self.note_refusal(kind, error, "", 0);
    }

    fn read(&mut self, what: u32, key: &str) -> Result<String, i64> {
        let presence = self.core.topics.get(&self.topic).map(|topic| &topic.presence);
        match (what, presence) {
            (read::PRESENCE, presence) => Ok(presence.map_or("{}".to_owned(), |list| list.state().to_string())),
            (read::PRESENCE_KEY, presence) => {
                let found = presence.and_then(|list| list.get(key));
                found.map(|entry| entry.to_string()).ok_or(error::UNTRACKED)
            }
            _ => Err(error::UNKNOWN),
        }
    }

    fn done(&mut self, _: usize, outcome: u32, message: String) -> u32 {
        (self.outcome, self.message) = (outcome, message);
        go::ON
    }
}
