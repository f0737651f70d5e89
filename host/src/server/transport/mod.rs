//! What brings messages and takes them away: WebSocket and long polling.
//!
//! A transport knows bytes and a client; it knows no channel and no topic. The [I/O thread](crate::server::io) that owns it asks
//! it for what has arrived, hands it what is to go out, and flushes it once per turn.

pub(crate) mod longpoll;
mod pending;
mod replaceable;
pub(crate) mod websocket;

use std::os::fd::BorrowedFd;
use std::{fmt, io};

#[cfg(doc)]
use bennu_wire::message::Payload;
use bennu_wire::serializer::Incoming;

pub use pending::{PendingConnection, Registration, Waker};
pub use replaceable::Replaceable;
pub use websocket::frame::Frame;

/// How one client's messages travel. `websocket` is the worked example; the smallest one is the tests' own, which carries
/// messages in memory (`host/tests/it/seams/memory.rs`).
///
/// Who keeps Phoenix's contract for transports, duty by duty:
///
/// | Duty | Who |
/// |---|---|
/// | receive encoded messages of the client, whole, in their order | the transport: [`receive`](Self::receive) hands on each once |
/// | decode them, keys as strings, and dispatch them | the socket, by its [serializer](bennu_wire::serializer::Serializer); one `dispatch` for all transports |
/// | keep topic to channel, and channel to topic | the socket; a transport knows no topic |
/// | encode what channels push, and forward it to the client | the socket encodes; the transport takes each message by [`send`](Self::send), and they leave in that order |
/// | when a channel exits, forget it, then say `phx_close` or `phx_error` | the socket; for a transport these are messages like any other |
/// | when the client goes, end its channels | the transport says that it has gone: [`Received::Closed`], [`Received::Lost`], [`Flushed::Ended`] |
/// | heartbeats | the socket answers them; what a transport has of its own counts by [`pinged`](Self::pinged) |
///
/// Whoever implements it promises besides: nothing that was refused or given up is sent later, and nothing behind a goodbye;
/// no call blocks; what waits is bounded; a call does a bounded share of work, and says [`Received::More`] if there is more.
/// All calls come from the one thread that owns it.
///
/// It gets there as an [`PendingConnection`]: by [`Entrance`](crate::server::endpoint::Entrance) for one of your own, whose clients are asked
/// what those of the host's own are asked, and no more.
pub trait Transport: fmt::Debug {
    /// Its name, as `transports` of a route lists it.
    fn name(&self) -> &'static str;

    /// Whether it carries binary messages to the client. If not, binary payloads are sent as [`Payload::as_text`] makes them.
    fn takes_binary(&self) -> bool;

    /// Reads what has arrived, at most `scratch` at a time, and hands on every complete message.
    fn receive(&mut self, scratch: &mut [u8], take: &mut dyn FnMut(Incoming)) -> Received;

    /// Whether the client has sent what is no message but a sign of life since this was last asked: a ping or a pong. With
    /// messages, this is what keeps a connection from counting as silent.
    fn pinged(&mut self) -> bool {
        false
    }

    /// Takes a message to be sent with the next [`Transport::flush`]. If it is `replaceable`, it may take the place of those
    /// with the same key that a client which has fallen behind was not yet sent. Returns how many it took the place of.
    ///
    /// # Errors
    ///
    /// If more would wait than may. The connection is then to be closed.
    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow>;

    /// Bytes that wait for the client. All that a thread's clients leave waiting has a limit of its own.
    fn waiting(&self) -> usize {
        0
    }

    /// Sends what waits, as far as the client takes it.
    fn flush(&mut self) -> Flushed;

    /// Offers what waits first to be written together with what waits for others: appends it to `bytes`, and says to which
    /// socket it goes. `None`, as by default: what waits is to be [flushed](Self::flush).
    fn offer(&self, bytes: &mut Vec<u8>) -> Option<BorrowedFd<'_>> {
        let _ = bytes;
        None
    }

    /// Learns how much of what it [offered](Self::offer) was written, and flushes the rest.
    fn written(&mut self, written: io::Result<usize>) -> Flushed {
        let _ = written;
        self.flush()
    }

    /// Says goodbye with a close code (as for WebSocket) and a reason, after what waits. Nothing else is sent after it.
    fn close(&mut self, code: u16, reason: &str);

    /// Learns that it is dropped next, with all that still waits: the system is not to go on sending what it has taken.
    fn abandon(&mut self) {}
}

/// How far a [`Transport::receive`] came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// All that has arrived is taken; the poll will tell when there is more.
    All,
    /// There may be more: ask again in the next turn.
    More,
    /// The client said goodbye, and was answered.
    Closed,
    /// The client broke the rules: close with this code and reason.
    Broken(u16, String),
    /// The connection is gone.
    Lost,
}

/// How far a [`Transport::flush`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    All,
    /// The client does not take more now; the poll will tell when it does.
    Blocked,
    /// The connection is gone, or has said its goodbye.
    Ended,
}

/// More would wait for a client than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client takes its messages too slowly")]
pub struct Overflow;
