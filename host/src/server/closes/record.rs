//! What is remembered of a client that was closed or refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use serde_json::{Value, json};

use super::{CloseReason, RefusalReason};
use crate::config::Mount;

/// The longest text of a client that a record keeps, in bytes.
const MOST_DETAIL: usize = 200;

/// What a connection has carried: messages, and the bytes of their frames before compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// From the client.
    pub(crate) messages_in: u64,
    /// From the client.
    pub(crate) bytes_in: u64,
    /// To the client.
    pub(crate) messages_out: u64,
    /// To the client.
    pub(crate) bytes_out: u64,
}

/// A client that was closed or refused.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When, in milliseconds since 1970.
    pub(crate) at_unix_ms: u64,
    /// The number of the connection.
    pub(crate) connection: u64,
    /// Where the client is.
    pub(crate) peer: SocketAddr,
    /// The mount that it asked for, if there is one.
    pub(crate) mount: Option<Arc<Mount>>,
    /// Its socket id, if it has one.
    pub(crate) socket_id: Option<ByteString>,
    /// Such as `websocket`; empty if it has not come so far.
    pub(crate) transport: &'static str,
    /// The protocol version, if that was agreed on.
    pub(crate) vsn: Option<&'static str>,
    /// What happened.
    pub(crate) outcome: Outcome,
}

/// What happened to a client.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It was connected.
    Closed(Closed),
    /// It was not let in.
    Refused(Refused),
}

/// The end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    /// Why.
    pub(crate) reason: CloseReason,
    /// The close code; `None` for long polling, which has none.
    pub(crate) code: Option<u16>,
    /// What the transport or the serializer said.
    pub(crate) detail: Option<Box<str>>,
    /// How long it was open.
    pub(crate) lasted_ms: u64,
    /// How long the client had sent nothing.
    pub(crate) silent_ms: u64,
    /// How many topics it had joined.
    pub(crate) topics: usize,
    /// What it has carried.
    pub(crate) traffic: Traffic,
    /// What still waited for the client.
    pub(crate) unsent_bytes: usize,
}

/// A client that was not let in.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) reason: RefusalReason,
    /// The HTTP status of the answer, or the `status` in the body of a long poll. `None`: there was no answer.
    pub(crate) status: Option<u16>,
    /// What exactly.
    pub(crate) detail: Option<Box<str>>,
}

impl Record {
    /// A record of now, of a client of which nothing else is known.
    #[must_use]
    pub(crate) fn new(connection: u64, peer: SocketAddr, outcome: Outcome) -> Self {
        Self {
            at_unix_ms: unix_ms(),
            connection,
            peer,
            mount: None,
            socket_id: None,
            transport: "",
            vsn: None,
            outcome,
        }
    }

    /// The path of its mount.
    pub(crate) fn mount(&self) -> Option<&str> {
        self.mount.as_deref().map(|mount| &*mount.path)
    }

    /// Its socket id.
    pub(crate) fn socket_id(&self) -> Option<&str> {
        self.socket_id.as_deref()
    }

    /// What happened to the client.
    pub(crate) fn what(&self) -> &'static str {
        match self.outcome {
            Outcome::Closed(_) => "closed",
            Outcome::Refused(_) => "refused",
        }
    }

    /// The word for its reason.
    pub(crate) fn reason(&self) -> &'static str {
        match &self.outcome {
            Outcome::Closed(closed) => closed.reason.name(),
            Outcome::Refused(refused) => refused.reason.name(),
        }
    }

    /// As `/closes` shows it.
    #[must_use]
    pub(crate) fn shown(&self) -> Value {
        let mut shown = json!({
            "at_unix_ms": self.at_unix_ms, "connection": self.connection, "peer": self.peer, "mount": self.mount(),
            "socket_id": self.socket_id(), "transport": (!self.transport.is_empty()).then_some(self.transport), "vsn": self.vsn,
            "reason": self.reason(),
        });
        let more = match &self.outcome {
            Outcome::Closed(closed) => json!({
                "outcome": self.what(), "by": closed.reason.ender().name(), "code": closed.code, "detail": closed.detail,
                "lasted_ms": closed.lasted_ms, "silent_ms": closed.silent_ms, "topics": closed.topics,
                "messages_in": closed.traffic.messages_in, "bytes_in": closed.traffic.bytes_in,
                "messages_out": closed.traffic.messages_out, "bytes_out": closed.traffic.bytes_out,
                "unsent_bytes": closed.unsent_bytes,
            }),
            Outcome::Refused(refused) => json!({
                "outcome": self.what(), "by": "server", "status": refused.status, "detail": refused.detail,
            }),
        };
        if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
            shown.extend(more);
        }
        shown
    }
}

impl Refused {
    /// A refusal with this status, for this reason. Of `detail` it keeps the beginning.
    #[must_use]
    pub(crate) fn new(reason: RefusalReason, status: impl Into<Option<u16>>, detail: Option<&str>) -> Self {
        let kept = |detail: &str| detail[..detail.floor_char_boundary(MOST_DETAIL)].into();
        Self {
            reason,
            status: status.into(),
            detail: detail.map(kept),
        }
    }
}

/// Milliseconds since 1970.
#[must_use]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
