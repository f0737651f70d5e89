//! What an I/O thread is asked to do.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};

use tokio::sync::{mpsc as channel, oneshot};

use crate::runtime::delivery::Delivery;
use crate::server::routing::Routing;
use crate::server::socket::NewSocket;
use crate::server::transport::PendingConnection;
use crate::server::transport::longpoll::{PollRequest, PublishRequest, SessionOpened};

/// Something for an I/O thread to do.
#[derive(Debug)]
pub(crate) enum Entry {
    /// What a shard has for clients.
    Deliver(Delivery),
    /// A new connection, and where it comes from.
    Accept(TcpStream, SocketAddr),
    /// A client that may connect: a new WebSocket, or whatever else carries its messages.
    Adopt(Box<dyn PendingConnection>, NewSocket),
    /// The transport in this slot may have more to receive, or room to send.
    Ready(usize),
    /// What long polling asks of a session.
    Session(SessionRequest),
    /// Other routes. Says when they are taken up.
    Routing(Arc<Routing>, mpsc::Sender<()>),
    /// Close that many connections, for a shutdown. Says how many are left.
    Drain(usize, channel::UnboundedSender<usize>),
    /// End the thread.
    Stop,
}

/// What long polling asks for.
#[derive(Debug)]
pub(crate) enum SessionRequest {
    /// A new session.
    Open(NewSocket, oneshot::Sender<SessionOpened>),
    /// A poll of one.
    Poll(PollRequest),
    /// Messages for one.
    Publish(PublishRequest),
}

impl Entry {
    /// What it takes of the inbox, in bytes: its own, and those of the message that it brings.
    pub(super) fn weight(&self) -> usize {
        let message = match self {
            Self::Deliver(delivery) => delivery.payload_bytes(),
            _ => 0,
        };
        size_of::<Self>() + message
    }
}
