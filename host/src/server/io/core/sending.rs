//! How messages go out: encoded, queued, gathered until the end of the turn, and written. And what happens to clients that do not
//! keep up, or do not finish their own messages.

use std::time::Instant;

use bennu_wire::message::Outgoing;
use bennu_wire::serializer::EncodeError;

use super::{Core, WRITES};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::server::closes::{CloseReason, Traffic};
use crate::server::io::writes::Written;
use crate::server::socket::{Encoding, Socket};
use crate::server::transport::{Flushed, Frame, Replaceable, takes};

impl Core {
    /// Encodes and queues one message for one client.
    pub(super) fn send(&mut self, slot: usize, message: &Outgoing<'_>) {
        let Some(socket) = self.sockets.get(slot) else { return };
        let frame = encode(socket.encoding(), message);
        self.send_encoded(slot, frame);
    }

    /// Queues a message that was encoded for one client.
    pub(super) fn send_encoded(&mut self, slot: usize, frame: Result<Frame, EncodeError>) {
        match frame {
            Ok(frame) => {
                self.send_frame(slot, &frame, None);
            }
            Err(error) => {
                self.hub().metrics.withheld_messages.inc();
                let Some(socket) = self.sockets.get(slot) else { return };
                let peer = socket.info.peer;
                client_line!(
                    ERROR,
                    self.hub().client_lines,
                    "not encoded",
                    Source::of(peer),
                    connection = socket.info.connection,
                    %peer,
                    %error,
                    "cannot encode a message"
                );
            }
        }
    }

    /// Queues an encoded message; it goes out at the end of the turn, together with the other messages of the client. If too much
    /// waits for the client, even after another write, the client is closed at the end of the turn, and gets no further message.
    /// Returns whether it is queued.
    pub(super) fn send_frame(&mut self, slot: usize, frame: &Frame, replaceable: Option<Replaceable>) -> bool {
        let Some(socket) = self.sockets.get_mut(slot) else {
            return false;
        };
        let Some(transport) = &mut socket.transport else {
            return false;
        };
        if socket.slow {
            return false;
        }
        let sent = transport.send(frame, replaceable).or_else(|_| {
            transport.flush();
            transport.send(frame, replaceable)
        });
        let Ok(replaced) = sent else {
            socket.slow = true;
            self.slow.push((slot, socket.serial));
            return false;
        };
        let bytes = frame.wire().len();
        self.gathered += takes(bytes);
        for traffic in [&mut socket.traffic, &mut self.traffic] {
            traffic.messages_out += 1;
            traffic.bytes_out += bytes as u64;
        }
        if replaced > 0 {
            self.state.hub.metrics.replaced_messages.inc_by(replaced as u64);
        }
        self.mark(slot);
        true
    }

    /// Counts a message of a client, in a frame of this size.
    pub(super) fn count_in(&mut self, slot: usize, frame_bytes: usize) {
        for traffic in [&mut self.sockets[slot].traffic, &mut self.traffic] {
            traffic.messages_in += 1;
            traffic.bytes_in += frame_bytes as u64;
        }
    }

    /// Adds what this thread has carried to the metrics.
    fn tell_traffic(&mut self) {
        let traffic = std::mem::take(&mut self.traffic);
        if traffic == Traffic::default() {
            return;
        }
        let metrics = &self.state.hub.metrics;
        metrics.messages_in.inc_by(traffic.messages_in);
        metrics.bytes_in.inc_by(traffic.bytes_in);
        metrics.messages_out.inc_by(traffic.messages_out);
        metrics.bytes_out.inc_by(traffic.bytes_out);
    }

    pub(super) fn mark(&mut self, slot: usize) {
        if let Some(socket) = self.sockets.get_mut(slot)
            && !std::mem::replace(&mut socket.dirty, true)
        {
            self.dirty.push_back(slot);
        }
    }

    pub(super) fn flush(&mut self, slot: usize) {
        self.flush_after(slot, None);
    }

    /// Writes the messages that wait for a client. `written` is the outcome of what it offered before.
    pub(super) fn flush_after(&mut self, slot: usize, written: Written) {
        let Some(socket) = self.sockets.get_mut(slot) else {
            return;
        };
        let Some(transport) = &mut socket.transport else { return };
        let flushed = match written {
            Some(written) => transport.written(written),
            None => transport.flush(),
        };
        // A connection that has said goodbye keeps its slot until the client hangs up or the tick finds it.
        match flushed {
            Flushed::All => socket.stalled = None,
            Flushed::Blocked => drop(socket.stalled.get_or_insert_with(clock::now)),
            Flushed::Ended => {}
        }
        if flushed == Flushed::Ended && !socket.closing {
            self.drop_socket(slot, CloseReason::ConnectionLost);
        } else {
            self.account(slot);
        }
    }

