//! What an I/O thread is asked and says about its open connections, page by page.

use std::net::SocketAddr;

use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::server::closes::{CloseReason, Traffic, Wanted};

/// A question about the open connections of one I/O thread.
#[derive(Debug)]
pub(crate) struct ListRequest {
    /// The place from which the thread looks on; 0 at first.
    pub(crate) from: usize,
    /// How many connections it may name.
    pub(crate) most: usize,
    /// Which ones.
    pub(crate) wanted: Wanted,
    /// Whether to close those that it names, and why.
    pub(crate) close: Option<CloseReason>,
    /// Gets the answer.
    pub(crate) reply: oneshot::Sender<Listed>,
}

/// Some connections of a thread.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Those that are wanted, of the places that the thread looked at.
    pub(crate) connections: Vec<OpenConnection>,
    /// The place from which to look on. `None`: that was all.
    pub(crate) next: Option<usize>,
}

/// An open connection or long-poll session.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) mount: String,
    pub(crate) socket_id: Option<ByteString>,
    pub(crate) transport: &'static str,
    pub(crate) vsn: &'static str,
    /// How long it has been open.
    pub(crate) open_ms: u64,
    /// How long its client has sent nothing.
    pub(crate) silent_ms: u64,
    /// How many topics it has joined.
    pub(crate) topics: usize,
    /// Bytes that wait for its client.
    pub(crate) unsent_bytes: usize,
    pub(crate) traffic: Traffic,
}
