//! What a plugin says while it handles a batch: that an event is done, what is to be done, what it wants to know.

use bennu_plugin::abi::{error, read};
use bytes::Bytes;

use super::Commit;
use crate::plugin::effects;
use crate::plugin::loader::{Calls, Effect, Go, Outcome};
use crate::wake;

impl Calls for Commit<'_> {
    fn done(&mut self, _index: usize, outcome: Outcome, message: &str) -> Go {
        if self.at >= self.plan.steps.len() || self.back {
            return Go::Back;
        }
        self.end_step(outcome, message);
        if !self.back {
            self.advance();
        }
        self.note_progress();
        if self.back {
            return Go::Back;
        }
        wake::when_due();
        Go::On
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        let Some(step) = self.plan.steps.get(self.at) else {
            return error::MISPLACED;
        };
        if let Err(code) = self.bound(effect) {
            return self.refuse(code);
        }
        let topic = self.topic(step);
        let mut book = topic.book();
        match effects::note(effect, step, topic, &mut book, &self.fx, self.env) {
            Ok((answer, fx)) => {
                self.fx.extend(fx);
                answer
            }
            Err(code) => self.refuse(code),
        }
    }

    fn refuse(&mut self, code: i64) -> i64 {
        self.env.refused_effect();
        code
    }

    fn most_bytes(&self) -> usize {
        self.env.slot.config().max_effect_bytes_per_event
    }

    fn read(&mut self, what: u32, key: &str, out: &mut Vec<u8>) -> i64 {
        let Some(step) = self.plan.steps.get(self.at) else {
            return error::MISPLACED;
        };
        let book = self.topic(step).book();
        let found = match (what, &book.presence) {
            (read::PRESENCE, Some(presence)) => presence.state(),
            (read::PRESENCE, None) => Bytes::from_static(b"{}"),
            (read::PRESENCE_KEY, presence) => match presence.as_ref().and_then(|presence| presence.get_by_key(key)) {
                Some(entry) => entry,
                None => return error::UNTRACKED,
            },
            _ => return error::UNKNOWN,
        };
        out.extend_from_slice(&found);
        0
    }
}
