//! Carries out the effects of an event once it is done.
//!
//! While the plugin handles an event, the host only notes its effects, and changes presence so that it can be undone.
//! [`Calls::done`](super::loader::Calls::done) carries all of them out, or drops all of them.

mod calls;
mod members;

use std::sync::Arc;
use std::time::Duration;

use bennu_plugin::abi::{effect, error, event, reason};
use bennu_wire::message::{self, Payload};
use bytestring::ByteString;

use super::batch::{After, HOST, Plan, Step};
use super::effects::Fx;
use super::env::Env;
use super::loader::{Effect, Outcome};
use crate::config::OnPanic;
use crate::runtime::channel::{Called, Ending, Input, Member, Notice, Promise, Record, Topic};
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;

/// Carries a batch out, step by step.
pub(super) struct Commit<'a> {
    plan: &'a Plan,
    env: &'a Env,
    /// The current step: all before it are done.
    at: usize,
    fx: Vec<Fx>,
    /// How many effects the current event has asked for, and their bytes.
    effects: usize,
    effect_bytes: usize,
    /// Inputs that go in front of the mailboxes, by topic.
    followups: Vec<(usize, Input)>,
    /// Topics that the plugin has closed.
    closed: Vec<usize>,
    /// Later steps are no longer valid.
    back: bool,
}

impl<'a> Commit<'a> {
    pub(super) fn new(plan: &'a Plan, env: &'a Env) -> Self {
        Self {
            plan,
            env,
            at: 0,
            fx: Vec::new(),
            effects: 0,
            effect_bytes: 0,
            followups: Vec::new(),
            closed: Vec::new(),
            back: false,
        }
    }

    /// Runs the host's own steps before the first event.
    pub(super) fn begin(&mut self) {
        self.advance();
        self.note_progress();
    }

    /// Whether the rest of the batch has to be planned again.
    pub(super) fn is_back(&self) -> bool {
        self.back
    }

    /// Ends the current event as if it had panicked, and the batch with it.
    pub(super) fn fail_first(&mut self, why: &str) {
        self.end_step(Outcome::Panicked, why);
        self.back = true;
        self.note_progress();
    }

    fn end_step(&mut self, outcome: Outcome, message: &str) {
        self.env.slot.stats.events.inc();
        let step = &self.plan.steps[self.at];
        if !matches!(step.kind, event::RESTORED | event::CLOSE | event::CLAIMS) {
            self.topic(step).count_handled();
        }
        self.finish(outcome, message);
        (self.effects, self.effect_bytes) = (0, 0);
        self.at += 1;
    }

    /// Counts an effect of the current event. The one answer that each event may have is free.
    fn bound(&mut self, effect: &Effect<'_>) -> Result<(), i64> {
        let answers = matches!(effect.kind, effect::ACCEPT | effect::REFUSE | effect::LATER)
            || (effect.kind == effect::REPLY && effect.token == 0);
        if answers {
            return Ok(());
        }
        let config = self.env.slot.config();
        let bytes = self
            .effect_bytes
            .saturating_add(effect.name.len() + effect.payload.len());
        if self.effects >= config.max_effects_per_event || bytes > config.max_effect_bytes_per_event {
            return Err(error::LIMIT);
        }
        self.effects += 1;
        self.effect_bytes = bytes;
        Ok(())
    }

    /// Notes in the plan how far it is carried out, in case another thread has to go on with it.
    fn note_progress(&mut self) {
        let after = || After {
            followups: std::mem::take(&mut self.followups),
            closed: std::mem::take(&mut self.closed),
        };
        self.plan.progress.note(self.at, self.back.then(after));
    }

