//! What a plugin calls while it handles a batch: it ends an event, asks for an effect, or reads something.

use bennu_plugin::abi::{error, read};
use bytes::Bytes;

use super::Commit;
use crate::runtime::plugin::loader::{Calls, Effect, Go, Outcome};
use crate::runtime::plugin::{effects, handling};
use crate::runtime::wake;

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
        if let Some(answer) = handling::span(&mut self.handling, effect) {
            return answer;
        }
        let Some(step) = self.plan.steps.get(self.at) else {
            return error::MISPLACED;
        };
        let topic = self.topic(step);
        let noted = self
            .bound(effect)
            .and_then(|()| effects::note(effect, step, topic, &mut topic.record(), &self.fx, self.env));
        match noted {
            Ok((answer, fx)) => {
                self.fx.extend(fx);
                answer
            }
            Err(error) => {
                self.env
                    .refused_effect(effect.kind, Some(&**topic), Some(effect), error);
                error
            }
        }
    }

    fn refuse(&mut self, kind: u32, error: i64) -> i64 {
        let topic = self.plan.steps.get(self.at).map(|step| &**self.topic(step));
        self.env.refused_effect(kind, topic, None, error);
        error
    }

    fn most_bytes(&self) -> usize {
        self.env.slot.config().max_effect_bytes_per_event
    }

    fn read(&mut self, what: u32, key: &str, out: &mut Vec<u8>) -> i64 {
        let Some(step) = self.plan.steps.get(self.at) else {
            return error::MISPLACED;
        };
        let mut record = self.topic(step).record();
        let found = match (what, &mut record.presence) {
            (read::PRESENCE, Some(presence)) => presence.state(),
            (read::PRESENCE, None) => Bytes::from_static(b"{}"),
            (read::PRESENCE_KEY, presence) => match presence.as_mut().and_then(|presence| presence.get_by_key(key)) {
                Some(entry) => entry,
                None => return error::UNTRACKED,
            },
            _ => return error::UNKNOWN,
        };
        out.extend_from_slice(&found);
        0
    }
}
