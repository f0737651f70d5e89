//! What members are told. A shard says it when it commits, or the host in its place if the shard does not return.

use std::sync::Arc;
use std::time::Duration;

use bennu_plugin::abi::reason;
use bennu_wire::message::{self, Payload, Ref};
use bytestring::ByteString;

use super::Env;
use crate::runtime::channel::{Called, Caller, Ending, Input, Leave, Notice, Promise, Record, Topic};
use crate::runtime::clock;
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;
use crate::runtime::plugin::durable::Act;

/// How soon a topic may look again whether somebody still waits for its answer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Env {
    pub(in crate::runtime::plugin) fn send(&self, member: MemberId, delivery: Delivery) {
        match &self.held {
            None => self.hub.pubsub.send(member, delivery),
            Some(held) => held.keep(Act::Send(member, delivery)),
        }
    }

    /// Sends to all subscribers of another topic, or to the plugins that intercept the event.
    pub(in crate::runtime::plugin) fn broadcast_to(&self, topic: ByteString, event: ByteString, payload: Payload) {
        match &self.held {
            None => self.hub.broadcast_to(topic, event, payload),
            Some(held) => held.keep(Act::BroadcastTo { topic, event, payload }),
        }
    }

    /// Sends to all subscribers of the topic itself, or to the plugins that intercept the event.
    pub(in crate::runtime::plugin) fn broadcast(
        &self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        except: Option<MemberId>,
    ) {
        match &self.held {
            None => self.hub.broadcast(topic, event, payload, except),
            Some(held) => held.keep(Act::Broadcast {
                topic,
                event,
                payload,
                except,
            }),
        }
    }

    /// Answers a backend that asks.
    pub(in crate::runtime::plugin) fn answer(&self, caller: &Caller, called: Called) {
        match &self.held {
            None => caller.answer(called),
            Some(held) => held.keep(Act::Answer(caller.promised(), called)),
        }
    }

    /// What follows is about this topic of the batch.
    pub(in crate::runtime::plugin) fn about(&self, topic: usize) {
        if let Some(held) = &self.held {
            held.about(topic);
        }
    }

    /// Answers a message.
    pub(in crate::runtime::plugin) fn reply(
        &self,
        member: MemberId,
        msg_ref: Ref,
        status: impl Into<ByteString>,
        payload: Payload,
    ) {
        let status = status.into();
        self.send(
            member,
            Delivery::Reply {
                member,
                msg_ref,
                status,
                payload,
            },
        );
    }

    /// Answers a message with an error, for this reason.
    pub(in crate::runtime::plugin) fn reply_error(&self, member: MemberId, msg_ref: Ref, reason: &str) {
        self.reply(
            member,
            msg_ref,
            ByteString::from_static("error"),
            Payload::reason(reason),
        );
    }

    /// Keeps a promise of a reply. The plugin itself answers a join.
    pub(in crate::runtime::plugin) fn keep(&self, promise: Promise, status: ByteString, payload: Payload) {
        match promise {
            Promise::Reply {
                member, msg_ref, trace, ..
            } => {
                trace.inspect(|trace| trace.end(&status));
                self.reply(member, msg_ref, status, payload);
            }
            Promise::Call { caller, trace, .. } => {
                trace.inspect(|trace| trace.end(&status));
                self.answer(&caller, Called::Replied { status, payload });
            }
            Promise::Join { .. } => {}
        }
    }

    /// Refuses a join.
    pub(in crate::runtime::plugin) fn refuse(&self, member: MemberId, reply: Payload) {
        self.send(member, Delivery::Refused { member, reply });
    }

    /// Tells a client what it hears before `terminate` runs.
    pub(in crate::runtime::plugin) fn announce(&self, ending: &Ending) {
        let member = ending.member;
        if let Some(leave) = &ending.leave {
            let ok = ByteString::from_static("ok");
            self.reply(member, leave.msg_ref.clone(), ok, Payload::EMPTY);
        }
        let notice = ending.notice;
        if matches!(notice, Notice::Close(_)) {
            self.send(member, Delivery::Ended { member, notice });
        }
    }

    /// Tells a client what it hears after `terminate`, and the I/O thread that nothing more comes.
    pub(in crate::runtime::plugin) fn farewell(&self, ending: &Ending) {
        let member = ending.member;
        let notice = ending.notice;
        if matches!(notice, Notice::Error(_)) {
            self.send(member, Delivery::Ended { member, notice });
        }
        // A connection that has gone has already forgotten its members.
        if ending.notice != Notice::None || ending.reason == reason::DUPLICATE_JOIN {
            self.send(member, Delivery::Gone { member });
        }
    }

    /// Ends a member whose join is not answered yet; the plugin does not know it. Unless its client has left, this answers the
    /// join, with the reason for the end.
    pub(in crate::runtime::plugin) fn end_pending(&self, topic: &Arc<Topic>, record: &mut Record, ending: &Ending) {
        let member = ending.member;
        if ending.leave.is_some() {
            self.announce(ending);
            self.dismiss(topic, record, member);
            return self.farewell(ending);
        }
        let why = match ending.notice {
            Notice::Error(message::reason::CHANNEL_CRASH) => Some(message::reason::JOIN_CRASHED),
            Notice::Error(why) | Notice::Close(Some(why)) => Some(why),
            Notice::Close(None) => Some(message::reason::RELOADED),
            Notice::None => None,
        };
        if let Some(why) = why {
            self.refuse(member, Payload::reason(why));
            return self.dismiss(topic, record, member);
        }
        self.dismiss(topic, record, member);
        // A member that another join has replaced has kept its place until now.
        self.farewell(ending);
    }

    /// Forgets a member. Events that waited for it are answered as if the topic was not joined.
    pub(in crate::runtime::plugin) fn dismiss(&self, topic: &Arc<Topic>, record: &mut Record, member: MemberId) {
        let (waiting, timers) = record.forget(member);
        for timer in timers {
            self.hub.timers.cancel(timer);
        }
        for waiting in waiting {
            if let Input::In { join_ref, msg_ref, .. } = waiting {
                self.orphan(topic, member, join_ref, msg_ref);
            }
        }
        self.linger(topic, record);
    }

    /// Lets a topic without members end after its linger time. It stays while it owes somebody an answer, or members that it had at
    /// another node may come back.
    pub(in crate::runtime::plugin) fn linger(&self, topic: &Arc<Topic>, record: &mut Record) {
        if record.members.is_empty() {
            let returns = record
                .stays_until
                .map(|until| until.saturating_duration_since(clock::now()));
            let owes = record.owes_answer().then_some(LOOK_AGAIN);
            let least = returns.max(owes).unwrap_or_default();
            let (number, linger) = (self.hub.timers.number(), self.slot.config().linger.max(least));
            let input = Input::Linger { epoch: record.epoch };
            // One timer per topic, however many members come and go before it is due.
            if let Some(before) = record.lingering.replace(number) {
                self.hub.timers.cancel(before);
            }
            self.hub
                .timers
                .set_deadline(number, linger, Arc::downgrade(topic), input);
        }
    }

    /// Answers an event whose channel is gone.
    pub(in crate::runtime::plugin) fn orphan(&self, topic: &Topic, member: MemberId, join_ref: Ref, msg_ref: Ref) {
        self.send(
            member,
            Delivery::Orphan {
                member,
                topic: topic.name.clone(),
                join_ref,
                msg_ref,
                status: "error",
            },
        );
    }

    /// Answers a leave whose channel is gone.
    pub(in crate::runtime::plugin) fn left(&self, topic: &Topic, member: MemberId, leave: &Leave) {
        self.send(
            member,
            Delivery::Orphan {
                member,
                topic: topic.name.clone(),
                join_ref: leave.join_ref.clone(),
                msg_ref: leave.msg_ref.clone(),
                status: "ok",
            },
        );
    }
}
