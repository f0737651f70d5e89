//! Carries out the effects of an event once it is done.
//!
//! While the plugin handles an event, the host only notes its effects, and changes presence so that it can be undone.
//! [`Calls::done`](super::loader::Calls::done) carries all of them out, or drops all of them.

mod answers;
mod calls;
mod close;
mod members;

use std::sync::Arc;
use std::time::Duration;

use bennu_plugin::abi::{effect, error, event, reason};
use bennu_wire::message::{self, Payload};
use bytestring::ByteString;

use super::batch::{After, HOST, Plan, Step};
use super::effects::Fx;
use super::env::Env;
use super::handling::{self, Handling};
use super::loader::{Effect, Outcome};
use crate::config::OnPanic;
use crate::runtime::capsule;
use crate::runtime::channel::{Called, Ending, Input, Member, Notice, Promise, Record, Timer, Topic};
use crate::runtime::clock::unix_ms;
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
    /// Topics that leave memory next.
    leaving: Vec<usize>,
    /// Later steps are no longer valid.
    back: bool,
    /// The callback that runs, if its event is traced.
    handling: Option<Box<Handling>>,
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
            leaving: Vec::new(),
            back: false,
            handling: None,
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
        if let Some(handling) = self.handling.take() {
            handling.end(outcome);
        }
        if !matches!(
            step.kind,
            event::RESTORED | event::CLOSING | event::CLOSE | event::CLAIMS
        ) {
            self.topic(step).count_handled();
        }
        self.finish(outcome, message);
        if let Some(trace) = &step.trace {
            let (word, has_failed) = handling::said(outcome);
            trace.settle(word, has_failed);
        }
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
        let after = After {
            followups: std::mem::take(&mut self.followups),
            closed: std::mem::take(&mut self.closed),
            leaving: std::mem::take(&mut self.leaving),
            ended: self.back,
        };
        self.plan.progress.note(self.at, after);
    }

    /// What is planned behind the current step of its topic holds no longer. If there is anything, the batch ends here; other topics
    /// go on.
    fn plan_again(&mut self) {
        let topic = self.plan.steps[self.at].topic;
        let next = self.plan.steps.get(self.at + 1);
        self.back |= next.is_some_and(|next| next.topic == topic);
    }

    fn topic(&self, step: &Step) -> &'a Arc<Topic> {
        &self.plan.topics[step.topic]
    }

    /// Does the host's own steps up to the next event, and sends what has to go out before it.
    fn advance(&mut self) {
        while let Some(step) = self.plan.steps.get(self.at) {
            self.env.about(step.topic);
            if step.kind != HOST {
                if let Input::End(ending) = &step.input {
                    self.env.announce(ending);
                }
                if let Some(trace) = &step.trace {
                    self.handling = Some(Handling::begin(trace, step.callback(), self.env));
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
                trace,
                ..
            } => {
                if let Some(trace) = trace {
                    trace.end(message::reason::UNMATCHED_TOPIC);
                }
                self.env.orphan(topic, *member, join_ref.clone(), msg_ref.clone());
            }
            Input::End(ending) if record.members.contains_key(&ending.member) => {
                self.env.end_pending(topic, &mut record, ending);
                self.plan_again();
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
                    if let Some(Member::Pending(pending)) = record.members.get(&member)
                        && let Some(trace) = &pending.trace
                    {
                        trace.fail(message::reason::JOIN_TIMEOUT);
                    }
                    let reply = Payload::reason(message::reason::JOIN_TIMEOUT);
                    self.env.refuse(member, reply);
                    self.env.dismiss(topic, &mut record, member);
                    self.plan_again();
                }
            }
            Input::Claims { member, info } => {
                if let Some(Member::Pending(pending)) = record.members.get_mut(member) {
                    pending.info = info.clone();
                }
            }
            Input::Retired { generation } => self.break_promises(topic, &mut record, *generation),
            Input::Linger { .. } | Input::Leave => self.leave(step),
            _ => {}
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
            event::CLOSING => self.finish_closing(step, outcome, text, fx, &mut record),
            event::CALL => self.finish_call(step, outcome, text, fx, &mut record),
            _ if outcome == Outcome::Ok => self.apply_all(step, fx, &mut record),
            _ => self.fail(step, outcome, text, &mut record),
        }
        if let Input::End(ending) = &step.input {
            self.env.dismiss(topic, &mut record, ending.member);
            self.env.farewell(ending);
        }
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
        self.plan_again();
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
        self.plan_again();
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
            } => {
                if let Some(trace) = &step.trace {
                    trace.decide(&status);
                }
                match &step.input {
                    Input::In { member, msg_ref, .. } => self.env.reply(*member, msg_ref.clone(), status, payload),
                    Input::Call { caller, .. } => self.env.answer(caller, Called::Replied { status, payload }),
                    _ => {}
                }
            }
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
            Fx::Later(serial) => self.promise(step, serial, record),
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
            } => match other.filter(|other| *other != topic.name) {
                None => self.env.broadcast(topic.name.clone(), event, payload, except),
                // None of its members is this topic's.
                Some(other) => self.env.broadcast_to(other, event, payload),
            },
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
                let leaves = self.env.slot.durable().is_some() || self.env.hub.homes().is_some();
                let stored = (member.is_none() && leaves).then(|| {
                    Box::new(capsule::Timer {
                        name: name.to_string(),
                        payload: payload.bytes().clone(),
                        binary: payload.is_binary(),
                        due_unix_ms: unix_ms().saturating_add(delay_ms),
                    })
                });
                record.timers.insert(number, Timer { member, stored });
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
            Fx::Forget => {
                record.forgotten = true;
                // A topic that leaves is on its way already.
                if step.kind != event::CLOSING {
                    let (reason, notice) = (reason::NORMAL, Notice::Close(None));
                    self.followups.push((step.topic, Input::EndAll { reason, notice }));
                    self.plan_again();
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
