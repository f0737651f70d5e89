//! The event at hand: what a plugin asks for, judged as the host judges it.

use super::{Core, Standing};
use crate::abi::{effect, error, event, read};
use crate::refusal;
use crate::test::body::Body;
use crate::test::boundary::{Answers, Asked};

/// The event at hand: what the plugin asks for, until it is done.
pub(super) struct Step<'a> {
    pub(super) core: &'a mut Core,
    pub(super) kind: u32,
    pub(super) topic: u64,
    pub(super) member: u64,
    pub(super) asked: Vec<(Asked, i64)>,
    pub(super) outcome: u32,
    pub(super) message: String,
}

impl Step<'_> {
    fn is_join(&self) -> bool {
        matches!(self.kind, event::JOIN | event::ANSWER)
    }

    /// Whether an effect may name this member.
    fn is_there(&self, member: u64) -> bool {
        (self.is_join() && member == self.member) || self.core.standing(member) == Standing::In
    }

    fn answered(&self) -> bool {
        let answers = |asked: &Asked| {
            matches!(asked.kind, effect::ACCEPT | effect::REFUSE | effect::LATER)
                || (asked.kind == effect::REPLY && asked.token == 0)
        };
        self.asked.iter().any(|(asked, _)| answers(asked))
    }

    /// What the host would say to it.
    fn judge(&mut self, asked: &Asked) -> Result<i64, i64> {
        let body = Body {
            binary: asked.binary,
            bytes: asked.payload.clone(),
        };
        match asked.kind {
            effect::PUSH | effect::BROADCAST if !body.is_object_or_binary() => Err(error::INVALID),
            effect::ACCEPT | effect::REFUSE | effect::REPLY | effect::SEND if !body.is_valid() => Err(error::INVALID),
            effect::REPLY if asked.token != 0 => Ok(0),
            effect::ACCEPT | effect::REFUSE | effect::LATER | effect::REPLY if self.answered() => Err(error::MISPLACED),
            effect::ACCEPT | effect::REFUSE if !self.is_join() => Err(error::MISPLACED),
            effect::REPLY if self.kind != event::IN => Err(error::MISPLACED),
            effect::PUSH | effect::PRESENCE | effect::STOP if !self.is_there(asked.member) => Err(error::GONE),
            effect::SEND if asked.member != 0 && !self.is_there(asked.member) => Err(error::GONE),
            effect::LATER | effect::SEND => Ok(self.core.number().cast_signed()),
            effect::CANCEL if !self.core.timers.contains_key(&asked.number) && !self.has_set(asked.number) => {
                Err(error::GONE)
            }
            effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE => self.presence(asked),
            effect::STATE if self.kind != event::SNAPSHOT => Err(error::MISPLACED),
            _ => Ok(0),
        }
    }

    /// As the host says it in its log.
    fn note_refusal(&self, asked: &Asked, error: i64) {
        if !refusal::is_usual(error) {
            let (what, event) = (refusal::word(asked.kind), &asked.name);
            let why = refusal::why(asked.kind, error, event.len(), asked.topic.len());
            self.core
                .outside
                .note(format!("warn effect refused: {why} effect={what:?} event={event:?}"));
        }
    }

    fn has_set(&self, timer: u64) -> bool {
        let mut set = self.asked.iter().filter(|(asked, _)| asked.kind == effect::SEND);
        set.any(|(_, number)| number.unsigned_abs() == timer)
    }

    /// Presence is changed at once: the same event reads it so.
    fn presence(&mut self, asked: &Asked) -> Result<i64, i64> {
        if asked.kind != effect::DESCRIBE && !self.is_there(asked.member) {
            return Err(error::GONE);
        }
        let (member, key) = (asked.member, &asked.name);
        let meta = serde_json::from_slice(&asked.payload).ok().filter(|_| !asked.binary);
        let changed = self.core.topic_mut(self.topic, |topic| match (asked.kind, meta) {
            (effect::UNTRACK, _) => {
                topic.presence.untrack(member, key);
                Ok(())
            }
            (_, None) => Err(error::INVALID),
            (effect::TRACK, Some(meta)) => topic.presence.track(member, key, meta),
            (effect::UPDATE, Some(meta)) => topic.presence.update(member, key, meta),
            (_, Some(extra)) => topic.presence.describe(key, extra),
        });
        changed.unwrap_or(Err(error::GONE)).map(|()| 0)
    }
}

impl Answers for Step<'_> {
    fn effect(&mut self, asked: Asked) -> i64 {
        match self.judge(&asked) {
            Ok(returned) => {
                self.asked.push((asked, returned));
                returned
            }
            Err(error) => {
                self.note_refusal(&asked, error);
                error
            }
        }
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

    fn done(&mut self, outcome: u32, message: String) {
        (self.outcome, self.message) = (outcome, message);
    }
}

impl Asked {
    pub(in crate::test) fn into_body(self) -> Body {
        Body {
            binary: self.binary,
            bytes: self.payload,
        }
    }
}
