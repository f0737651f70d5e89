//! Members of other nodes in topics whose home this node is.
//!
//! The home allots each of them a number like those of its own members: in place of the I/O thread stands the outlet of other nodes,
//! in place of the connection the session of the link. So a topic's plugin, record and mailbox do not know that it is far away.

use std::sync::Arc;

use bennu_plugin::abi::reason as end;
use bennu_wire::message::{Payload, event, reason};
use bytestring::ByteString;

use super::peers::Wait;
use super::{Event, Exchange};
use crate::cluster::fault;
use crate::cluster::item::{Answer, Item, read_ref, written};
use crate::cluster::table::{Place, Table};
use crate::runtime::channel::{Called, Create, Ending, Input, Leave, Notice, Refused};
use crate::runtime::delivery::{Broadcast, Delivery};
use crate::runtime::id::MemberId;
use crate::runtime::plugin::{self as runtime, JoinRefused, NotCalled, Published};
use crate::runtime::reach::Heard;

impl Exchange {
    fn guest_id(&self, session: u32, serial: u32) -> MemberId {
        MemberId::new(self.hub.pubsub.nodes(), session, serial)
    }

    /// Handles what only the home of a topic is asked.
    pub(super) fn take_as_home(&mut self, session: u32, item: Item) {
        match item {
            Item::Join {
                member,
                plugin,
                topic,
                revision,
                params,
                info,
            } => {
                let join = |member| Input::Join {
                    member,
                    frame_bytes: topic.len() + Payload::from(params.clone()).bytes().len(),
                    params: params.into(),
                    info,
                    trace: None,
                };
                let topic = ByteString::from(&*topic);
                if let Err(why) = self.let_in(session, member, (&plugin, &topic, revision), join) {
                    let reply = Payload::reason(why).into();
                    self.send_to(session, &Item::Refused { member, reply });
                }
            }
            Item::In {
                member,
                join_ref,
                msg_ref,
                event,
                payload,
            } => self.hand_in(session, member, (join_ref, msg_ref), event, payload.into()),
            Item::Claims { member, info } => {
                if let Some((serial, guest)) = self.guests.of(session, member) {
                    let member = self.guest_id(session, serial);
                    guest.topic.owe(Input::Claims { member, info });
                }
            }
            Item::End {
                member,
                reason,
                leave,
                notice,
            } => self.end_guest(session, member, reason, leave, notice.into()),
            Item::Publish {
                revision,
                topic,
                event,
                payload,
                count,
            } => self.publish_here(session, revision, topic.into(), event.into(), payload.into(), count),
            Item::Info {
                revision,
                topic,
                name,
                payload,
            } => {
                let topic = ByteString::from(topic);
                if self.is_home(&topic, revision) {
                    self.info_here(&topic, name.into(), payload.into());
                } else {
                    self.hub.metrics.undelivered.inc();
                }
            }
            Item::Call {
                id,
                revision,
                topic,
                event,
                payload,
                create,
            } => {
                let topic = ByteString::from(topic);
                self.call_here(session, id, (&topic, revision), event.into(), payload.into(), create);
            }
            _ => {}
        }
    }

    /// Whether this node is the topic's home, under this revision. Counts if it is not.
    fn is_home(&self, topic: &str, revision: u64) -> bool {
        let entry = self.shared.table.of(topic);
        let is_home = entry.place.is_here() && entry.revision == revision;
        if !is_home {
            self.shared.counts.fenced.inc();
        }
        is_home
    }

