//! The messages of a channel, whatever encoding brought them: what Phoenix calls `Phoenix.Socket.Message`, `Reply` and
//! `Broadcast`.
//!
//! Payloads are raw bytes. Nothing here looks inside them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;

pub use crate::ref_text::{MAX_REF_BYTES, RefText, RefTooLong};

/// The payload of a message: JSON text, known to be valid, or bytes that nobody has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON text.
    Json(Bytes),
    /// Anything.
    Binary(Bytes),
}

impl Payload {
    /// `{}`.
    pub const EMPTY: Self = Self::Json(Bytes::from_static(b"{}"));

    /// Whether it is a JSON object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        matches!(self, Self::Json(json) if json.trim_ascii_start().starts_with(b"{"))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    /// Whether it is binary.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        matches!(self, Self::Binary(_))
    }

    /// The payload for a transport that carries only text: binary becomes `{"_binary":"…"}`, in standard base64.
    #[must_use]
    pub fn as_text(&self) -> Self {
        match self {
            Self::Json(_) => self.clone(),
            Self::Binary(bytes) => Self::Json(
                serde_json::json!({ "_binary": STANDARD.encode(bytes) })
                    .to_string()
                    .into(),
            ),
        }
    }

    /// `{"reason":"…"}`, with one of [`reason`].
    #[must_use]
    pub fn reason(reason: &str) -> Self {
        Self::Json(serde_json::json!({ "reason": reason }).to_string().into())
    }

    /// The same with a time after which to try again.
    #[must_use]
    pub fn reason_until(reason: &str, retry_after_ms: u64) -> Self {
        let payload = serde_json::json!({ "reason": reason, "retry_after_ms": retry_after_ms });
        Self::Json(payload.to_string().into())
    }
}

/// A `ref` or `join_ref`: any JSON value, kept as the client wrote it and compared byte for byte (`"1"` is not `1`).
/// `None` is null.
pub type Ref = Option<RefText>;

/// The topic of an incoming message. Only text can name a topic; anything else is answered as unmatched, echoed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicName {
    /// A name.
    Text(ByteString),
    /// JSON text of something that is no string.
    Other(ByteString),
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which of the client's joins it belongs to. JSON text.
    pub join_ref: Ref,
    /// What a reply repeats. JSON text.
    pub msg_ref: Ref,
    /// Where it goes.
    pub topic: TopicName,
    /// What it is. An event that is no JSON string is kept as its JSON text.
    pub event: ByteString,
    /// What it says.
    pub payload: Payload,
}

/// What a client is sent.
#[derive(Clone, Copy, Debug)]
pub enum Outgoing<'a> {
    /// Answers the message `msg_ref`.
    Reply {
        /// Of the channel, or null.
        join_ref: Option<&'a str>,
        /// Of the message that is answered, or null.
        msg_ref: Option<&'a str>,
        /// The topic.
        topic: &'a TopicName,
        /// `ok`, `error`, or what the plugin likes.
        status: &'a str,
        /// The response.
        payload: &'a Payload,
    },
    /// From one channel to its client.
    Push {
        /// Of the channel, or null.
        join_ref: Option<&'a str>,
        /// The topic.
        topic: &'a str,
        /// The event.
        event: &'a str,
        /// What it says.
        payload: &'a Payload,
    },
    /// To every subscriber of a topic.
    Broadcast {
        /// The topic.
        topic: &'a str,
        /// The event.
        event: &'a str,
        /// What it says.
        payload: &'a Payload,
    },
    /// Answers a heartbeat, in the way of each version.
    Heartbeat {
        /// Of the heartbeat, or null.
        msg_ref: Option<&'a str>,
    },
    /// `phx_close` or `phx_error`: the channel has ended. The `ref` is the `join_ref`.
    End {
        /// Of the channel, or null.
        join_ref: Option<&'a str>,
        /// The topic.
        topic: &'a str,
        /// [`event::CLOSE`] or [`event::ERROR`].
        event: &'a str,
        /// `{}`, or why.
        payload: &'a Payload,
    },
}

impl<'a> Outgoing<'a> {
    /// What it says.
    #[must_use]
    pub fn payload(&self) -> &'a Payload {
        match self {
            Self::Reply { payload, .. }
            | Self::Push { payload, .. }
            | Self::Broadcast { payload, .. }
            | Self::End { payload, .. } => payload,
            Self::Heartbeat { .. } => &EMPTY,
        }
    }

    /// The same message with another payload.
    #[must_use]
    pub fn with_payload(mut self, other: &'a Payload) -> Self {
        match &mut self {
            Self::Reply { payload, .. }
            | Self::Push { payload, .. }
            | Self::Broadcast { payload, .. }
            | Self::End { payload, .. } => *payload = other,
            Self::Heartbeat { .. } => {}
        }
        self
    }
}

