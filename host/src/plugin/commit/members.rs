//! How members come and go: joins answered now or later, and what clients are told of an end.

use std::collections::VecDeque;
use std::sync::Arc;

use bennu_plugin::abi::reason;
use bytestring::ByteString;

use super::Commit;
use crate::channel::{Book, Ending, Input, Leave, Member, Notice, PendingJoin, Promise, Topic};
use crate::id::MemberId;
use crate::io::Entry;
use crate::message::{self, Payload};
use crate::plugin::batch::Step;
use crate::plugin::effects::Fx;
use crate::plugin::loader::Outcome;
use crate::plugin::shard::Env;

impl Commit<'_> {
    pub(super) fn finish_join(&mut self, step: &Step, outcome: Outcome, text: &str, mut fx: Vec<Fx>, book: &mut Book) {
        let Some(member) = step.member else { return };
        let answer = fx
            .iter()
            .position(|fx| matches!(fx, Fx::Accept(_) | Fx::Refuse(_) | Fx::Later(_)));
        let answer = answer.filter(|_| outcome == Outcome::Ok).map(|at| fx.remove(at));
        book.live = true;
        // Not in: nothing that concerns the member itself holds.
        if !matches!(answer, Some(Fx::Accept(_)))
            && let Some(presence) = &mut book.presence
        {
            presence.roll_back();
        }
        if let Input::Complete { serial, .. } = &step.input {
            book.promises.remove(serial);
        }
        match answer {
            Some(Fx::Accept(reply)) => {
                let joined = book.members.insert(member, Member::Joined(step.info.clone()));
                book.epoch += 1;
                if let Some(Member::Pending(pending)) = joined {
                    self.followups
                        .extend(pending.waiting.into_iter().map(|input| (step.topic, input)));
                    // What follows in the batch was planned for a member that waits.
                    self.back = true;
                }
                self.env.send(member, Entry::Joined { member, reply });
                let tracked = fx.iter().any(|fx| matches!(fx, Fx::Tracked(who) if *who == member));
                if tracked {
                    fx.insert(0, Fx::PresenceState(member));
                }
                self.apply_all(step, fx, book);
                return;
            }
            Some(Fx::Later(serial)) => self.postpone(step, member, serial, book),
            Some(Fx::Refuse(reply)) => {
                self.env.send(member, Entry::Refused { member, reply });
                self.env.dismiss(self.topic(step), book, member);
            }
            _ => {
                self.env.panicked(&self.topic(step).name, step.callback(), text);
                let reply = Payload::reason(message::reason::JOIN_CRASHED);
                self.env.send(member, Entry::Refused { member, reply });
                self.env.dismiss(self.topic(step), book, member);
                fx.clear();
            }
        }
        fx.retain(|fx| fx.concerns() != Some(member));
        self.apply_all(step, fx, book);
        self.back = true;
    }

    pub(super) fn postpone(&self, step: &Step, member: MemberId, serial: u64, book: &mut Book) {
        let waiting = match book.members.remove(&member) {
            Some(Member::Pending(pending)) => pending.waiting,
            _ => VecDeque::new(),
        };
        let pending = PendingJoin {
            serial,
            info: step.info.clone(),
            waiting,
        };
        book.members.insert(member, Member::Pending(Box::new(pending)));
        let by = self.env.generation;
        book.promises.insert(serial, Promise::Join { member, by });
        let (timers, deadline) = (&self.env.hub.timers, self.env.slot.config().join_deadline);
        timers.set(
            timers.number(),
            deadline,
            Arc::downgrade(self.topic(step)),
            Input::JoinDeadline { serial },
        );
    }
}

/// What members are told, whoever says it: a shard that commits, or the host in the place of one that does not return.
impl Env {
    pub(in crate::plugin) fn send(&self, member: MemberId, entry: Entry) {
        self.hub.pubsub.send(member, entry);
    }

    /// What a client is told before `terminate` runs.
    pub(in crate::plugin) fn announce(&self, ending: &Ending) {
        let member = ending.member;
        if let Some(leave) = &ending.leave {
            let (msg_ref, status) = (leave.msg_ref.clone(), ByteString::from_static("ok"));
            self.send(
                member,
                Entry::Reply {
                    member,
                    msg_ref,
                    status,
                    payload: Payload::EMPTY,
                },
            );
        }
        if ending.notice == Notice::Close {
            self.send(
                member,
                Entry::Ended {
                    member,
                    notice: Notice::Close,
                },
            );
        }
    }

    /// What a client is told after it, and that nothing more comes.
    pub(in crate::plugin) fn farewell(&self, ending: &Ending) {
        let member = ending.member;
        if ending.notice == Notice::Error {
            self.send(
                member,
                Entry::Ended {
                    member,
                    notice: Notice::Error,
                },
            );
        }
        // A connection that is gone has forgotten its members itself.
        if ending.notice != Notice::None || ending.reason == reason::DUPLICATE_JOIN {
            self.send(member, Entry::Gone { member });
        }
    }

    /// Ends a member whose join is not answered yet: the plugin does not know it. Unless its client left, the join is
    /// answered now, so that the client knows where it stands.
    pub(in crate::plugin) fn end_pending(&self, topic: &Arc<Topic>, book: &mut Book, ending: &Ending) {
        let member = ending.member;
        if ending.leave.is_some() {
            self.announce(ending);
            self.dismiss(topic, book, member);
            return self.farewell(ending);
        }
        if ending.notice != Notice::None {
            let reply = Payload::reason(message::reason::RELOADED);
            self.send(member, Entry::Refused { member, reply });
            return self.dismiss(topic, book, member);
        }
        self.dismiss(topic, book, member);
        // One that another join replaced has kept its place until now.
        self.farewell(ending);
    }

    /// Forgets a member; what waited for it is answered as for a topic that is not joined.
    pub(in crate::plugin) fn dismiss(&self, topic: &Arc<Topic>, book: &mut Book, member: MemberId) {
        let (waiting, timers) = book.forget(member);
        for timer in timers {
            self.hub.timers.cancel(timer);
        }
        for waiting in waiting {
            if let Input::In { msg_ref, .. } = waiting {
                self.orphan(topic, member, msg_ref);
            }
        }
        if book.members.is_empty() {
            let (number, linger) = (self.hub.timers.number(), self.slot.config().linger);
            let input = Input::Linger { epoch: book.epoch };
            // One for each topic, however many come and go before it is due.
            if let Some(before) = book.lingering.replace(number) {
                self.hub.timers.cancel(before);
            }
            self.hub.timers.set(number, linger, Arc::downgrade(topic), input);
        }
    }

    /// Answers an event whose channel is gone.
    pub(in crate::plugin) fn orphan(&self, topic: &Topic, member: MemberId, msg_ref: message::Ref) {
        self.send(
            member,
            Entry::Orphan {
                member,
                topic: topic.name.clone(),
                join_ref: None,
                msg_ref,
                status: "error",
            },
        );
    }

    /// Answers a leave whose channel is gone.
    pub(in crate::plugin) fn left(&self, topic: &Topic, member: MemberId, leave: &Leave) {
        self.send(
            member,
            Entry::Orphan {
                member,
                topic: topic.name.clone(),
                join_ref: leave.join_ref.clone(),
                msg_ref: leave.msg_ref.clone(),
                status: "ok",
            },
        );
    }
}