    fn let_in(
        &mut self,
        session: u32,
        theirs: u64,
        (plugin, topic, revision): (&str, &ByteString, u64),
        join: impl FnOnce(MemberId) -> Input,
    ) -> Result<(), &'static str> {
        let shared = Arc::clone(&self.shared);
        // Nobody else becomes the home before the topic is there, so that whoever takes it away finds it.
        let entries = shared.table.read();
        let entry = &entries[Table::index(&entries, topic)];
        if !matches!(entry.place, Place::Here) || entry.revision != revision {
            shared.counts.fenced.inc();
            return Err(reason::NODE_UNAVAILABLE);
        }
        let routes = self.hub.routes();
        let Some(slot) = routes.lead_to(topic, plugin) else {
            shared.counts.unrouted.inc();
            tracing::warn!(
                topic = &**topic,
                plugin,
                "join of another node refused: no route of this node leads this topic to this plugin. All nodes need the same routes"
            );
            return Err(reason::NODE_UNAVAILABLE);
        };
        if self.guests.count() >= self.config.max_guests {
            return Err(reason::OVERLOADED);
        }
        let serial = self.guests.next();
        let join = join(self.guest_id(session, serial));
        let hub = &self.hub;
        let entered = slot
            .enter(topic, || hub.number(), join)
            .map_err(|refused| match refused {
                JoinRefused::Unavailable => reason::UNAVAILABLE,
                JoinRefused::Overloaded => reason::OVERLOADED,
                JoinRefused::NoNode => reason::NODE_UNAVAILABLE,
            });
        let entered = entered.inspect_err(|why| {
            if *why == reason::OVERLOADED {
                hub.metrics.overloads.inc();
            }
        })?;
        self.guests.add(session, theirs, entered, serial);
        Ok(())
    }

    fn hand_in(
        &mut self,
        session: u32,
        member: u64,
        (join_ref, msg_ref): (Option<String>, Option<String>),
        event: String,
        payload: Payload,
    ) {
        let orphan = |topic: ByteString, join_ref, msg_ref| Item::Orphan {
            member,
            topic: topic.to_string(),
            join_ref,
            msg_ref,
            is_leave: false,
        };
        let Some((serial, guest)) = self.guests.of(session, member) else {
            if let Some(topic) = self.guests.topic_of_ended(session, member) {
                self.send_to(session, &orphan(topic, join_ref, msg_ref));
            }
            return;
        };
        let topic = Arc::clone(&guest.topic);
        let input = Input::In {
            member: self.guest_id(session, serial),
            join_ref: read_ref(join_ref.clone()),
            msg_ref: read_ref(msg_ref.clone()),
            frame_bytes: event.len() + payload.bytes().len(),
            event: event.into(),
            payload,
            trace: None,
        };
        match topic.push(input) {
            Ok(()) => {}
            Err(Refused::Closed) => self.send_to(session, &orphan(topic.name.clone(), join_ref, msg_ref)),
            Err(Refused::Overloaded) => {
                self.hub.metrics.overloads.inc();
                let item = Item::Reply {
                    member,
                    msg_ref,
                    status: "error".to_owned(),
                    payload: Payload::reason(reason::OVERLOADED).into(),
                };
                self.send_to(session, &item);
            }
        }
    }

    fn end_guest(
        &mut self,
        session: u32,
        member: u64,
        reason: u32,
        leave: Option<(Option<String>, Option<String>)>,
        notice: Notice,
    ) {
        let Some((serial, guest)) = self.guests.of(session, member) else {
            let topic = self.guests.topic_of_ended(session, member);
            if let (Some(topic), Some((join_ref, msg_ref))) = (topic, leave) {
                let item = Item::Orphan {
                    member,
                    topic: topic.to_string(),
                    join_ref,
                    msg_ref,
                    is_leave: true,
                };
                self.send_to(session, &item);
            }
            return;
        };
        let leave = leave.map(|(join_ref, msg_ref)| {
            Box::new(Leave {
                join_ref: read_ref(join_ref),
                msg_ref: read_ref(msg_ref),
            })
        });
        guest.topic.owe(Input::End(Ending {
            leave,
            ..Ending::new(self.guest_id(session, serial), reason, notice)
        }));
        if is_last_word(notice, reason) {
            self.guests.remove(serial);
        }
    }

    /// The link of these members has broken. Returns how many there were.
    pub(super) fn end_guests(&mut self, session: u32) -> usize {
        let serials = self.guests.of_session(session);
        for serial in &serials {
            let member = self.guest_id(session, *serial);
            if let Some(guest) = self.guests.remove(*serial) {
                guest
                    .topic
                    .owe(Input::End(Ending::new(member, end::CLOSED, Notice::None)));
            }
        }
        self.guests.forget_ended(session);
        serials.len()
    }

    /// Gives a topic a message of another one.
    pub(super) fn info_here(&self, topic: &ByteString, name: ByteString, payload: Payload) {
        let given = match self.hub.routes().place(topic) {
            Some(runtime::Place::Alive(_, topic)) => topic.push(Input::info(name, payload)).is_ok(),
            _ => false,
        };
        if !given {
            self.hub.metrics.undelivered.inc();
            tracing::debug!(
                topic = &**topic,
                "a message of another node to a topic that does not exist, or has too much to do"
            );
        }
    }

    fn publish_here(
        &mut self,
        session: u32,
        revision: u64,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        count: Option<u64>,
    ) {
        if !self.is_home(&topic, revision) {
            self.hub.metrics.undelivered.inc();
            if let Some(id) = count {
                let heard = Heard::default();
                let _ = self.say.send(Event::Counted(session, id, heard));
            }
            return;
        }
        let Some(id) = count else {
            return self.hub.broadcast_to(topic, event, payload);
        };
        let Published { reached, intercepted } = self.hub.broadcast_counted(topic, event, payload, &self.reached);
        let say = self.say.clone();
        tokio::spawn(async move {
            let mut heard = reached.await.unwrap_or_default();
            heard.intercepted += intercepted;
            let _ = say.send(Event::Counted(session, id, heard));
        });
    }

    fn call_here(
        &mut self,
        session: u32,
        id: u64,
        (topic, revision): (&ByteString, u64),
        event: ByteString,
        payload: Payload,
        create: Create,
    ) {
        let say = self.say.clone();
        let answer = move |answer| drop(say.send(Event::Answered(session, id, answer)));
        if !self.is_home(topic, revision) {
            return answer(Answer::Refused(reason::NODE_UNAVAILABLE.to_owned()));
        }
        match self.hub.call(topic, event, payload, create, &None) {
            Ok(called) => drop(tokio::spawn(async move {
                let called: Called = called.await;
                answer(called.into());
            })),
            Err(why) => answer(match why {
                NotCalled::NoRoute | NotCalled::NotAlive => Answer::NotAlive,
                NotCalled::Overloaded => Answer::Refused(reason::OVERLOADED.to_owned()),
                NotCalled::Unavailable => Answer::Refused(reason::UNAVAILABLE.to_owned()),
                NotCalled::NoNode => Answer::Refused(reason::NODE_UNAVAILABLE.to_owned()),
            }),
        }
    }

    /// Sends on what a topic has for its members on other nodes.
    pub(super) fn deliver_to_guests(&mut self, delivery: Delivery) {
        let member = match &delivery {
            Delivery::Broadcast(broadcast) => return self.broadcast_to_nodes(broadcast),
            Delivery::Joined { member, .. }
            | Delivery::Refused { member, .. }
            | Delivery::Reply { member, .. }
            | Delivery::Orphan { member, .. }
            | Delivery::Push { member, .. }
            | Delivery::Ended { member, .. }
            | Delivery::Gone { member } => *member,
        };
        let (session, serial) = (member.slot() as u32, member.number() as u32);
        // What waited behind a join is answered after the join was refused, when its member has ended.
        let known = match &delivery {
            Delivery::Orphan { .. } => self.guests.theirs(session, serial),
            _ => self.guests.get(session, serial).map(|guest| guest.theirs),
        };
        let Some(theirs) = known else { return };
        match &delivery {
            Delivery::Joined { .. } => self.guests.joined(serial),
            Delivery::Ended { .. } => self.guests.leaves_audience(serial),
            Delivery::Refused { .. } | Delivery::Gone { .. } => drop(self.guests.remove(serial)),
            _ => {}
        }
        if let Some(item) = to_member(theirs, delivery) {
            self.send_to(session, &item);
        }
    }

    fn broadcast_to_nodes(&mut self, broadcast: &Arc<Broadcast>) {
        let Broadcast {
            topic,
            event,
            payload,
            except,
            intercepted_by,
            reach,
        } = &**broadcast;
        if &**event == event::DISCONNECT {
            for session in self.sessions.keys().copied().collect::<Vec<_>>() {
                let part = reach.as_ref().map(|_| Wait::Part(Arc::clone(broadcast)));
                let count = part.and_then(|part| self.wait(session, part));
                let socket_id = topic.to_string();
                self.send_to(session, &Item::Disconnect { socket_id, count });
            }
            return;
        }
        let audience = self.guests.audience(topic);
        if audience.is_empty() || fault::loses_broadcast() {
            return;
        }
        let entry = self.shared.table.of(topic);
        if !entry.place.is_here() {
            self.shared.counts.fenced.inc();
            return;
        }
        let routes = self.hub.routes();
        let named = routes
            .plugins
            .values()
            .filter(|slot| intercepted_by.contains(&slot.index));
        let intercepted_by: Vec<String> = named.map(|slot| slot.name.clone()).collect();
        for session in audience {
            let except = except.filter(|member| member.thread() == usize::from(self.hub.pubsub.nodes()));
            let except = except.and_then(|member| self.guests.get(session, member.number() as u32));
            let except = except.map(|guest| guest.theirs);
            let part = reach.as_ref().map(|_| Wait::Part(Arc::clone(broadcast)));
            let item = Item::Broadcast {
                revision: entry.revision,
                topic: topic.to_string(),
                event: event.to_string(),
                payload: payload.clone().into(),
                except,
                intercepted_by: intercepted_by.clone(),
                count: part.and_then(|part| self.wait(session, part)),
            };
            self.send_to(session, &item);
        }
    }
}

