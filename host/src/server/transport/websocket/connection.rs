//! A WebSocket that has left hyper: a socket, a decoder that is empty between two messages, and a queue that is empty while no
//! frame waits. An idle connection keeps no buffer.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use bennu_wire::serializer::Incoming;
use bytes::Bytes;

use super::Echo;
use super::extension::Deflate;
use super::frame::{self, Decoder, Frame, Input, Rules};
use super::outbox::Outbox;
use crate::runtime::clock;
use crate::server::tls::Session;
use crate::server::transport::queue::takes;
use crate::server::transport::wire::{Read, Wire};
use crate::server::transport::{
    Flushed, Overflow, PendingConnection, Received, Registration, Replaceable, Transport, Unfinished,
};

/// The name in the `transports` of a route.
const NAME: &str = "websocket";

/// A connection after the handshake, on its way to an I/O thread's slab.
#[derive(Debug)]
pub(crate) struct Upgraded {
    /// Non-blocking.
    pub(crate) stream: std::net::TcpStream,
    /// Its TLS, if it has that.
    pub(crate) session: Option<Box<Session>>,
    /// The bytes that hyper has read behind the handshake.
    pub(crate) leftover: Bytes,
    /// Whether it sends back each message.
    pub(crate) echo: bool,
    /// The compression that was agreed on.
    pub(crate) deflate: Option<Deflate>,
}

/// One WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    wire: Wire,
    decoder: Decoder,
    outbox: Outbox,
    rules: Rules,
    /// The window of a client that gets compressed messages.
    window_bits: Option<u8>,
    max_waiting: usize,
    /// What hyper has read behind the handshake.
    leftover: Option<Box<Bytes>>,
    state: State,
    /// A ping or pong has come since the last call of `pinged`.
    pinged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A close frame is in the queue; no frame is queued behind it.
    Closing,
    /// The close frame is sent. The thread reads and drops what the client still sends, so that the close frame reaches it.
    Closed,
}

impl WebSocket {
    /// Takes over an upgraded connection. `max_message` and `max_waiting` limit the bytes of one message and of the queue.
    #[must_use]
    pub(crate) fn new(upgraded: Upgraded, max_message: usize, max_waiting: usize) -> Self {
        Self {
            wire: Wire::new(upgraded.stream, upgraded.session),
            decoder: Decoder::default(),
            outbox: Outbox::default(),
            rules: Rules {
                max_message,
                deflate: upgraded.deflate.is_some(),
            },
            window_bits: upgraded.deflate.map(|agreed| agreed.window_bits),
            max_waiting,
            leftover: Some(upgraded.leftover).filter(|bytes| !bytes.is_empty()).map(Box::new),
            state: State::Open,
            pinged: false,
        }
    }

