//! A WebSocket that sends back each message, for conformance suites.
//!
//! It uses the [`WebSocket`] of channels, so the results of a suite hold for channels too. No message goes any further.

use std::io;
use std::os::fd::BorrowedFd;

use bennu_wire::serializer::{Incoming, Kind};

use super::WebSocket;
use super::frame::{Frame, close_code};
use crate::server::transport::{Flushed, Overflow, Received, Replaceable, Transport, Unfinished};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Echo {
    socket: WebSocket,
    /// A message has come since the last call of `pinged`. The core sees none of them, so they count there as pings.
    heard: bool,
}

impl Echo {
    /// Sends back each message of this connection.
    #[must_use]
    pub(crate) fn new(socket: WebSocket) -> Self {
        Self { socket, heard: false }
    }
}

impl Transport for Echo {
    fn name(&self) -> &'static str {
        self.socket.name()
    }

    fn limit(&mut self, max_message_bytes: usize, max_outbound_bytes: usize) {
        self.socket.limit(max_message_bytes, max_outbound_bytes);
    }

    fn takes_binary(&self) -> bool {
        self.socket.takes_binary()
    }

    fn receive(&mut self, scratch: &mut [u8], _: &mut dyn FnMut(Incoming)) -> Received {
        let mut messages = Vec::new();
        let received = self.socket.receive(scratch, &mut |message| messages.push(message));
        self.heard |= !messages.is_empty();
        for message in messages {
            let frame = match message {
                Incoming::Text(text) => Frame::of(Kind::Text, text.as_bytes()),
                Incoming::Binary(bytes) => Frame::of(Kind::Binary, &bytes),
            };
            if let Err(overflow) = self.socket.send(&frame, None) {
                return Received::Broken(close_code::TRY_AGAIN_LATER, overflow.to_string());
            }
        }
        received
    }

    fn pinged(&mut self) -> bool {
        self.socket.pinged() | std::mem::take(&mut self.heard)
    }

    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow> {
        self.socket.send(frame, replaceable)
    }

    fn waiting(&self) -> usize {
        self.socket.waiting()
    }

    fn unfinished(&self) -> Option<Unfinished> {
        self.socket.unfinished()
    }

    fn flush(&mut self) -> Flushed {
        self.socket.flush()
    }

    fn offer(&self, bytes: &mut Vec<u8>) -> Option<BorrowedFd<'_>> {
        self.socket.offer(bytes)
    }

    fn written(&mut self, written: io::Result<usize>) -> Flushed {
        self.socket.written(written)
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.socket.close(code, reason);
    }

    fn drop_unsent(&mut self) {
        self.socket.drop_unsent();
    }
}
