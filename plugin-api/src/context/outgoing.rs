//! What goes out to clients: pushes and broadcasts.

use super::{Context, MemberId};
use crate::abi::effect;
use crate::glue::Effect;
use crate::payload::IntoPayload;

impl<P> Context<P> {
    /// Pushes `event` to the member's client: a JSON object or [`Binary`](crate::Binary). Not in `join`, where the client is not
    /// in yet: there a message to oneself ([`Context::send`]) comes in time.
    pub fn push(&self, event: &str, payload: impl IntoPayload) {
        self.push_to(MemberId(self.member), event, payload);
    }

    /// Pushes `event` to the client of another member of the topic. Nothing happens if it is gone.
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

    /// Sends `event` to every client on the topic: a JSON object or [`Binary`](crate::Binary). Where it is one of
    /// [`INTERCEPTS`](crate::Channel::INTERCEPTS), `handle_out` decides for each member.
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

    /// Sends `event` to every client on the topic but the member's.
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

    /// Closes every connection with this socket id.
    pub fn disconnect(&self, socket_id: &str) {
        self.broadcast_to(socket_id, "disconnect", serde_json::Map::new());
    }
}
