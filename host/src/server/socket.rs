//! One client's connection, whatever transport carries it: what it has joined, and how its messages are read and written.
//!
//! Its I/O thread dispatches what it sends and delivers what is for it ([`Core`](super::io)).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::{self, Serializer, json};
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::config::{Mount, Route};
use crate::runtime::channel::Topic;
use crate::runtime::id::MemberId;
use crate::runtime::pubsub::Arrival;
use crate::server::transport::longpoll::Published;
use crate::server::transport::{Replaceable, Transport};

/// The request that waits for the outcome of its message. Dropped, it is answered as if there was none.
pub(crate) type Waiting = oneshot::Sender<Published>;

/// What a connection is, once it may connect.
#[derive(Debug)]
pub(crate) struct NewSocket {
    /// Where the client is.
    pub(crate) peer: IpAddr,
    /// Where it connected.
    pub(crate) mount: Arc<Mount>,
    /// The version it speaks.
    pub(crate) serializer: &'static dyn Serializer,
    /// The rules that its channels follow.
    pub(crate) dialect: Dialect,
    /// Who it is, if a connect handler said so.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Where `disconnect` finds it as long as its thread does not know it.
    pub(crate) arrival: Option<Arrival>,
}

/// What a connect handler said of a client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// A broadcast of `disconnect` to this topic closes the connection.
    pub(crate) socket_id: Option<ByteString>,
    /// A JSON object, for all its channels.
    pub(crate) assigns: Option<Bytes>,
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Tells it from others that had its slot. Drawn from the same counter as its members' numbers.
    pub(crate) serial: u32,
    /// What it is.
    pub(crate) info: NewSocket,
    /// How bytes get to it and from it. `None` only while it is read from.
    pub(crate) transport: Option<Box<dyn Transport>>,
    /// What it has joined.
    pub(crate) channels: Vec<Channel>,
    /// When it last sent anything.
    pub(crate) heard: Instant,
    /// Bytes that its client had not taken when that was last looked at.
    pub(crate) unsent: usize,
    /// Something waits to be written, and it stands on the list of those.
    pub(crate) dirty: bool,
    /// Its client does not keep up: it gets nothing more, and is closed at the end of the turn.
    pub(crate) slow: bool,
    /// It is being closed: nothing that comes from it counts any more.
    pub(crate) closing: bool,
}

/// One membership of a topic, as its socket keeps it.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its number at the plugin.
    pub(crate) member: MemberId,
    /// The topic.
    pub(crate) topic: Arc<Topic>,
    /// The route that leads there.
    pub(crate) route: Arc<Route>,
    /// The plugin, as in a broadcast's `intercepted_by`.
    pub(crate) plugin: u32,
    /// As its join sent it.
    pub(crate) join_ref: Option<Box<str>>,
    /// The `ref` of its join, for the reply; and for all else where `join_ref` is null.
    pub(crate) msg_ref: Option<Box<str>>,
    /// How far it is.
    pub(crate) status: Status,
    /// Its place among the topic's subscribers, while it is joined.
    pub(crate) place: u32,
    /// The own refs of channels that its join replaced; closed once it is answered.
    pub(crate) replaced: Vec<Box<str>>,
    /// The request that waits for the outcome of its join.
    pub(crate) waiting: Option<Waiting>,
    /// The log has said that the client cannot take something that was sent on it.
    pub(crate) withheld: bool,
}

/// How far a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
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
pub(crate) struct Encoding {
    /// The version.
    pub(crate) serializer: &'static dyn Serializer,
    /// Whether transport and version carry binary messages.
    pub(crate) takes_binary: bool,
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        serializer::same(self.serializer, other.serializer) && self.takes_binary == other.takes_binary
    }
}

impl Socket {
    /// How its messages are written.
    #[must_use]
    pub(crate) fn encoding(&self) -> Encoding {
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
    pub(crate) fn new(serial: u32, info: NewSocket, transport: Box<dyn Transport>, now: Instant) -> Self {
        Self {
            serial,
            info,
            transport: Some(transport),
            channels: Vec::new(),
            heard: now,
            unsent: 0,
            dirty: false,
            slow: false,
            closing: false,
        }
    }

    /// The channel that holds a topic.
    pub(crate) fn by_topic(&self, topic: &str) -> Option<usize> {
        self.channels
            .iter()
            .position(|channel| !channel.is_over() && *channel.topic.name == *topic)
    }

    pub(crate) fn by_member(&self, member: MemberId) -> Option<usize> {
        self.channels.iter().position(|channel| channel.member == member)
    }
}

impl Channel {
    /// Whether its topic is free again.
    pub(crate) fn is_over(&self) -> bool {
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
    pub(crate) fn replaceable(&self, event: &str) -> Option<Replaceable> {
        let named = self.route.replaceable.iter().any(|name| name == event);
        named.then(|| Replaceable::new(&self.topic.name, event))
    }

    /// The ref by which its client tells it from other joins of the topic: its `join_ref`, or the `ref` of its join where
    /// that was null. All that it sends carries this ref, except the reply to the join.
    pub(crate) fn own_ref(&self) -> Option<&str> {
        self.join_ref.as_deref().or(self.msg_ref.as_deref())
    }

    /// Whether a message with this `join_ref` is meant for it. Some clients send the `ref` of the join, whatever `join_ref`
    /// the join had.
    pub(crate) fn is_named_by(&self, join_ref: &str) -> bool {
        let refs = [self.join_ref.as_deref(), self.msg_ref.as_deref()];
        refs.into_iter().flatten().any(|own| json::same(own, join_ref))
    }
}
