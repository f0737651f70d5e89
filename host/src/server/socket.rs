//! One client's connection over any transport: what it has joined, and how its messages are read and written.
//!
//! Its I/O thread dispatches the client's messages and delivers messages to it ([`Core`](super::io)).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bennu_wire::dialect::Dialect;
use bennu_wire::message::{Ref, RefText};
use bennu_wire::serializer::{self, Serializer, json};
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::config::Mount;
use crate::runtime::channel::Topic;
use crate::runtime::id::MemberId;
use crate::runtime::metrics::MountLabels;
use crate::runtime::pubsub::Arrival;
use crate::runtime::router::OpenRoute;
use crate::runtime::trace::ClientTrace;
use crate::server::auth::Shown;
use crate::server::closes::Traffic;
use crate::server::limits::{ClientSpent, ConnectionPlace, SessionPlace};
use crate::server::transport::longpoll::Published;
use crate::server::transport::{Replaceable, Transport};

/// The request that waits for the outcome of its message. If this is dropped, the session is gone for it.
pub(crate) type Waiting = oneshot::Sender<Published>;

/// A client that may connect.
#[derive(Debug)]
pub(crate) struct NewSocket {
    /// The number of the connection: in each log line about the client, and in `/connections` and `/closes`.
    pub(crate) connection: u64,
    /// Where the client is.
    pub(crate) peer: IpAddr,
    /// Its port there.
    pub(crate) port: u16,
    /// The mount that it connected to.
    pub(crate) mount: Arc<Mount>,
    /// The protocol version that it speaks.
    pub(crate) serializer: &'static dyn Serializer,
    /// The rules for its channels.
    pub(crate) dialect: Dialect,
    /// What its token and the connect handler say of it.
    pub(crate) identity: Option<Arc<Identity>>,
    /// What it has shown, if its mount checks tokens.
    pub(crate) shown: Option<Box<Shown>>,
    /// Lets `disconnect` find the client until its I/O thread knows it.
    pub(crate) arrival: Option<Box<Arrival>>,
    /// The trace of its connect, if that was chosen.
    pub(crate) trace: Option<Box<ClientTrace>>,
    /// Its places among the clients of its address.
    #[expect(dead_code, reason = "they are free when it is gone")]
    pub(crate) places: Places,
}

/// The places of a client among those of its address; none, if that is not limited.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "they are free when they are gone")]
pub(crate) struct Places {
    /// Of its connection, if the client has one to itself.
    pub(crate) connection: Option<Arc<ConnectionPlace>>,
    /// Of itself.
    pub(crate) session: Option<SessionPlace>,
}

impl NewSocket {
    /// Where the client is, with its port.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.peer, self.port)
    }

    /// The labels of its metrics.
    #[must_use]
    pub(crate) fn labels(&self, transport: &'static str) -> MountLabels {
        [("mount", self.mount.path.clone()), ("transport", transport.to_owned())]
    }

    /// The client's socket id, if it has one.
    #[must_use]
    pub(crate) fn socket_id(&self) -> Option<&ByteString> {
        self.identity.as_ref()?.socket_id.as_ref()
    }
}

/// What a client's token and the connect handler say of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// A broadcast of `disconnect` to this topic closes the connection.
    pub(crate) socket_id: Option<ByteString>,
    /// A JSON object for all its channels, from the connect handler.
    pub(crate) assigns: Option<Bytes>,
    /// What its token says: a JSON object.
    pub(crate) claims: Option<Bytes>,
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Distinguishes it from earlier sockets in the same slot. Comes from the same counter as its members' numbers.
    pub(crate) serial: u32,
    /// How it connected.
    pub(crate) info: NewSocket,
    /// Carries its bytes. `None` only while the thread reads from it.
    pub(crate) transport: Option<Box<dyn Transport>>,
    /// Its channels.
    pub(crate) channels: Vec<Channel>,
    /// When it connected.
    pub(crate) since: Instant,
    /// What it has carried.
    pub(crate) traffic: Traffic,
    /// Whether the limits by client are for it.
    pub(crate) is_limited: bool,
    /// What it has used of them.
    pub(crate) spent: ClientSpent,
    /// When it last sent anything.
    pub(crate) heard: Instant,
    /// Bytes that waited for the client at the last look.
    pub(crate) unsent: usize,
    /// Since when its client has taken nothing of what waits for it.
    pub(crate) stalled: Option<Instant>,
    /// Bytes of a message that was not complete at the last look.
    pub(crate) unfinished: usize,
    /// It is on the list of sockets with something to write.
    pub(crate) dirty: bool,
    /// Its client does not keep up: it gets nothing more, and is closed at the end of the turn.
    pub(crate) slow: bool,
    /// It is being closed: its messages are ignored.
    pub(crate) closing: bool,
}