    /// Notes how much waits for a client. If that is too much for all clients of the thread together, drops the client at once: a
    /// goodbye would have to wait behind all the rest.
    pub(super) fn account(&mut self, slot: usize) {
        let Some(socket) = self.sockets.get_mut(slot) else {
            return;
        };
        let waiting = socket.transport.as_ref().map_or(0, |transport| transport.waiting());
        let before = std::mem::replace(&mut socket.unsent, waiting);
        if waiting == before {
            return;
        }
        self.unsent.change(before, waiting);
        let limit = self.routing.config.limits.max_outbound_total_bytes / self.state.threads();
        if waiting > before && self.unsent.is_too_much(waiting, limit) {
            self.hub().metrics.slow_consumers.inc();
            self.cut_off(slot, CloseReason::UnsentTotal);
        }
    }

    /// Notes how much a client has sent of a message that is not complete. If that is too much for all clients of the thread together,
    /// closes the client.
    pub(super) fn account_unfinished(&mut self, slot: usize, now: usize) {
        let Some(socket) = self.sockets.get_mut(slot) else {
            return;
        };
        let before = std::mem::replace(&mut socket.unfinished, now);
        self.unfinished.change(before, now);
        let limit = self.routing.config.limits.max_inbound_total_bytes / self.state.threads();
        if now > before && self.unfinished.is_too_much(now, limit) {
            self.close(slot, CloseReason::UnfinishedTotal);
        }
    }

    /// Closes clients that take too long for a message.
    pub(super) fn end_unfinished(&mut self, now: Instant) {
        let timeout = self.routing.config.limits.message_timeout;
        let is_late = |socket: &Socket| {
            if socket.unfinished == 0 || socket.closing {
                return false;
            }
            let unfinished = socket.transport.as_ref().and_then(|transport| transport.unfinished());
            unfinished.is_some_and(|unfinished| now.saturating_duration_since(unfinished.since) > timeout)
        };
        let sockets = self.sockets.iter();
        let late: Vec<usize> = sockets
            .filter(|(_, socket)| is_late(socket))
            .map(|(slot, _)| slot)
            .collect();
        for slot in late {
            self.receive_rest(slot, now);
            if self.sockets.get(slot).is_some_and(is_late) {
                self.close(slot, CloseReason::UnfinishedMessage);
            }
        }
    }

    /// Drops clients that take nothing of what waits for them, though they may send.
    pub(super) fn end_stalled(&mut self, now: Instant) {
        let timeout = self.routing.config.limits.idle_timeout;
        let is_late = |since: Instant| now.saturating_duration_since(since) > timeout;
        let sockets = self.sockets.iter();
        let late: Vec<usize> = sockets
            .filter(|(_, socket)| !socket.closing && socket.stalled.is_some_and(is_late))
            .map(|(slot, _)| slot)
            .collect();
        for slot in late {
            self.flush(slot);
            if { self.sockets.get(slot) }.is_some_and(|socket| socket.stalled.is_some_and(is_late)) {
                self.hub().metrics.slow_consumers.inc();
                self.cut_off(slot, CloseReason::NotReading);
            }
        }
    }

    /// A transport that says goodbye drops a message that is not complete.
    pub(super) fn forget_unfinished(&mut self, slot: usize) {
        if let Some(socket) = self.sockets.get_mut(slot) {
            let before = std::mem::take(&mut socket.unfinished);
            self.unfinished.change(before, 0);
        }
    }

    /// Writes the gathered messages, and closes clients that do not keep up.
    pub(super) fn finish_turn(&mut self) {
        // Before anything is written: whoever has read a message finds it counted.
        self.tell_traffic();
        for (slot, serial) in std::mem::take(&mut self.slow) {
            if self.sockets.get(slot).is_some_and(|socket| socket.serial == serial) {
                self.hub().metrics.slow_consumers.inc();
                self.close(slot, CloseReason::TooSlow);
            }
        }
        let mut turn = std::mem::take(&mut self.turn);
        turn.extend(self.dirty.drain(..self.dirty.len().min(WRITES)));
        if self.dirty.is_empty() {
            self.gathered = 0;
        }
        for slot in &turn {
            if let Some(socket) = self.sockets.get_mut(*slot) {
                socket.dirty = false;
            }
        }
        let mut written = std::mem::take(&mut self.written);
        let offer = |slot, bytes: &mut _| self.sockets.get(slot)?.transport.as_ref()?.offer(bytes);
        self.writes.make(&turn, offer, &mut written);
        for (slot, written) in turn.drain(..).zip(written.drain(..)) {
            self.flush_after(slot, written);
        }
        (self.turn, self.written) = (turn, written);
    }
}

/// Encodes a message.
///
/// # Errors
///
/// If it does not fit the version.
pub(super) fn encode(encoding: Encoding, message: &Outgoing<'_>) -> Result<Frame, EncodeError> {
    encoding.serializer.carries(message)?;
    let text;
    let message = if message.payload().is_binary() && !encoding.takes_binary {
        text = message.payload().as_text();
        message.with_payload(&text)
    } else {
        *message
    };
    Frame::build(|out| encoding.serializer.encode(&message, out))
}
