//! How members come and go: answers to joins, now or later, and what clients are told when a channel ends.

use std::collections::VecDeque;
use std::sync::Arc;

use bennu_wire::message::{self, Payload};

use super::Commit;
use crate::runtime::channel::{Input, Member, PendingJoin, Promise, Record};
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;
use crate::runtime::plugin::batch::Step;
use crate::runtime::plugin::effects::Fx;
use crate::runtime::plugin::loader::Outcome;
use crate::runtime::trace::bytes_of;

impl Commit<'_> {
    pub(super) fn finish_join(
        &mut self,
        step: &Step,
        outcome: Outcome,
        text: &str,
        mut fx: Vec<Fx>,
        record: &mut Record,
    ) {
        let Some(member) = step.member else { return };
        let answer = fx
            .iter()
            .position(|fx| matches!(fx, Fx::Accept(_) | Fx::Refuse(_) | Fx::Later(_)));
        let answer = answer.filter(|_| outcome == Outcome::Ok).map(|at| fx.remove(at));
        record.live = true;
        // The member is not in, so drop the effects that concern it.
        if !matches!(answer, Some(Fx::Accept(_)))
            && let Some(presence) = &mut record.presence
        {
            presence.roll_back();
        }
        if let Input::Complete { serial, .. } = &step.input {
            record.promises.remove(serial);
        }
        match answer {
            Some(Fx::Accept(reply)) => {
                let joined = record.members.insert(member, Member::Joined(step.info.clone()));
                record.epoch += 1;
                if let Some(Member::Pending(pending)) = joined {
                    self.env.hub.timers.cancel(pending.deadline);
                    self.followups
                        .extend(pending.waiting.into_iter().map(|input| (step.topic, input)));
                    // The rest of the batch was planned while the member was pending.
                    self.plan_again();
                }
                self.env.send(member, Delivery::Joined { member, reply });
                let tracked = fx.iter().any(|fx| matches!(fx, Fx::Tracked(who) if *who == member));
                if tracked {
                    fx.insert(0, Fx::PresenceState(member));
                }
                self.apply_all(step, fx, record);
                return;
            }
            Some(Fx::Later(serial)) => self.postpone(step, member, serial, record),
            Some(Fx::Refuse(reply)) => {
                if let Some(trace) = &step.trace {
                    trace.decide("refused");
                }
                self.env.refuse(member, reply);
                self.env.dismiss(self.topic(step), record, member);
            }
            _ => {
                self.env.panicked(&self.topic(step).name, step.callback(), text);
                let reply = Payload::reason(message::reason::JOIN_CRASHED);
                self.env.refuse(member, reply);
                self.env.dismiss(self.topic(step), record, member);
                fx.clear();
            }
        }
        fx.retain(|fx| fx.concerns() != Some(member));
        self.apply_all(step, fx, record);
        self.plan_again();
    }

    pub(super) fn postpone(&self, step: &Step, member: MemberId, serial: u64, record: &mut Record) {
        let (topic, timers) = (self.topic(step), &self.env.hub.timers);
        let deadline = timers.number();
        if let Some(trace) = &step.trace {
            trace.postpone(true);
        }
        let pending = match record.members.remove(&member) {
            // Its answer is late once more.
            Some(Member::Pending(mut pending)) => {
                timers.cancel(std::mem::replace(&mut pending.deadline, deadline));
                pending
            }
            _ => Box::new(PendingJoin {
                info: step.info.clone(),
                waiting: VecDeque::new(),
                charge: topic
                    .charge(size_of::<PendingJoin>() + Promise::BYTES + step.info.len() + bytes_of(&step.trace)),
                deadline,
                trace: step.trace.clone(),
            }),
        };
        record.members.insert(member, Member::Pending(pending));
        let by = self.env.generation;
        record.promises.insert(serial, Promise::Join { member, by });
        timers.set_deadline(
            deadline,
            self.env.slot.config().join_deadline,
            Arc::downgrade(topic),
            Input::JoinDeadline { serial },
        );
    }
}