    /// Reads bytes of the client. Answers pings and close frames.
    fn feed(&mut self, bytes: &mut [u8], take: &mut dyn FnMut(Incoming)) -> Received {
        let (mut pongs, mut goodbye) = (Vec::new(), None);
        let mut pinged = false;
        let fed = self.decoder.feed(bytes, self.rules, |input| {
            match input {
                Input::Message(message) => take(message),
                Input::Ping(payload) => {
                    pinged = true;
                    pongs.push(frame::pong(&payload));
                }
                Input::Pong => pinged = true,
                Input::Close(goodbye_of_client) => {
                    goodbye = Some(goodbye_of_client.map(|(code, _)| code));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        self.pinged |= pinged;
        self.decoder.note_time(clock::now);
        for pong in pongs {
            if self.state == State::Open && self.outbox.bytes() + takes(pong.len()) <= self.max_waiting {
                self.outbox.push(pong, None);
            }
        }
        if let Some(code) = goodbye {
            // The client gets its own code back. This is the only case in which 1000 is sent.
            self.say_goodbye(code, "");
            return Received::Closed(code);
        }
        match fed {
            Ok(_) => Received::All,
            Err(error) => Received::Broken(error.close_code(), error.to_string()),
        }
    }

    fn say_goodbye(&mut self, code: Option<u16>, reason: &str) {
        if self.state == State::Open {
            self.outbox.push(frame::close(code, reason), None);
            self.state = State::Closing;
            // No more bytes are decoded.
            self.decoder = Decoder::default();
        }
    }
}

impl PendingConnection for Upgraded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(self: Box<Self>, registration: &Registration<'_>) -> io::Result<Box<dyn Transport>> {
        let echo = self.echo;
        // The poll reports nothing that was read before: by hyper, or as a part of a record.
        if !self.leftover.is_empty() || self.session.is_some() {
            registration.waker().wake();
        }
        let mut websocket = WebSocket::new(
            *self,
            registration.limits.max_message_bytes,
            registration.limits.max_outbound_bytes,
        );
        registration.watch(websocket.wire.source())?;
        Ok(if echo {
            Box::new(Echo::new(websocket))
        } else {
            Box::new(websocket)
        })
    }
}

impl Transport for WebSocket {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limit(&mut self, max_message_bytes: usize, max_outbound_bytes: usize) {
        self.rules.max_message = max_message_bytes;
        self.max_waiting = max_outbound_bytes;
    }

    fn takes_binary(&self) -> bool {
        true
    }

    fn receive(&mut self, scratch: &mut [u8], take: &mut dyn FnMut(Incoming)) -> Received {
        if let Some(leftover) = self.leftover.take() {
            return match self.feed(&mut leftover.to_vec(), take) {
                Received::All => Received::More,
                other => other,
            };
        }
        match self.wire.read(scratch) {
            Ok(Read::End) => Received::Lost,
            Ok(Read::Bytes { .. }) if self.state != State::Open => Received::More,
            Ok(Read::Bytes { count, more }) => match self.feed(&mut scratch[..count], take) {
                Received::All if more => Received::More,
                other => other,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::All,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::More,
            Err(_) => Received::Lost,
        }
    }

    fn pinged(&mut self) -> bool {
        std::mem::take(&mut self.pinged)
    }

    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow> {
        if self.state != State::Open {
            return Ok(0);
        }
        let wire = match self.window_bits {
            None => frame.wire(),
            Some(window_bits) => frame.deflated(window_bits),
        };
        let mut replaced = 0;
        let takes = takes(wire.len());
        // One message may always wait, however large, or it could never be sent.
        if !self.outbox.is_empty() && self.outbox.bytes() + takes > self.max_waiting {
            replaced = self.outbox.keep_newest();
            // With less room than this, the next message would search the whole queue again.
            if self.outbox.bytes() + takes > self.max_waiting - self.max_waiting / 8 {
                return Err(Overflow);
            }
        }
        self.outbox.push(wire.clone(), replaceable);
        // A client that reads gets every message, however many come at once.
        if replaceable.is_some() && self.outbox.is_behind() && self.flush() == Flushed::Blocked {
            replaced += self.outbox.keep_newest();
        }
        Ok(replaced)
    }

    fn waiting(&self) -> usize {
        self.outbox.bytes() + self.wire.waiting()
    }

    fn unfinished(&self) -> Option<Unfinished> {
        let (message, record) = (self.decoder.unfinished(), self.wire.unfinished());
        let Some(record) = record else { return message };
        let (bytes, since) = message.map_or((0, record.since), |message| (message.bytes, message.since));
        Some(Unfinished {
            bytes: bytes + record.bytes,
            since: since.min(record.since),
        })
    }

    fn flush(&mut self) -> Flushed {
        while !self.outbox.is_empty() {
            match self.outbox.write(&mut self.wire) {
                Ok(true) => {}
                Ok(false) => return Flushed::Blocked,
                Err(_) => return Flushed::Ended,
            }
        }
        match self.wire.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
            Err(_) => return Flushed::Ended,
            Ok(()) => {}
        }
        if self.state == State::Closing {
            self.state = State::Closed;
            self.wire.close_write();
            return Flushed::Ended;
        }
        Flushed::All
    }

    fn offer(&self, bytes: &mut Vec<u8>) -> Option<BorrowedFd<'_>> {
        let plain = self.wire.plain()?;
        self.outbox.offer(bytes).then_some(plain)
    }

    fn written(&mut self, written: io::Result<usize>) -> Flushed {
        match self.outbox.written(written) {
            Ok(true) => self.flush(),
            Ok(false) => Flushed::Blocked,
            Err(_) => Flushed::Ended,
        }
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.say_goodbye(Some(code), reason);
    }

    fn drop_unsent(&mut self) {
        self.wire.reset_on_close();
    }
}
