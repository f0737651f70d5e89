//! Dispatches the messages of clients, as Phoenix does per connection.

use std::sync::Arc;

use bennu_plugin::abi::reason as end;
use bennu_plugin::wire::MemberInfo;
use bennu_wire::message::{Message, Outgoing, PHOENIX, Payload, Ref, RefText, TopicName, event, reason};
use bennu_wire::serializer::Incoming;
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::Core;
use super::spans::describe;
use crate::config::Route;
use crate::runtime::channel::{Ending, Input, Leave, Notice, Refused};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::id::MemberId;
use crate::runtime::plugin::JoinRefused;
use crate::server::limits::LimitName;
use crate::server::socket::{Channel, Identity, Status};

/// Channels of one client that were replaced and that their plugins still owe an ending: at least so many are kept.
const MIN_REPLACED: usize = 16;

/// The outcome of a message that was dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispatched {
    /// The host or a channel has it.
    Taken,
    /// There is no route, or the topic is not joined, or the join was refused at once.
    Refused,
    /// A plugin decides whether this member may join.
    Joining(MemberId),
}

impl Core {
    /// Reads a frame of the socket in `slot` and dispatches the message in it.
    ///
    /// # Errors
    ///
    /// If it is not a message of the socket's version.
    pub(super) fn incoming(&mut self, slot: usize, frame: Incoming) -> Result<(), bennu_wire::serializer::DecodeError> {
        let frame_bytes = frame.size();
        let message = self.sockets[slot].info.serializer.decode(frame)?;
        self.dispatch(slot, message, frame_bytes);
        Ok(())
    }

    /// Handles a message that came in a frame of this size. The messages of every transport and dialect come here.
    pub(super) fn dispatch(&mut self, slot: usize, message: Message, frame_bytes: usize) -> Dispatched {
        self.count_in(slot, frame_bytes);
        if self.sockets[slot].is_limited
            && let Some(dispatched) = self.beyond_client_limits(slot, &message, frame_bytes)
        {
            return dispatched;
        }
        let TopicName::Text(topic) = &message.topic else {
            return self.unmatched(slot, &message.join_ref, &message.msg_ref, &message.topic);
        };
        if &**topic == PHOENIX && &*message.event == event::HEARTBEAT {
            let msg_ref = message.msg_ref.as_deref();
            self.send(slot, &Outgoing::Heartbeat { msg_ref });
            return Dispatched::Taken;
        }
        match (self.sockets[slot].by_topic(topic), &*message.event) {
            (known, event::JOIN) => self.join(slot, known, &topic.clone(), message, frame_bytes),
            (None, event::LEAVE) if self.sockets[slot].info.dialect.answers_unmatched() => {
                let join_ref = message.join_ref.as_deref();
                self.reply(slot, join_ref, &message.msg_ref, &message.topic, "ok", &Payload::EMPTY);
                Dispatched::Taken
            }
            (None, _) => self.unmatched(slot, &message.join_ref, &message.msg_ref, &message.topic),
            (Some(channel), event::LEAVE) => self.leave(slot, channel, message),
            (Some(channel), event::ACCESS_TOKEN) if self.sockets[slot].info.shown.is_some() => {
                self.refresh(slot, channel, message, frame_bytes)
            }
            (Some(channel), _) => self.forward(slot, channel, message, frame_bytes),
        }
    }

