//! Answers that somebody waits for: of calls, and those that are promised.

use std::sync::Arc;

use bennu_wire::message::{self, Payload};
use bytestring::ByteString;

use super::Commit;
use crate::runtime::channel::{Called, Create, Input, Promise, Record, Topic};
use crate::runtime::plugin::batch::Step;
use crate::runtime::plugin::effects::Fx;
use crate::runtime::plugin::loader::Outcome;
use crate::runtime::trace::bytes_of;

impl Commit<'_> {
    /// The plugin answers the current event later.
    pub(super) fn promise(&self, step: &Step, serial: u64, record: &mut Record) {
        let topic = self.topic(step);
        let by = self.env.generation;
        if let Some(trace) = &step.trace {
            trace.postpone(true);
        }
        let trace = step.trace.clone();
        let promise = match &step.input {
            Input::In { member, msg_ref, .. } => Promise::Reply {
                member: *member,
                msg_ref: msg_ref.clone(),
                by,
                _charge: topic.charge(Promise::BYTES + bytes_of(&trace) + msg_ref.as_deref().map_or(0, str::len)),
                trace,
            },
            Input::Call { caller, .. } => Promise::Call {
                caller: caller.promised(),
                by,
                _charge: topic.charge(Promise::BYTES + bytes_of(&trace)),
                trace,
            },
            _ => return,
        };
        record.promises.insert(serial, promise);
    }

    /// Answers what a generation that has ended had promised.
    pub(super) fn break_promises(&mut self, topic: &Arc<Topic>, record: &mut Record, generation: u64) {
        let broken: Vec<_> = record
            .promises
            .extract_if(|_, promise| promise.by() == generation)
            .collect();
        let payload = Payload::reason(message::reason::RELOADED);
        for (serial, promise) in broken {
            record.awaited.remove(&serial);
            match promise {
                Promise::Join { member, .. } => {
                    let reply = payload.clone();
                    self.env.refuse(member, reply);
                    self.env.dismiss(topic, record, member);
                    self.plan_again();
                }
                promise => self
                    .env
                    .keep(promise, ByteString::from_static("error"), payload.clone()),
            }
        }
    }

    pub(super) fn finish_call(&mut self, step: &Step, outcome: Outcome, text: &str, fx: Vec<Fx>, record: &mut Record) {
        let is_made = !record.live;
        // A plugin that does not know calls has made nothing.
        record.live |= outcome != Outcome::Unknown;
        let unanswered = match outcome {
            Outcome::Ok => {
                self.apply_all(step, fx, record);
                let (status, payload) = (ByteString::from_static("ok"), Payload::EMPTY);
                Called::Replied { status, payload }
            }
            Outcome::Unknown => Called::Unhandled,
            _ => Called::Crashed,
        };
        if outcome != Outcome::Ok {
            self.fail(step, outcome, text, record);
        }
        let Input::Call { caller, create, .. } = &step.input else {
            return;
        };
        self.env.answer(caller, unanswered);
        if is_made {
            // An earlier time, for a topic that nobody had made, does not count for this one.
            record.epoch += 1;
        }
        if is_made && *create == Create::Passing {
            self.followups.push((step.topic, Input::Linger { epoch: record.epoch }));
            self.plan_again();
        } else {
            self.env.linger(self.topic(step), record);
        }
    }
}
