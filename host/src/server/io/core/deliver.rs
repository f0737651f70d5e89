//! Deliveries: what shards have put into this thread's inbox becomes messages to clients.

use std::sync::Arc;

use bennu_plugin::abi::reason as end;
use bennu_wire::message::{Outgoing, Payload, Ref, RefText, TopicName, event, reason};
use bennu_wire::serializer::EncodeError;
use bytestring::ByteString;

use super::Core;
use super::sending::encode;
use crate::runtime::channel::{Ending, Input, Notice};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::delivery::Broadcast;
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;
use crate::server::closes::CloseReason;
use crate::server::io::Rerouted;
use crate::server::routing::Routing;
use crate::server::socket::{Channel, Encoding, Socket, Status, Waiting};
use crate::server::transport::Frame;
use crate::server::transport::longpoll::Published;

impl Core {
    /// Handles a delivery of a shard, for one client or for all subscribers of a topic.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Joined { member, reply } => self.joined(member, &reply),
            Delivery::Refused { member, reply } => self.refused(member, &reply),
            Delivery::Reply {
                member,
                msg_ref,
                status,
                payload,
            } => self.replied(member, &msg_ref, &status, &payload),
            Delivery::Orphan {
                member,
                topic,
                join_ref,
                msg_ref,
                status,
            } => self.orphaned(member, topic, &join_ref, &msg_ref, status),
            Delivery::Push { member, event, payload } => self.pushed(member, &event, &payload),
            Delivery::Broadcast(broadcast) => self.broadcast(&broadcast),
            Delivery::Ended { member, notice } => self.ended(member, notice),
            Delivery::Gone { member } => self.gone(member),
        }
    }

    /// A join is accepted. Subscribes first, so that the client misses no broadcast after the reply; but not if another join has
    /// replaced this one.
    fn joined(&mut self, member: MemberId, reply: &Payload) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let channel = &self.sockets[slot].channels[index];
        let (topic, status) = (channel.topic.name.clone(), channel.status);
        if status != Status::Ended {
            let connection = self.sockets[slot].info.connection;
            tracing::debug!(connection, topic = &*topic, "joined");
            let place = self.subscriptions.add(&topic, member);
            self.sockets[slot].channels[index].place = place;
        }
        let channel = &mut self.sockets[slot].channels[index];
        if status == Status::Joining {
            channel.status = Status::Joined;
        }
        let replaced = std::mem::take(&mut channel.replaced);
        self.answer_join(slot, index, "ok", reply, Published::Accepted);
        self.close_replaced(slot, &topic, &replaced);
    }

    /// Has a request wait for the outcome of the join that it brought.
    pub(super) fn await_join(&mut self, member: MemberId, waiting: Waiting) {
        if let Some((slot, index)) = self.locate(member) {
            self.sockets[slot].channels[index].waiting = Some(waiting);
        }
    }

    /// A join is refused: the topic is free again.
    fn refused(&mut self, member: MemberId, reply: &Payload) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let (status, reply) = self.sockets[slot].info.dialect.refusal(reply);
        self.answer_join(slot, index, status, &reply, Published::Refused);
        let channel = self.take_channel(slot, index);
        let connection = self.sockets[slot].info.connection;
        tracing::debug!(connection, topic = &*channel.topic.name, "join refused");
        if channel.status == Status::Ended {
            self.forget_replaced(slot, &channel);
        }
        self.close_replaced(slot, &channel.topic.name, &channel.replaced);
    }

    /// Answers a join, and its request if that one waits. A join that another one has replaced has no reply behind its close: the
    /// other room of its topic may have been faster.
    fn answer_join(&mut self, slot: usize, index: usize, status: &str, payload: &Payload, published: Published) {
        self.sockets[slot].channels[index].tell(published);
        let socket = &self.sockets[slot];
        let channel = &socket.channels[index];
        let is_replaced = channel.status == Status::Ended && channel.own_ref().is_some();
        if is_replaced && socket.info.dialect.names_joins() && self.waits_for_close(slot, channel).is_none() {
            return;
        }
        let reply = Outgoing::Reply {
            join_ref: channel.join_ref.as_deref(),
            msg_ref: channel.msg_ref.as_deref(),
            topic: &TopicName::Text(channel.topic.name.clone()),
            status,
            payload,
        };
        let frame = encode(socket.encoding(), &reply);
        self.send_encoded(slot, frame);
    }

    /// Closes the channels that a join replaced, after its reply, each with its own ref: with another one, or with null, the
    /// client would close the new channel.
    pub(super) fn close_replaced(&mut self, slot: usize, topic: &str, replaced: &[RefText]) {
        for own_ref in replaced {
            self.send_close(slot, topic, Some(own_ref));
        }
    }

    fn send_close(&mut self, slot: usize, topic: &str, own_ref: Option<&str>) {
        let close = Outgoing::End {
            join_ref: own_ref,
            topic,
            event: event::CLOSE,
            payload: &Payload::EMPTY,
        };
        self.send(slot, &close);
    }

    /// A refused join has opened no channel. If another join has replaced it meanwhile, that one closes none for it.
    fn forget_replaced(&mut self, slot: usize, refused: &Channel) {
        if let Some((index, at)) = self.waits_for_close(slot, refused) {
            self.sockets[slot].channels[index].replaced.remove(at);
        }
    }

    /// Which channel will close this replaced one once its own join is answered, and its place among those.
    fn waits_for_close(&self, slot: usize, replaced: &Channel) -> Option<(usize, usize)> {
        let socket = &self.sockets[slot];
        let (dialect, own_ref) = (socket.info.dialect, replaced.own_ref());
        let own_topic = dialect.topic_of(&replaced.topic.name);
        socket.channels.iter().enumerate().find_map(|(index, channel)| {
            let at = { channel.replaced.iter() }.position(|known| Some(&**known) == own_ref)?;
            (dialect.topic_of(&channel.topic.name) == own_topic).then_some((index, at))
        })
    }

    /// Answers a message.
    fn replied(&mut self, member: MemberId, msg_ref: &Ref, status: &str, payload: &Payload) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let socket = &self.sockets[slot];
        let channel = &socket.channels[index];
        let reply = Outgoing::Reply {
            join_ref: channel.own_ref(),
            msg_ref: msg_ref.as_deref(),
            topic: &TopicName::Text(channel.topic.name.clone()),
            status,
            payload,
        };
        let frame = encode(socket.encoding(), &reply);
        self.send_encoded(slot, frame);
    }

    /// Answers a message whose channel is gone, if its socket is not.
    fn orphaned(&mut self, member: MemberId, topic: ByteString, join_ref: &Ref, msg_ref: &Ref, status: &str) {
        let slot = member.slot();
        let (topic, msg_ref) = (TopicName::Text(topic), msg_ref.as_deref());
        // A socket's members have later serials than itself: so this one belonged to the socket that is there now.
        let own = |socket: &Socket| (member.number() as u32).wrapping_sub(socket.serial) < u32::MAX / 2;
        let answers = |socket: &&Socket| socket.info.dialect.answers_unmatched();
        if !self.sockets.get(slot).filter(answers).is_some_and(own) {
            return;
        }
        let payload = if status == "ok" {
            Payload::EMPTY
        } else {
            Payload::reason(reason::UNMATCHED_TOPIC)
        };
        self.send(
            slot,
            &Outgoing::Reply {
                join_ref: join_ref.as_deref(),
                msg_ref,
                topic: &topic,
                status,
                payload: &payload,
            },
        );
    }

    /// Pushes a message to one client.
    fn pushed(&mut self, member: MemberId, event: &str, payload: &Payload) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let socket = &self.sockets[slot];
        let channel = &socket.channels[index];
        if channel.status == Status::Ended && !socket.info.dialect.names_joins() {
            // Another join has replaced this one, and the client would take the message for the new channel's.
            return;
        }
        let push = Outgoing::Push {
            join_ref: channel.own_ref(),
            topic: &channel.topic.name,
            event,
            payload,
        };
        match encode(socket.encoding(), &push) {
            Ok(frame) => {
                let replaceable = self.sockets[slot].channels[index].replaceable(event);
                self.send_frame(slot, &frame, replaceable);
            }
            Err(error) => self.withhold(slot, index, event, &error),
        }
    }

    /// A message of this channel cannot be sent to its client. Each is counted, and the first is logged.
    fn withhold(&mut self, slot: usize, index: usize, event: &str, error: &EncodeError) {
        self.hub().metrics.withheld_messages.inc();
        let channel = &mut self.sockets[slot].channels[index];
        if std::mem::replace(&mut channel.withheld, true) {
            return;
        }
        let socket = &self.sockets[slot];
        client_line!(
            WARN,
            self.hub().client_lines,
            "withheld",
            Source::of(socket.info.peer),
            connection = socket.info.connection,
            peer = %socket.info.peer,
            topic = &*socket.channels[index].topic.name,
            event,
            %error,
            "message not sent: this client cannot receive it. Further ones on this channel are only counted"
        );
    }

    /// Sends a message to all subscribers on this thread. Encodes it once for each encoding that they use.
    fn broadcast(&mut self, broadcast: &Arc<Broadcast>) {
        let Broadcast {
            topic,
            event,
            payload,
            except,
            intercepted_by,
            reach,
        } = &**broadcast;
        let mut reached = 0;
        let mut disconnected = None;
        if &**event == event::DISCONNECT {
            // Only a backend wants to know how many there were.
            let who = match reach {
                Some(_) => CloseReason::DisconnectedByBackend,
                None => CloseReason::Disconnected,
            };
            disconnected = Some(self.disconnect(topic, who));
        }
        let mut frames: Vec<(Encoding, Result<Frame, EncodeError>)> = Vec::new();
        // No member subscribes or unsubscribes during the walk: slow clients are closed at the end of the turn.
        let subscribers = self.subscriptions.lend(topic);
        for &member in &subscribers {
            if Some(member) == *except {
                continue;
            }
            let Some((slot, index)) = self.locate(member) else {
                continue;
            };
            let socket = &self.sockets[slot];
            if !intercepted_by.is_empty() && intercepted_by.contains(&socket.channels[index].plugin) {
                continue;
            }
            let (encoding, closing) = (socket.encoding(), socket.closing);
            let known = frames.iter().position(|(known, _)| *known == encoding);
            let at = known.unwrap_or_else(|| {
                frames.push((
                    encoding,
                    encode(encoding, &Outgoing::Broadcast { topic, event, payload }),
                ));
                frames.len() - 1
            });
            match &frames[at].1 {
                Ok(frame) => {
                    let replaceable = self.sockets[slot].channels[index].replaceable(event);
                    reached += usize::from(self.send_frame(slot, frame, replaceable) && !closing);
                }
                Err(error) => self.withhold(slot, index, event, error),
            }
        }
        self.subscriptions.take_back(topic, subscribers);
        if let Some(reach) = reach {
            reach.add(disconnected.unwrap_or(reached));
        }
    }

    /// Closes every connection with this socket id. Returns how many there were.
    fn disconnect(&mut self, socket_id: &str, reason: CloseReason) -> usize {
        let mut slots = self.slots_of(socket_id);
        slots.retain(|slot| self.sockets.get(*slot).is_some_and(|socket| !socket.closing));
        for slot in &slots {
            self.close(*slot, reason);
        }
        slots.len()
    }

    /// A channel has ended: tells its client, frees its topic, and unsubscribes it.
    fn ended(&mut self, member: MemberId, notice: Notice) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let (event, payload) = match notice {
            Notice::None => return,
            Notice::Close(None) => (event::CLOSE, Payload::EMPTY),
            Notice::Close(Some(reason)) => (event::CLOSE, Payload::reason(reason)),
            Notice::Error(reason) => (event::ERROR, Payload::reason(reason)),
        };
        self.unsubscribe(slot, index);
        let closes_last = self.sockets[slot].info.dialect.closes_last();
        let channel = &mut self.sockets[slot].channels[index];
        match (notice, channel.status) {
            // Another join has replaced it, and the client is told behind the reply to that one.
            (_, Status::Ended) => return,
            (Notice::Close(_), _) if closes_last => {
                channel.status = Status::Closing;
                return;
            }
            _ => channel.status = Status::Ended,
        }
        let (topic, own_ref) = (channel.topic.name.clone(), channel.own_ref().map(Box::from));
        let replaced = std::mem::take(&mut channel.replaced);
        self.send(
            slot,
            &Outgoing::End {
                join_ref: own_ref.as_deref(),
                topic: &topic,
                event,
                payload: &payload,
            },
        );
        self.close_replaced(slot, &topic, &replaced);
    }

    /// No further delivery comes for a member.
    fn gone(&mut self, member: MemberId) {
        let Some((slot, index)) = self.locate(member) else {
            return;
        };
        let mut channel = self.take_channel(slot, index);
        channel.tell(Published::Refused);
        if channel.status == Status::Closing {
            self.send_close(slot, &channel.topic.name, channel.own_ref());
        }
    }

    /// Takes up other routes. Clients whose topic has another plugin now are told, and rejoin there. Returns whose they were.
    pub(super) fn reroute(&mut self, routing: Arc<Routing>) -> Rerouted {
        let mut rerouted = Rerouted::new();
        let limits = &routing.config.limits;
        for (_, socket) in &mut self.sockets {
            if let Some(transport) = &mut socket.transport {
                transport.limit(limits.max_message_bytes, limits.max_outbound_bytes);
            }
            let transport = socket.transport.as_ref().map_or("", |transport| transport.name());
            for channel in socket.channels.iter_mut().filter(|channel| !channel.is_over()) {
                let notice = match routing.find(&channel.topic.name, transport, &socket.info.mount.path) {
                    Some((route, plugin)) if plugin.index == channel.plugin => {
                        channel.route = Arc::clone(route);
                        continue;
                    }
                    Some(_) => Notice::Error(reason::REROUTED),
                    None => Notice::Close(Some(reason::UNMATCHED_TOPIC)),
                };
                *rerouted.entry(channel.plugin).or_default() += 1;
                channel
                    .topic
                    .owe(Input::End(Ending::new(channel.member, end::REROUTED, notice)));
            }
        }
        self.set_routing(routing);
        rerouted
    }

    /// Removes a channel from its socket.
    pub(super) fn take_channel(&mut self, slot: usize, index: usize) -> Channel {
        self.unsubscribe(slot, index);
        self.sockets[slot].channels.swap_remove(index)
    }

    /// Unsubscribes a channel from the broadcasts of its topic.
    pub(super) fn unsubscribe(&mut self, slot: usize, index: usize) {
        let channel = &self.sockets[slot].channels[index];
        let (topic, place, member) = (channel.topic.name.clone(), channel.place, channel.member);
        if self.subscriptions.of(&topic).get(place as usize) != Some(&member) {
            return;
        }
        if let Some(moved) = self.subscriptions.remove(&topic, place)
            && let Some((slot, index)) = self.locate(moved)
        {
            self.sockets[slot].channels[index].place = place;
        }
    }

    /// The slot of a member's socket and the index of its channel, if they exist.
    fn locate(&self, member: MemberId) -> Option<(usize, usize)> {
        let slot = member.slot();
        Some((slot, self.sockets.get(slot)?.by_member(member)?))
    }
}
