//! Pushes, broadcasts, and messages to other topics.

use super::{Context, MemberId};
use crate::abi::effect;
use crate::glue::Effect;
use crate::payload::IntoPayload;

impl<P> Context<P> {
    /// Pushes `event` to the member's client. The payload is a JSON object or [`Binary`](crate::Binary). In `join` the client has
    /// not joined yet: send a message to the member instead ([`Context::send`]), and push when it arrives.
    pub fn push(&self, event: &str, payload: impl IntoPayload) {
        self.push_to(MemberId(self.member), event, payload);
    }

    /// Pushes `event` to the client of another member of the topic. Does nothing if that member is gone.
    pub fn push_to(&self, member: MemberId, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::PUSH,
                member: member.0,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on the topic. The payload is a JSON object or [`Binary`](crate::Binary). An event of
    /// [`INTERCEPTS`](crate::Channel::INTERCEPTS) goes through `handle_out` of each member.
    pub fn broadcast(&self, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on the topic except the member's own.
    pub fn broadcast_from(&self, event: &str, payload: impl IntoPayload) {
        let member = self.member;
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                member,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on another topic, whichever plugin serves it.
    pub fn broadcast_to(&self, topic: &str, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                topic,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends the message `name` to another topic, whichever plugin serves it. It arrives in
    /// [`handle_topic_info`](crate::Channel::handle_topic_info), behind what waits for that topic already. Nobody gets the message
    /// if the topic does not exist, or if too many messages wait for it; the host counts it
    /// (`bennu_messages_undelivered_total`), and in the latter case writes a line to the log. A stored topic wakes up for it. Messages between two topics keep their order.
    pub fn send_to(&self, topic: &str, name: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::SEND_TO,
                topic,
                name: name.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Closes all connections with this socket id.
    pub fn disconnect(&self, socket_id: &str) {
        self.broadcast_to(socket_id, "disconnect", serde_json::Map::new());
    }
}
