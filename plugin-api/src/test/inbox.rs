//! What clients were sent, and how a test looks through it.

use std::fmt;

use super::body::Body;
use super::expect::{self, Expect};

/// A push, a broadcast or an end, as assertions see it.
#[derive(Clone, Debug)]
pub(super) struct Message {
    kind: &'static str,
    pub(super) event: String,
    pub(super) body: Body,
}

impl Message {
    pub(super) fn new(kind: &'static str, event: &str, body: Body) -> Self {
        let event = event.to_owned();
        Self { kind, event, body }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9} `{}` {}", self.kind, self.event, self.body)
    }
}

pub(super) fn position(messages: &[Message], event: &str, payload: &impl Expect) -> Option<usize> {
    let is = |message: &Message| message.event == event && expect::is(&message.body, payload);
    messages.iter().position(is)
}

pub(super) fn listed(messages: &[Message]) -> String {
    if messages.is_empty() {
        return " nothing".to_owned();
    }
    messages.iter().map(|message| format!("\n    {message}")).collect()
}

/// One message that a client was sent. For the host's tests, which compare this with what the server sends.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Sent {
    /// The membership that it belongs to.
    pub member: u64,
    pub kind: Kind,
    pub event: String,
    pub body: Body,
}

/// What a [`Sent`] is.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Kind {
    /// The answer to a join.
    Joined {
        status: String,
    },
    /// The answer to a push.
    Reply {
        push: u64,
        status: String,
    },
    /// The answer to a push whose membership is over.
    Orphan {
        push: u64,
    },
    Push,
    Broadcast,
    /// `phx_close` or `phx_error`.
    End,
}

impl Sent {
    pub(super) fn reply(member: u64, kind: Kind, body: &Body) -> Self {
        Self {
            member,
            kind,
            event: "phx_reply".to_owned(),
            body: body.clone(),
        }
    }

    pub(super) fn message(member: u64, message: &Message) -> Self {
        let kind = match message.kind {
            "push" => Kind::Push,
            "broadcast" => Kind::Broadcast,
            _ => Kind::End,
        };
        Self {
            member,
            kind,
            event: message.event.clone(),
            body: message.body.clone(),
        }
    }
}
