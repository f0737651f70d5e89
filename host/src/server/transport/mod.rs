//! Transports carry messages: WebSocket and long polling.
//!
//! A transport knows bytes and one client, but no channel and no topic. The [I/O thread](crate::server::io) that owns it receives
//! messages from it, sends messages with it, and flushes it once per turn.

pub(crate) mod longpoll;
mod pending;
mod queue;
mod replaceable;
pub(crate) mod websocket;
pub(crate) mod wire;

use std::os::fd::BorrowedFd;
use std::time::Instant;
use std::{fmt, io};

#[cfg(doc)]
use bennu_wire::message::Payload;
use bennu_wire::serializer::Incoming;

pub use pending::{PendingConnection, Registration, Waker};
pub(crate) use queue::takes;
pub use replaceable::Replaceable;
pub use websocket::frame::Frame;

/// Carries the messages of one client. `websocket` is the worked example. The smallest one is in the tests: it carries messages in
/// memory (`host/tests/it/seams/memory.rs`).
///
/// Who fulfils Phoenix's contract for transports, duty by duty:
///
/// | Duty | Who |
/// |---|---|
/// | receive encoded messages of the client, whole, in their order | the transport: [`receive`](Self::receive) hands on each once |
/// | decode them, keys as strings, and dispatch them | the socket, with its [serializer](bennu_wire::serializer::Serializer); one `dispatch` for all transports |
/// | map topics to channels and back | the socket; a transport knows no topic |
/// | encode what channels push, and forward it to the client | the socket encodes; the transport takes each message by [`send`](Self::send) and sends them in that order |
/// | when a channel exits, forget it, then say `phx_close` or `phx_error` | the socket; for a transport these are messages like any other |
/// | when the client goes, end its channels | the transport says that it has gone: [`Received::Closed`], [`Received::Lost`], [`Flushed::Ended`] |
/// | heartbeats | the socket answers them; a transport's own signs of life count by [`pinged`](Self::pinged) |
///
/// An implementation also promises:
///
/// * It refuses a message of the client that is larger than [`Registration::max_message_bytes`]: [`Received::Broken`] with code 1009.
///   The host does not check again.
/// * It never sends a message later that it refused or dropped, and none after a goodbye.
/// * No call blocks. A call does a bounded share of work, and says [`Received::More`] if there is more.
/// * What it keeps is bounded, and counted with the memory that it takes: [`waiting`](Self::waiting) and
///   [`unfinished`](Self::unfinished). A message that it hands on is in memory of its own size, because channels keep slices of it.
///
/// All calls come from the one thread that owns it.
///
/// A transport comes to its thread as a [`PendingConnection`], your own by [`Entrance`](crate::server::endpoint::Entrance), whose
/// clients pass the same checks as those of the host's own transports.
pub trait Transport: fmt::Debug {
    /// Its name, which the router and the connect handler see. A route with `transports` admits only the host's own transports.
    fn name(&self) -> &'static str;

    /// Takes up other limits, which a change of the configuration brings: those that [`Registration::max_message_bytes`] and
    /// [`Registration::max_outbound_bytes`] have named before. What has begun or waits already may stay. The default ignores them.
    fn limit(&mut self, max_message_bytes: usize, max_outbound_bytes: usize) {
        let _ = (max_message_bytes, max_outbound_bytes);
    }

    /// Whether it carries binary messages to the client. If not, binary payloads are sent as [`Payload::as_text`] makes them.
    fn takes_binary(&self) -> bool;

    /// Reads bytes that have arrived, at most `scratch` at a time, and hands on every complete message.
    fn receive(&mut self, scratch: &mut [u8], take: &mut dyn FnMut(Incoming)) -> Received;

    /// Whether the client has sent a sign of life other than a message since the last call: a ping or a pong. A connection without
    /// messages and signs of life counts as silent.
    fn pinged(&mut self) -> bool {
        false
    }

    /// The message that has begun and is not complete, if there is one. It has a deadline, and all clients together a limit.
    fn unfinished(&self) -> Option<Unfinished> {
        None
    }

    /// Takes a message to be sent with the next [`Transport::flush`]. If it is `replaceable` and the client has fallen behind, it may
    /// replace messages with the same key that are not sent yet. Returns how many it replaced.
    ///
    /// # Errors
    ///
    /// If more would wait than may. The caller then closes the connection.
    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow>;

    /// The memory that unsent messages take, in bytes. All clients of a thread together have a limit of their own.
    fn waiting(&self) -> usize {
        0
    }

    /// Sends waiting messages, as far as the client takes them.
    fn flush(&mut self) -> Flushed;

    /// Offers its first messages to be written together with those of other clients: appends them to `bytes`, and returns the socket
    /// that they go to. `None`, the default: the caller [flushes](Self::flush) instead.
    fn offer(&self, bytes: &mut Vec<u8>) -> Option<BorrowedFd<'_>> {
        let _ = bytes;
        None
    }

    /// Learns how much of its [offer](Self::offer) was written, and flushes the rest.
    fn written(&mut self, written: io::Result<usize>) -> Flushed {
        let _ = written;
        self.flush()
    }

    /// Says goodbye with a WebSocket close code and a reason, behind the waiting messages. It sends nothing afterwards, and drops an
    /// unfinished message of the client.
    fn close(&mut self, code: u16, reason: &str);

    /// Learns that it is dropped next, with all that still waits. The kernel should not go on sending what it has taken.
    fn drop_unsent(&mut self) {}
}

/// A message that has begun and is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The memory that it takes, in bytes.
    pub bytes: usize,
    /// When its first byte came.
    pub since: Instant,
}

/// How far a [`Transport::receive`] came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It has read all that has arrived; the poll reports when there is more.
    All,
    /// There may be more: call again in the next turn.
    More,
    /// The client said goodbye with this close code, if it had one, and was answered.
    Closed(Option<u16>),
    /// The client broke the rules: close with this code and reason.
    Broken(u16, String),
    /// The connection is gone.
    Lost,
}

/// How far a [`Transport::flush`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All messages are sent.
    All,
    /// The client takes no more now; the poll reports when it does.
    Blocked,
    /// The connection is gone, or has said its goodbye.
    Ended,
}

/// More would wait for a client than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client takes its messages too slowly")]
pub struct Overflow;