/// Whether no delivery comes for a member that ends in this way: its connection has forgotten it.
pub(super) fn is_last_word(notice: Notice, reason: u32) -> bool {
    notice == Notice::None && reason != end::DUPLICATE_JOIN
}

/// A delivery for one member, as its own node knows it.
fn to_member(member: u64, delivery: Delivery) -> Option<Item> {
    Some(match delivery {
        Delivery::Joined { reply, .. } => Item::Joined {
            member,
            reply: reply.into(),
        },
        Delivery::Refused { reply, .. } => Item::Refused {
            member,
            reply: reply.into(),
        },
        Delivery::Reply {
            msg_ref,
            status,
            payload,
            ..
        } => Item::Reply {
            member,
            msg_ref: written(&msg_ref),
            status: status.to_string(),
            payload: payload.into(),
        },
        Delivery::Orphan {
            topic,
            join_ref,
            msg_ref,
            status,
            ..
        } => Item::Orphan {
            member,
            topic: topic.to_string(),
            join_ref: written(&join_ref),
            msg_ref: written(&msg_ref),
            is_leave: status == "ok",
        },
        Delivery::Push { event, payload, .. } => Item::Push {
            member,
            event: event.to_string(),
            payload: payload.into(),
        },
        Delivery::Ended { notice, .. } => Item::Ended {
            member,
            notice: notice.into(),
        },
        Delivery::Gone { .. } => Item::Gone { member },
        Delivery::Broadcast(_) => return None,
    })
}