/// A client's membership of one topic, as its socket keeps it.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its number at the plugin.
    pub(crate) member: MemberId,
    /// The topic.
    pub(crate) topic: Arc<Topic>,
    /// The route to its plugin.
    pub(crate) route: Arc<OpenRoute>,
    /// The index of the plugin, as in a broadcast's `intercepted_by`.
    pub(crate) plugin: u32,
    /// The `join_ref` of its join.
    pub(crate) join_ref: Ref,
    /// The `ref` of its join, for the reply; and for all else where `join_ref` is null.
    pub(crate) msg_ref: Ref,
    /// What stage it is in.
    pub(crate) status: Status,
    /// Its place among the topic's subscribers, while it is joined.
    pub(crate) place: u32,
    /// The own refs of channels that its join replaced; closed once it is answered.
    pub(crate) replaced: Vec<RefText>,
    /// The request that waits for the outcome of its join.
    pub(crate) waiting: Option<Waiting>,
    /// The log has said that a message of this channel cannot be sent to the client.
    pub(crate) withheld: bool,
}

/// The stages of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The join is not answered.
    Joining,
    /// The client has joined.
    Joined,
    /// The client has asked to leave.
    Leaving,
    /// It has ended. The client is told after the pushes of `terminate`.
    Closing,
    /// The client was told that it ended, or another join has replaced it. Replies that it owes may still come, and the pushes of
    /// `terminate`.
    Ended,
}

/// How messages are written for a socket. A broadcast is encoded once for each encoding that its subscribers have.
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
            since: now,
            traffic: Traffic::default(),
            is_limited: false,
            spent: ClientSpent::default(),
            heard: now,
            unsent: 0,
            stalled: None,
            unfinished: 0,
            dirty: false,
            slow: false,
            closing: false,
        }
    }

    /// Bytes that wait for the client.
    pub(crate) fn waiting(&self) -> usize {
        self.transport.as_ref().map_or(0, |transport| transport.waiting())
    }

    /// How many topics it has joined.
    pub(crate) fn topics(&self) -> usize {
        let joined = self.channels.iter().filter(|channel| channel.status == Status::Joined);
        joined.count()
    }

    /// The channel of a topic, as the client calls it.
    pub(crate) fn by_topic(&self, topic: &str) -> Option<usize> {
        let dialect = self.info.dialect;
        self.channels
            .iter()
            .position(|channel| !channel.is_over() && dialect.topic_of(&channel.topic.name) == topic)
    }

    /// The channel of a member.
    pub(crate) fn by_member(&self, member: MemberId) -> Option<usize> {
        self.channels.iter().position(|channel| channel.member == member)
    }
}

impl Channel {
    /// Whether its topic is free again.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.status, Status::Closing | Status::Ended)
    }

    /// Whether a message with this `join_ref` is meant for it. Some clients send the `ref` of the join, whatever `join_ref`
    /// the join had.
    pub(crate) fn is_meant(&self, join_ref: &Ref) -> bool {
        let own = [self.join_ref.as_deref(), self.msg_ref.as_deref()];
        let names = |join_ref: &str| own.into_iter().flatten().any(|own| json::same(own, join_ref));
        join_ref.as_deref().is_none_or(names)
    }

    /// Answers the request that waits for the outcome of its join, if there is one.
    pub(crate) fn tell(&mut self, published: Published) {
        if let Some(waiting) = self.waiting.take() {
            // The request may have ended.
            let _ = waiting.send(published);
        }
    }

    /// The key under which a newer message replaces an older one, if the route allows it for this event.
    pub(crate) fn replaceable(&self, event: &str) -> Option<Replaceable> {
        let named = self.route.replaceable.iter().any(|name| name == event);
        named.then(|| Replaceable::new(&self.topic.name, event))
    }

    /// The ref by which its client tells it from other joins of the topic: its `join_ref`, or the `ref` of its join where
    /// that was null. All that it sends carries this ref, except the reply to the join.
    pub(crate) fn own_ref(&self) -> Option<&str> {
        self.join_ref.as_deref().or(self.msg_ref.as_deref())
    }
}