    fn join(
        &mut self,
        slot: usize,
        known: Option<usize>,
        topic: &ByteString,
        message: Message,
        frame_bytes: usize,
    ) -> Dispatched {
        let routing = Arc::clone(self.routing());
        if topic.len() > routing.config.limits.max_topic_bytes {
            return self.refuse(slot, &message, reason::TOPIC_TOO_LONG);
        }
        let Some(room) = self.sockets[slot].info.dialect.room(topic, &message.payload) else {
            return self.unmatched(slot, &message.join_ref, &message.msg_ref, &message.topic);
        };
        if let Err(why) = self.take_token_of_join(slot, &message.payload) {
            return self.refuse(slot, &message, why);
        }
        let socket = &self.sockets[slot];
        let (transport, mount) = (
            socket.transport.as_ref().map_or("", |transport| transport.name()),
            &socket.info.mount,
        );
        let Some((route, plugin)) = routing.find(&room, transport, &mount.path) else {
            client_line!(
                WARN,
                self.hub().client_lines,
                "no route",
                Source::of(socket.info.peer),
                connection = socket.info.connection,
                peer = %socket.info.peer,
                topic = &*room,
                mount = mount.path,
                "join refused: no route matches the topic"
            );
            return self.unmatched(slot, &message.join_ref, &message.msg_ref, &message.topic);
        };
        let most = mount.max_channels_per_socket;
        let open = socket.channels.iter().filter(|channel| !channel.is_over()).count();
        if known.is_none() && open >= most {
            return self.refuse(slot, &message, reason::TOO_MANY_CHANNELS);
        }
        // Channels that were replaced keep their place until their plugin has caught up, and their refs until a join is answered.
        let replaced = known.map_or(0, |known| socket.channels[known].replaced.len());
        if socket.channels.len() - open + replaced >= most.max(MIN_REPLACED) {
            return self.refuse(slot, &message, reason::OVERLOADED);
        }
        if let Err(over) = route.take(true, frame_bytes, self.client_rates.now()) {
            return self.limited(slot, &message, LimitName::Route(over.limit), over);
        }
        let socket = &self.sockets[slot];
        let info = member_info(socket.info.identity.as_deref(), route);
        let replaced = match known {
            _ if !socket.info.dialect.names_joins() => self.silence(slot, known, &room),
            Some(channel) => self.replace(slot, channel),
            None => Vec::new(),
        };
        let member = self.new_member(slot);
        let trace = self.begin_span(slot, "join", &message.payload);
        if let Some(trace) = &trace {
            describe(trace, route, &room);
        }
        let Message {
            join_ref,
            msg_ref,
            payload,
            ..
        } = &message;
        let input = Input::Join {
            member,
            params: payload.clone(),
            info,
            frame_bytes,
            trace: trace.clone(),
        };
        match self.hub().enter(plugin, &room, input) {
            Ok(topic) => {
                let channel = Channel {
                    member,
                    topic,
                    route: Arc::clone(route),
                    plugin: plugin.index,
                    join_ref: join_ref.clone(),
                    msg_ref: msg_ref.clone(),
                    status: Status::Joining,
                    place: 0,
                    replaced,
                    waiting: None,
                    withheld: false,
                };
                let channels = &mut self.sockets[slot].channels;
                if channels.is_empty() {
                    // Most clients join one topic, and a vector reserves four places.
                    channels.reserve_exact(1);
                }
                channels.push(channel);
                Dispatched::Joining(member)
            }
            Err(refused) => {
                let reason = match refused {
                    JoinRefused::Unavailable => reason::UNAVAILABLE,
                    JoinRefused::Overloaded => reason::OVERLOADED,
                    JoinRefused::NoNode => reason::NODE_UNAVAILABLE,
                };
                trace.inspect(|trace| trace.end(reason));
                self.refuse(slot, &message, reason);
                self.close_replaced(slot, topic, &replaced);
                Dispatched::Refused
            }
        }
    }

    /// Ends the channel that a second join of its topic replaces. The channel keeps its place until all its messages are answered.
    /// Returns the refs of channels that the client has to be told of later.
    fn replace(&mut self, slot: usize, channel: usize) -> Vec<RefText> {
        self.unsubscribe(slot, channel);
        let old = &mut self.sockets[slot].channels[channel];
        old.status = Status::Ended;
        old.topic
            .owe(Input::End(Ending::new(old.member, end::DUPLICATE_JOIN, Notice::None)));
        let mut replaced = std::mem::take(&mut old.replaced);
        // Without a ref its client would take its end for that of the new channel.
        replaced.extend(old.join_ref.as_ref().or(old.msg_ref.as_ref()).cloned());
        replaced
    }

    /// Ends all channels that the client had of a topic without telling it, because it would take that for the end of the new one.
    /// Their messages are still answered.
    fn silence(&mut self, slot: usize, known: Option<usize>, topic: &str) -> Vec<RefText> {
        if let Some(known) = known {
            self.replace(slot, known);
        }
        for channel in &mut self.sockets[slot].channels {
            if channel.status == Status::Closing && *channel.topic.name == *topic {
                channel.status = Status::Ended;
            }
        }
        Vec::new()
    }

    /// Asks the channel to end, unless the leave belongs to an earlier join. A channel is left once: further leaves change nothing.
    fn leave(&mut self, slot: usize, index: usize, message: Message) -> Dispatched {
        let Message { join_ref, msg_ref, .. } = message;
        let channel = &mut self.sockets[slot].channels[index];
        if !channel.is_meant(&join_ref) || channel.status == Status::Leaving {
            return Dispatched::Taken;
        }
        channel.status = Status::Leaving;
        let leave = Some(Box::new(Leave { join_ref, msg_ref }));
        channel.topic.owe(Input::End(Ending {
            leave,
            ..Ending::new(channel.member, end::LEFT, Notice::Close(None))
        }));
        Dispatched::Taken
    }

