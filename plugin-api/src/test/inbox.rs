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
    /// The membership that it belongs to; 0: one that is over, or all of the topic's.
    pub member: u64,
    /// The push that it answers; `None` in the answer to a join.
    pub push: Option<u64>,
    /// That of a reply.
    pub status: Option<String>,
    pub event: String,
    pub body: Body,
}

impl Sent {
    pub(super) fn reply(member: u64, push: Option<u64>, status: &str, body: &Body) -> Self {
        Self {
            member,
            push,
            status: Some(status.to_owned()),
            event: "phx_reply".to_owned(),
            body: body.clone(),
        }
    }

    pub(super) fn message(member: u64, message: &Message) -> Self {
        Self {
            member: if message.kind == "broadcast" { 0 } else { member },
            push: None,
            status: None,
            event: message.event.clone(),
            body: message.body.clone(),
        }
    }
}