static EMPTY: Payload = Payload::EMPTY;

/// The topic of heartbeats, as [`Outgoing::Reply`] has it.
pub(crate) static PHOENIX_TOPIC: TopicName = TopicName::Text(ByteString::from_static(PHOENIX));

/// The events that the protocol reserves.
pub mod event {
    /// A client joins.
    pub const JOIN: &str = "phx_join";
    /// A client leaves.
    pub const LEAVE: &str = "phx_leave";
    /// A reply.
    pub const REPLY: &str = "phx_reply";
    /// A channel ended normally.
    pub const CLOSE: &str = "phx_close";
    /// A channel ended abnormally.
    pub const ERROR: &str = "phx_error";
    /// Keep-alive, on topic [`super::PHOENIX`].
    pub const HEARTBEAT: &str = "heartbeat";
    /// Broadcast on a socket id, it closes that socket.
    pub const DISCONNECT: &str = "disconnect";
    /// The whole presence list.
    pub const PRESENCE_STATE: &str = "presence_state";
    /// What changed in it.
    pub const PRESENCE_DIFF: &str = "presence_diff";
    /// A client shows a new token.
    pub const ACCESS_TOKEN: &str = "access_token";
}

/// The topic of heartbeats.
pub const PHOENIX: &str = "phoenix";

/// Reasons that the host itself gives in an error reply or a `phx_error`.
pub mod reason {
    /// No route, or none any more, or not joined.
    pub const UNMATCHED_TOPIC: &str = "unmatched topic";
    /// The socket has as many channels as it may have.
    pub const TOO_MANY_CHANNELS: &str = "too many channels joined";
    /// The join panicked.
    pub const JOIN_CRASHED: &str = "join crashed";
    /// The channel ended abnormally.
    pub const CHANNEL_CRASH: &str = "channel_crash";
    /// The channel's mailbox is full.
    pub const OVERLOADED: &str = "overloaded";
    /// The client, or all clients of the route together, send more than they may. `retry_after_ms` says when to try again.
    pub const RATE_LIMITED: &str = "rate limited";
    /// The topic's name is longer than it may be.
    pub const TOPIC_TOO_LONG: &str = "topic too long";
    /// The plugin that serves the topic is not in service.
    pub const UNAVAILABLE: &str = "plugin unavailable";
    /// A join that answers later did not, in time.
    pub const JOIN_TIMEOUT: &str = "join timeout";
    /// The topic's plugin was replaced: before it answered, or without the topic's state.
    pub const RELOADED: &str = "reloaded";
    /// The topic's state cannot be stored, or its store cannot be read.
    pub const STORAGE: &str = "storage unavailable";
    /// The topic's stored state cannot be read by the code in service. It is kept.
    pub const UNREADABLE: &str = "state unreadable";
    /// The topic's route leads to another plugin now.
    pub const REROUTED: &str = "rerouted";
    /// The topic's home, another node of the cluster, cannot be reached, or nobody is its home now.
    pub const NODE_UNAVAILABLE: &str = "node unavailable";
    /// The topic's home was lost, or has lost the topic to another node.
    pub const NODE_LOST: &str = "node lost";
    /// The topic has moved to another node, with its state.
    pub const TOPIC_MOVED: &str = "topic moved";
    /// The plugin answered with something that cannot be sent.
    pub const INVALID_ANSWER: &str = "invalid answer";
    /// A new token is not good.
    pub const INVALID_TOKEN: &str = "invalid token";
    /// A new token has expired.
    pub const TOKEN_EXPIRED: &str = "token expired";
    /// A new token is for another client than the connection.
    pub const OTHER_CLIENT: &str = "token of another client";

    const ALL: [&str; 19] = [
        UNMATCHED_TOPIC,
        TOO_MANY_CHANNELS,
        JOIN_CRASHED,
        CHANNEL_CRASH,
        OVERLOADED,
        TOPIC_TOO_LONG,
        UNAVAILABLE,
        JOIN_TIMEOUT,
        RELOADED,
        STORAGE,
        UNREADABLE,
        REROUTED,
        NODE_UNAVAILABLE,
        NODE_LOST,
        TOPIC_MOVED,
        INVALID_ANSWER,
        INVALID_TOKEN,
        TOKEN_EXPIRED,
        OTHER_CLIENT,
    ];

    /// The reason with this text, as another host has written it.
    #[must_use]
    pub fn read(text: &str) -> Option<&'static str> {
        ALL.into_iter().find(|reason| *reason == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_payload_becomes_an_object_where_only_text_travels() {
        let text = Payload::Binary(Bytes::from_static(&[1, 2, 255])).as_text();
        assert_eq!(text, Payload::Json(Bytes::from_static(br#"{"_binary":"AQL/"}"#)));
        assert_eq!(Payload::EMPTY.as_text(), Payload::EMPTY);
    }
}