    /// Hands an event to the channel, unless it belongs to an earlier join.
    pub(super) fn forward(&mut self, slot: usize, index: usize, message: Message, frame_bytes: usize) -> Dispatched {
        let channel = &self.sockets[slot].channels[index];
        if !channel.is_meant(&message.join_ref) {
            return Dispatched::Taken;
        }
        if let Err(over) = channel.route.take(false, frame_bytes, self.client_rates.now()) {
            return self.limited(slot, &message, LimitName::Route(over.limit), over);
        }
        let Message {
            join_ref,
            msg_ref,
            event,
            payload,
            ..
        } = message;
        let (member, topic) = (channel.member, Arc::clone(&channel.topic));
        let trace = self.begin_span(slot, "event", &payload);
        if let Some(trace) = &trace {
            trace.text("bennu.event", &event);
            describe(trace, &self.sockets[slot].channels[index].route, &topic.name);
        }
        let input = Input::In {
            member,
            join_ref: join_ref.clone(),
            msg_ref: msg_ref.clone(),
            event,
            payload,
            frame_bytes,
            trace: trace.clone(),
        };
        let Err(refused) = topic.push(input) else {
            return Dispatched::Taken;
        };
        let name = TopicName::Text(topic.name.clone());
        match refused {
            Refused::Overloaded => {
                trace.inspect(|trace| trace.end(reason::OVERLOADED));
                let own_ref = self.sockets[slot].channels[index].own_ref().map(ByteString::from);
                self.hub().metrics.overloads.inc();
                let payload = Payload::reason(reason::OVERLOADED);
                self.reply(slot, own_ref.as_deref(), &msg_ref, &name, "error", &payload);
                Dispatched::Taken
            }
            Refused::Closed => {
                trace.inspect(|trace| trace.end(reason::UNMATCHED_TOPIC));
                self.unmatched(slot, &join_ref, &msg_ref, &name)
            }
        }
    }

    /// Answers a message whose topic is not joined or has no route. Phoenix answers with a null `join_ref`; clients that look
    /// for their own would wait for it until they time out.
    fn unmatched(&mut self, slot: usize, join_ref: &Ref, msg_ref: &Ref, topic: &TopicName) -> Dispatched {
        if self.sockets[slot].info.dialect.answers_unmatched() {
            let payload = Payload::reason(reason::UNMATCHED_TOPIC);
            self.reply(slot, join_ref.as_deref(), msg_ref, topic, "error", &payload);
        }
        Dispatched::Refused
    }

    /// Refuses a join.
    fn refuse(&mut self, slot: usize, message: &Message, why: &str) -> Dispatched {
        if why == reason::OVERLOADED {
            self.hub().metrics.overloads.inc();
        }
        let (status, payload) = self.sockets[slot].info.dialect.refusal(&Payload::reason(why));
        let join_ref = message.join_ref.as_deref();
        self.reply(slot, join_ref, &message.msg_ref, &message.topic, status, &payload);
        Dispatched::Refused
    }

    pub(super) fn reply(
        &mut self,
        slot: usize,
        join_ref: Option<&str>,
        msg_ref: &Ref,
        topic: &TopicName,
        status: &str,
        payload: &Payload,
    ) {
        let msg_ref = msg_ref.as_deref();
        self.send(
            slot,
            &Outgoing::Reply {
                join_ref,
                msg_ref,
                topic,
                status,
                payload,
            },
        );
    }

    fn new_member(&mut self, slot: usize) -> MemberId {
        let serial = self.next_serial();
        // A slab index is below the 2^24 sockets that a thread can have.
        MemberId::new(self.thread(), slot as u32, serial)
    }
}

/// What a plugin learns of a member besides its join; empty if there is nothing.
pub(super) fn member_info(identity: Option<&Identity>, route: &Route) -> Bytes {
    if identity.is_none() && route.assigns.is_none() {
        return Bytes::new();
    }
    let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let json = |json: Option<&[u8]>| raw(std::str::from_utf8(json?).ok()?);
    let socket = identity.and_then(|identity| identity.assigns.as_deref());
    let claims = identity.and_then(|identity| identity.claims.as_deref());
    let info = MemberInfo {
        socket_id: identity
            .and_then(|identity| identity.socket_id.as_deref())
            .map(str::to_owned),
        socket: json(socket),
        claims: json(claims),
        route: route.assigns.as_deref().and_then(raw),
    };
    serde_json::to_vec(&info).map_or_else(|_| Bytes::new(), Bytes::from)
}
