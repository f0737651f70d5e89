//! One client's connection, whatever transport carries it: what it has joined, and how its messages are read and written.
//!
//! [`dispatch`] takes every message that a client sends; [`deliver`] does what shards have sent for a client. Both run on
//! the I/O thread that owns the socket.

mod deliver;
mod dialect;
mod dispatch;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;

use crate::channel::Topic;
use crate::config::{Mount, Route};
use crate::id::MemberId;
use crate::pubsub::Arrival;
use crate::serializer::{self, Serializer};
use crate::transport::longpoll::Published;
use crate::transport::{Replaceable, Transport};

use dialect::Waiting;
pub use dialect::{Dialect, Dispatched};

/// What a connection is, once it may connect.
#[derive(Debug)]
pub struct NewSocket {
    /// Where it connected.
    pub mount: Arc<Mount>,
    /// The version it speaks.
    pub serializer: &'static dyn Serializer,
    /// The rules that its channels follow.
    pub dialect: Dialect,
    /// Who it is, if a connect handler said so.
    pub identity: Option<Arc<Identity>>,
    /// Where `disconnect` finds it as long as its thread does not know it.
    pub arrival: Option<Arrival>,
}

/// What a connect handler said of a client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// A broadcast of `disconnect` to this topic closes the connection.
    pub socket_id: Option<ByteString>,
    /// A JSON object, for all its channels.
    pub assigns: Option<Bytes>,
}

/// One client's connection.
#[derive(Debug)]
pub struct Socket {
    /// Tells it from others that had its slot. Drawn from the same counter as its members' numbers.
    pub serial: u32,
    /// What it is.
    pub info: NewSocket,
    /// How bytes get to it and from it. `None` only while it is read from.
    pub transport: Option<Box<dyn Transport>>,
    /// What it has joined.
    pub channels: Vec<Channel>,
    /// When it last sent anything.
    pub heard: Instant,
    /// Bytes that its client had not taken when that was last looked at.
    pub untaken: usize,
    /// Something waits to be written, and it stands on the list of those.
    pub dirty: bool,
    /// Its client does not keep up: it gets nothing more, and is closed at the end of the turn.
    pub slow: bool,
    /// It is being closed: nothing that comes from it counts any more.
    pub closing: bool,
}

/// One membership of a topic, as its socket keeps it.
#[derive(Debug)]
pub struct Channel {
    /// Its number at the plugin.
    pub member: MemberId,
    /// The topic.
    pub topic: Arc<Topic>,
    /// The route that leads there.
    pub route: Arc<Route>,
    /// The plugin, as in a broadcast's `intercepted_by`.
    pub plugin: u32,
    /// As its join sent it.
    pub join_ref: Option<Box<str>>,
    /// The `ref` of its join, for the reply; and for pushes where `join_ref` is null.
    pub msg_ref: Option<Box<str>>,
    /// How far it is.
    pub status: Status,
    /// Its place among the topic's subscribers, while it is joined.
    pub place: u32,
    /// The `join_ref`s of channels that its join replaced; closed once it is answered.
    pub replaced: Vec<Option<Box<str>>>,
    /// The request that waits for the outcome of its join.
    pub(crate) waiting: Option<Waiting>,
    /// The log has said that the client cannot take something that was sent on it.
    pub withheld: bool,
}

/// How far a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The join is not answered.
    Joining,
    /// It is in.
    Joined,
    /// The client has asked to leave.
    Leaving,
    /// It has ended, and the client is to be told once what `terminate` pushes has come.
    Closing,
    /// The client was told that it ended, or another join has replaced it; what it still owes may come, and what
    /// `terminate` pushes.
    Ended,
}

/// How messages are written for a socket. A broadcast is encoded once for each that its subscribers have.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// The version.
    pub serializer: &'static dyn Serializer,
    /// Whether transport and version carry binary messages.
    pub takes_binary: bool,
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        serializer::same(self.serializer, other.serializer) && self.takes_binary == other.takes_binary
    }
}

impl Socket {
    /// How its messages are written.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        let serializer = self.info.serializer;
        let carried = self
            .transport
            .as_ref()
            .is_some_and(|transport| transport.takes_binary());
        let takes_binary = carried && serializer.takes_binary();
        Encoding {
            serializer,
            takes_binary,
        }
    }

    /// A socket over this transport.
    #[must_use]
    pub fn new(serial: u32, info: NewSocket, transport: Box<dyn Transport>, now: Instant) -> Self {
        Self {
            serial,
            info,
            transport: Some(transport),
            channels: Vec::new(),
            heard: now,
            untaken: 0,
            dirty: false,
            slow: false,
            closing: false,
        }
    }

    /// The channel that holds a topic.
    fn by_topic(&self, topic: &str) -> Option<usize> {
        self.channels
            .iter()
            .position(|channel| !channel.is_over() && *channel.topic.name == *topic)
    }

    fn by_member(&self, member: MemberId) -> Option<usize> {
        self.channels.iter().position(|channel| channel.member == member)
    }
}

impl Channel {
    /// Whether its topic is free again.
    fn is_over(&self) -> bool {
        matches!(self.status, Status::Closing | Status::Ended)
    }

    /// Answers the request that waits for the outcome of its join, if one does.
    pub(crate) fn tell(&mut self, published: Published) {
        if let Some(waiting) = self.waiting.take() {
            // It may have stopped waiting.
            let _ = waiting.send(published);
        }
    }

    /// What a newer message takes the place of, if the route says that it may.
    fn replaceable(&self, event: &str) -> Option<Replaceable> {
        let named = self.route.replaceable.iter().any(|name| name == event);
        named.then(|| Replaceable::new(&self.topic.name, event))
    }

    /// What its pushes and later replies carry: the join's own `ref` where `join_ref` was null, as in Phoenix.
    fn push_ref(&self) -> Option<&str> {
        self.join_ref.as_deref().or(self.msg_ref.as_deref())
    }
}
