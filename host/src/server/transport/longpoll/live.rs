//! A live session: its messages, the poll that waits for them, and the transport of its socket.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use bennu_wire::serializer::Incoming;
use tokio::sync::oneshot;

use super::request::PollAnswer;
use super::session::{Limits, Polled, Session, Ticket};
use crate::runtime::clock;
use crate::server::transport::{Flushed, Frame, Overflow, Received, Replaceable, Transport, takes};

/// A live session.
#[derive(Debug)]
pub(crate) struct Live {
    session: Session<Frame>,
    waiting: Option<(Ticket, oneshot::Sender<PollAnswer>)>,
    closed: bool,
}

/// The transport of a session's socket.
#[derive(Debug)]
pub(crate) struct LongPoll(Rc<RefCell<Live>>);

impl Live {
    /// A new session.
    #[must_use]
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            session: Session::new(limits, now),
            waiting: None,
            closed: false,
        }
    }

    /// Whether it has been closed.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Answers a poll of a client that has all messages up to `position`, or lets it wait. An older poll that waits gets no answer,
    /// and waits to the end of its window.
    pub(crate) fn poll(&mut self, position: u64, reply: oneshot::Sender<PollAnswer>, now: Instant) {
        match self.session.poll(position, now) {
            Polled::Answer(answer) => {
                self.waiting = None;
                let _ = reply.send(PollAnswer::Messages(answer));
            }
            Polled::Wait(ticket) => self.waiting = Some((ticket, reply)),
        }
    }

    /// Takes note of a POST of a client that has all messages up to `position`.
    pub(crate) fn posted(&mut self, position: u64) {
        self.session.posted(position);
    }

    /// Whether its last poll was too long ago.
    pub(crate) fn expired(&mut self, now: Instant) -> bool {
        self.let_go(now);
        self.session.expired(now)
    }

    /// Ends the wait of a poll whose window is over or whose client has hung up.
    fn let_go(&mut self, now: Instant) {
        if let Some((ticket, _)) = self.waiting.take_if(|(_, reply)| reply.is_closed()) {
            self.session.end_wait(ticket, now);
        }
    }
}

impl LongPoll {
    /// The transport of a session.
    #[must_use]
    pub(crate) fn new(live: Rc<RefCell<Live>>) -> Self {
        Self(live)
    }
}

impl Transport for LongPoll {
    fn name(&self) -> &'static str {
        "longpoll"
    }

    fn takes_binary(&self) -> bool {
        // phoenix.js reads every message of a poll as JSON text, and fails at anything else.
        false
    }

    fn receive(&mut self, _scratch: &mut [u8], _take: &mut dyn FnMut(Incoming)) -> Received {
        // A client's messages come by POST, as entries of the inbox.
        Received::All
    }

    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow> {
        let mut live = self.0.borrow_mut();
        if live.closed {
            return Ok(0);
        }
        let wire = frame.wire().clone();
        let takes = takes(wire.len());
        // Without the compressed forms that other clients of a broadcast get.
        live.session
            .push(Frame::from(wire), takes, replaceable)
            .map_err(|_| Overflow)
    }

    fn waiting(&self) -> usize {
        self.0.borrow().session.waiting_bytes()
    }

    fn flush(&mut self) -> Flushed {
        let (mut live, now) = (self.0.borrow_mut(), clock::now());
        live.let_go(now);
        let Some((ticket, _)) = &live.waiting else {
            return Flushed::All;
        };
        let ticket = *ticket;
        if let Some(answer) = live.session.take(ticket, now)
            && let Some((_, reply)) = live.waiting.take()
        {
            // If the client hangs up at this moment, the messages stay, and its next poll gets them.
            let _ = reply.send(PollAnswer::Messages(answer));
        }
        Flushed::All
    }

    fn close(&mut self, _code: u16, _reason: &str) {
        let mut live = self.0.borrow_mut();
        live.closed = true;
        if let Some((_, reply)) = live.waiting.take() {
            let _ = reply.send(PollAnswer::Gone);
        }
    }
}
