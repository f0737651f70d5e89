//! What an I/O thread is asked to do.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use bennu_wire::serializer::Incoming;
use bytestring::ByteString;
use tokio::sync::{mpsc as channel, oneshot};

use super::Accepted;
use super::listing::ListRequest;
use crate::runtime::delivery::Delivery;
use crate::server::routing::Routing;
use crate::server::socket::NewSocket;
use crate::server::transport::PendingConnection;
use crate::server::transport::longpoll::{PollRequest, PublishRequest, SessionId, SessionOpened};

/// A task for an I/O thread.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Send this to clients: from a shard.
    Deliver(Delivery),
    /// Serve a new connection.
    Accept(Accepted),
    /// Take over a client that may connect: a new WebSocket, or another transport.
    Adopt(Box<dyn PendingConnection>, NewSocket),
    /// Look at the transport in this slot: it may have messages, or room for more.
    Ready(usize),
    /// Do this with a long-poll session.
    Session(SessionRequest),
    /// Name some of the open connections.
    List(ListRequest),
    /// Describe the connections with this socket id, so many and with so many bytes of topics at most, and say how many there are.
    Describe(ByteString, (usize, usize), channel::UnboundedSender<Described>),
    /// Take up other routes, and say whose members they have ended.
    Routing(Arc<Routing>, mpsc::Sender<Rerouted>),
    /// Close that many connections, for a shutdown, and say how many are left.
    Drain(usize, channel::UnboundedSender<usize>),
    /// End the thread.
    Stop,
}

/// How many members of each plugin, by its index, ended because their route does not lead to it any more.
pub(crate) type Rerouted = BTreeMap<u32, usize>;

/// Connections of one I/O thread.
#[derive(Debug)]
pub(crate) struct Described {
    /// How many there are.
    pub(crate) count: usize,
    /// Some of them.
    pub(crate) connections: Vec<Connection>,
}

/// A connection as a backend sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Such as `websocket`.
    pub(crate) transport: &'static str,
    /// The path of its mount.
    pub(crate) mount: String,
    /// The version of its protocol.
    pub(crate) vsn: &'static str,
    /// The topics that it has joined.
    pub(crate) topics: Vec<ByteString>,
}

/// A request of long polling.
#[derive(Debug)]
pub(crate) enum SessionRequest {
    /// Open a session.
    Open(NewSocket, oneshot::Sender<SessionOpened>),
    /// Does the session exist? It need not be asked about its messages before these have come.
    Find(SessionId, oneshot::Sender<bool>),
    /// Poll a session.
    Poll(PollRequest),
    /// Dispatch messages in a session.
    Publish(PublishRequest),
}

impl Entry {
    /// What it takes of the inbox, in bytes: its own place, twice because the inbox may have twice as many places as it needs, and
    /// the message that it brings.
    pub(super) fn weight(&self) -> usize {
        let message = match self {
            Self::Deliver(delivery) => delivery.message_bytes(),
            Self::Session(SessionRequest::Publish(request)) => request.frames.iter().map(Incoming::size).sum(),
            _ => 0,
        };
        2 * size_of::<Self>() + message
    }
}