    fn topic(&self, step: &Step) -> &'a Arc<Topic> {
        &self.plan.topics[step.topic]
    }

    /// Does the host's own steps up to the next event, and sends what has to go out before it.
    fn advance(&mut self) {
        while let Some(step) = self.plan.steps.get(self.at) {
            if step.kind != HOST {
                if let Input::End(ending) = &step.input {
                    self.env.announce(ending);
                }
                return;
            }
            self.host_step(step);
            self.at += 1;
            if self.back {
                return;
            }
        }
    }

    fn host_step(&mut self, step: &Step) {
        let topic = self.topic(step);
        let mut record = topic.record();
        match &step.input {
            Input::In {
                member,
                join_ref,
                msg_ref,
                ..
            } => self.env.orphan(topic, *member, join_ref.clone(), msg_ref.clone()),
            Input::End(ending) if record.members.contains_key(&ending.member) => {
                self.env.end_pending(topic, &mut record, ending);
                self.back = true;
            }
            Input::End(Ending {
                member,
                leave: Some(leave),
                ..
            }) => self.env.left(topic, *member, leave),
            Input::Complete {
                serial,
                status,
                payload,
            } => {
                if let Some(promise) = record.promises.remove(serial) {
                    self.env.keep(promise, status.clone(), payload.clone());
                }
            }
            Input::JoinDeadline { serial } => {
                if let Some(Promise::Join { member, .. }) = record.promises.get(serial) {
                    let member = *member;
                    let reply = Payload::reason(message::reason::JOIN_TIMEOUT);
                    self.env.refuse(member, reply);
                    self.env.dismiss(topic, &mut record, member);
                    self.back = true;
                }
            }
            Input::Claims { member, info } => {
                if let Some(Member::Pending(pending)) = record.members.get_mut(member) {
                    pending.info = info.clone();
                }
            }
            Input::Retired { generation } => self.break_promises(topic, &mut record, *generation),
            _ => {}
        }
    }

    /// Answers what a generation that has ended had promised.
    fn break_promises(&mut self, topic: &Arc<Topic>, record: &mut Record, generation: u64) {
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
                    self.back = true;
                }
                promise => self
                    .env
                    .keep(promise, ByteString::from_static("error"), payload.clone()),
            }
        }
    }

    /// Carries out the effects of the current event, or drops them.
    fn finish(&mut self, outcome: Outcome, text: &str) {
        let step = &self.plan.steps[self.at];
        let topic = self.topic(step);
        let fx = std::mem::take(&mut self.fx);
        let mut record = topic.record();
        if outcome != Outcome::Ok {
            forget_promises(&fx, &mut record);
        }
        if let (event::CLAIMS, Some(member)) = (step.kind, step.member)
            && let Some(Member::Joined(info)) = record.members.get_mut(&member)
        {
            // Also if the plugin is too old to know them: the next one reads them.
            *info = step.info.clone();
        }
        match step.kind {
            event::JOIN | event::ANSWER => self.finish_join(step, outcome, text, fx, &mut record),
            event::CLOSE => {
                if outcome == Outcome::Panicked {
                    self.env.panicked(&topic.name, step.callback(), text);
                }
                self.finish_close(step, &mut record);
            }
            event::CALL => self.finish_call(step, outcome, text, fx, &mut record),
            _ if outcome == Outcome::Ok => self.apply_all(step, fx, &mut record),
            _ => self.fail(step, outcome, text, &mut record),
        }
        if let Input::End(ending) = &step.input {
            self.env.dismiss(topic, &mut record, ending.member);
            self.env.farewell(ending);
        }
    }

    fn finish_call(&mut self, step: &Step, outcome: Outcome, text: &str, fx: Vec<Fx>, record: &mut Record) {
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
        if let Input::Call { caller, .. } = &step.input {
            caller.answer(unanswered);
        }
        self.env.linger(self.topic(step), record);
    }

    fn finish_close(&mut self, step: &Step, record: &mut Record) {
        record.live = false;
        record.presence = None;
        record.promises.clear();
        record.awaited.clear();
        for (timer, _) in record.timers.drain() {
            self.env.hub.timers.cancel(timer);
        }
        self.closed.push(step.topic);
        // The inputs behind it belong to the topic's next life, perhaps on newer code.
        self.back = true;
    }

    /// The event failed: its effects are dropped, and its member ends.
    fn fail(&mut self, step: &Step, outcome: Outcome, text: &str, record: &mut Record) {
        if let Some(presence) = &mut record.presence {
            presence.roll_back();
        }
        if outcome == Outcome::Unknown {
            tracing::debug!(
                plugin = self.env.slot.name,
                kind = step.kind,
                "the plugin does not know this kind of event"
            );
            return;
        }
        let topic = &self.topic(step).name;
        self.env.panicked_at(topic, step.callback(), step.event_name(), text);
        match (self.env.slot.config().on_panic, step.member) {
            (OnPanic::Topic, _) => self.end_all(step),
            (OnPanic::Member, Some(member)) if !matches!(step.kind, event::OUT | event::TERMINATE) => {
                self.end(step, member, reason::PANICKED, text.into())
            }
            // The member has ended already, or the callback belonged to no member.
            (OnPanic::Member, _) => {}
        }
    }

    /// Ends all members because of a panic, and the topic with them.
    fn end_all(&mut self, step: &Step) {
        let input = Input::EndAll {
            reason: reason::PANICKED,
            notice: Notice::Error(message::reason::CHANNEL_CRASH),
        };
        self.followups.push((step.topic, input));
        self.back = true;
    }

    /// Ends a member before the topic handles anything else.
    fn end(&mut self, step: &Step, member: MemberId, reason: u32, text: ByteString) {
        let notice = if matches!(reason, reason::NORMAL | reason::SHUTDOWN) {
            Notice::Close(None)
        } else {
            Notice::Error(message::reason::CHANNEL_CRASH)
        };
        let ending = Ending {
            text,
            ..Ending::new(member, reason, notice)
        };
        self.followups.push((step.topic, Input::End(ending)));
        self.back = true;
    }

    fn apply_all(&mut self, step: &Step, fx: Vec<Fx>, record: &mut Record) {
        if let Some(presence) = &mut record.presence {
            presence.commit();
        }
        for fx in fx {
            if fx.is_error() {
                self.env.health.erred();
            }
            self.apply(step, fx, record);
        }
    }

    fn apply(&mut self, step: &Step, fx: Fx, record: &mut Record) {
        let topic = self.topic(step);
        match fx {
            Fx::Reply {
                token: 0,
                status,
                payload,
            } => match &step.input {
                Input::In { member, msg_ref, .. } => self.env.reply(*member, msg_ref.clone(), status, payload),
                Input::Call { caller, .. } => caller.answer(Called::Replied { status, payload }),
                _ => {}
            },
            Fx::Reply { token, status, payload } if record.awaited.remove(&token) => {
                match record.promises.remove(&token) {
                    // The plugin itself answers a join, in an event of its own.
                    Some(join @ Promise::Join { .. }) => {
                        record.promises.insert(token, join);
                        topic.owe(Input::Complete {
                            serial: token,
                            status,
                            payload,
                        });
                    }
                    Some(promise) => self.env.keep(promise, status, payload),
                    None => {}
                }
            }
            Fx::Later(serial) => {
                let by = self.env.generation;
                let promise = match &step.input {
                    Input::In { member, msg_ref, .. } => Promise::Reply {
                        member: *member,
                        msg_ref: msg_ref.clone(),
                        by,
                        _charge: topic.charge(Promise::BYTES + msg_ref.as_deref().map_or(0, str::len)),
                    },
                    Input::Call { caller, .. } => Promise::Call {
                        caller: caller.promised(),
                        by,
                        _charge: topic.charge(Promise::BYTES),
                    },
                    _ => return,
                };
                record.promises.insert(serial, promise);
            }
            Fx::Answerable { serial, by } => match record.promises.get_mut(&serial) {
                Some(promise) => promise.pass_to(by),
                None => self.env.hub.connects.pass_to(serial, by),
            },
            Fx::Push { member, event, payload } => self.env.send(member, Delivery::Push { member, event, payload }),
            Fx::Broadcast {
                topic: other,
                event,
                payload,
                except,
            } => {
                let name = other.unwrap_or_else(|| topic.name.clone());
                self.env.hub.broadcast(name, event, payload, except);
            }
            Fx::PresenceState(member) => {
                let payload = Payload::Json(record.presence_mut().state());
                let event = ByteString::from_static(message::event::PRESENCE_STATE);
                self.env.send(member, Delivery::Push { member, event, payload });
            }
            Fx::Stop { member, reason, text } => {
                if reason == reason::PANICKED {
                    self.env
                        .panicked_at(&topic.name, "handle_out", step.event_name(), &text);
                    if self.env.slot.config().on_panic == OnPanic::Topic {
                        return self.end_all(step);
                    }
                }
                self.end(step, member, reason, text);
            }
            Fx::Send {
                number,
                member,
                delay_ms,
                name,
                payload,
            } => {
                record.timers.insert(number, member);
                let input = Input::Info {
                    member,
                    name,
                    payload,
                    timer: Some(number),
                };
                if delay_ms == 0 {
                    topic.owe(input);
                } else {
                    self.env
                        .hub
                        .timers
                        .set(number, Duration::from_millis(delay_ms), Arc::downgrade(topic), input);
                }
            }
            Fx::SendTo {
                topic: other,
                name,
                payload,
            } => self.env.send_to(&other, name, payload),
            Fx::Cancel(number) => {
                if record.timers.remove(&number).is_some() {
                    self.env.hub.timers.cancel(number);
                }
            }
            // Another answer came first.
            Fx::Reply { .. } => drop(self.env.hub.metrics.late_answers.inc()),
            Fx::Accept(_) | Fx::Refuse(_) | Fx::Tracked(_) => {}
        }
    }
}

/// Drops what the current event has promised.
fn forget_promises(fx: &[Fx], record: &mut Record) {
    for fx in fx {
        if let Fx::Later(serial) = fx {
            record.awaited.remove(serial);
        }
    }
}
