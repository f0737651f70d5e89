//! The long-poll sessions of one I/O thread: each is a socket whose transport is a buffer and, at times, a waiting poll.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use bennu_plugin::abi::reason as end;
use tokio::sync::oneshot;

use super::session::{Answer, Limits, Polled, Session, Ticket};
use crate::io::Core;
use crate::serializer::Incoming;
use crate::socket::{Dispatched, NewSocket};
use crate::transport::{Flushed, Frame, Overflow, Received, Replaceable, Transport};

/// Tells a session from all others: random.
pub type SessionId = [u8; 16];

/// A session has been opened, if there was room for it.
pub type SessionOpened = Option<SessionId>;

/// A GET of a client that has a token.
#[derive(Debug)]
pub struct PollRequest {
    /// From the token.
    pub session: SessionId,
    /// From the token: the last message that the client has.
    pub position: u64,
    /// Where the response waits; gone when its window is over, or the client is.
    pub reply: oneshot::Sender<PollAnswer>,
}

/// What a poll leads to.
#[derive(Debug)]
pub enum PollAnswer {
    /// There are messages.
    Messages(Answer<Frame>),
    /// There is no such session any more.
    Gone,
}

/// A POST of a client that has a token.
#[derive(Debug)]
pub struct PublishRequest {
    /// From the token.
    pub session: SessionId,
    /// From the token: the last message that the client has.
    pub position: u64,
    /// What it said.
    pub frames: Vec<Incoming>,
    /// Where the response waits.
    pub reply: oneshot::Sender<Published>,
}

/// What became of the messages of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// They were dispatched; in the seeds' dialect, and nobody refused it.
    Accepted,
    /// In the seeds' dialect: no route, a topic that is not joined, or a join that was refused.
    Refused,
    /// One of them is no message. None was dispatched.
    Malformed,
    /// There is no such session any more.
    Gone,
}

/// All sessions of one I/O thread.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: HashMap<SessionId, (usize, Rc<RefCell<Live>>)>,
    by_slot: HashMap<usize, SessionId>,
}

/// A session that lives.
#[derive(Debug)]
struct Live {
    session: Session<Frame>,
    waiting: Option<(Ticket, oneshot::Sender<PollAnswer>)>,
    closed: bool,
}

/// The transport of a session's socket.
#[derive(Debug)]
struct LongPoll(Rc<RefCell<Live>>);

impl Sessions {
    /// Whether the socket in this slot is a session: it is looked after here, not by its silence.
    #[must_use]
    pub fn owns(&self, slot: usize) -> bool {
        self.by_slot.contains_key(&slot)
    }

    /// Forgets the session of a socket that is gone.
    pub fn forget(&mut self, slot: usize) {
        if let Some(id) = self.by_slot.remove(&slot) {
            self.by_id.remove(&id);
        }
    }

    fn find(&self, id: &SessionId) -> Option<(usize, Rc<RefCell<Live>>)> {
        self.by_id.get(id).filter(|(_, live)| !live.borrow().closed).cloned()
    }
}

impl Core {
    /// Opens a session. Its id goes to the one who asked.
    pub(crate) fn open_session(&mut self, info: NewSocket, reply: oneshot::Sender<SessionOpened>, now: Instant) {
        let Some(limits) = info.dialect.longpoll(&info.mount).map(Limits::from) else {
            return;
        };
        let mut id = SessionId::default();
        if getrandom::fill(&mut id).is_err() {
            return;
        }
        let live = Rc::new(RefCell::new(Live {
            session: Session::new(limits, now),
            waiting: None,
            closed: false,
        }));
        let slot = self.open(info, Box::new(LongPoll(Rc::clone(&live))), now);
        if let Some(slot) = slot {
            self.sessions.by_id.insert(id, (slot, live));
            self.sessions.by_slot.insert(slot, id);
        }
        if reply.send(slot.map(|_| id)).is_err()
            && let Some(slot) = slot
        {
            // The client hung up before it knew of its session.
            self.drop_socket(slot, end::CLOSED);
        }
    }

    /// Answers a poll, or lets it wait.
    pub(crate) fn poll_session(&mut self, request: PollRequest, now: Instant) {
        let Some((slot, live)) = self.sessions.find(&request.session) else {
            let _ = request.reply.send(PollAnswer::Gone);
            return;
        };
        let mut live = live.borrow_mut();
        match live.session.poll(request.position, now) {
            Polled::Answer(answer) => {
                live.waiting = None;
                let _ = request.reply.send(PollAnswer::Messages(answer));
            }
            // An older poll that waits hears nothing, and runs to the end of its window.
            Polled::Wait(ticket) => live.waiting = Some((ticket, request.reply)),
        }
        drop(live);
        self.account(slot);
    }

    /// Dispatches the messages of a POST: all of them, or none.
    pub(crate) fn publish(&mut self, request: PublishRequest) {
        let Some((slot, live)) = self.sessions.find(&request.session) else {
            let _ = request.reply.send(Published::Gone);
            return;
        };
        live.borrow_mut().session.posted(request.position);
        let NewSocket {
            serializer, dialect, ..
        } = self.sockets[slot].info;
        let messages: Result<Vec<_>, _> = request
            .frames
            .into_iter()
            .map(|frame| serializer.decode(frame))
            .collect();
        let Ok(messages) = messages else {
            let _ = request.reply.send(Published::Malformed);
            return;
        };
        let mut last = Dispatched::Taken;
        for message in messages {
            self.hub().metrics.messages_in.inc();
            last = self.dispatch(slot, message);
        }
        if let Some((member, waiting)) = dialect.publish(last, request.reply) {
            self.await_join(member, waiting);
        }
    }

    /// Ends sessions that have not been polled for too long.
    pub(crate) fn expire_sessions(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for (slot, live) in self.sessions.by_id.values() {
            let mut live = live.borrow_mut();
            live.let_go(now);
            if live.session.expired(now) {
                expired.push(*slot);
            }
        }
        for slot in expired {
            self.drop_socket(slot, end::INACTIVE);
        }
    }
}

impl Live {
    /// Ends the wait of a poll whose window is over, or whose client has hung up.
    fn let_go(&mut self, now: Instant) {
        if let Some((ticket, _)) = self.waiting.take_if(|(_, reply)| reply.is_closed()) {
            self.session.end_wait(ticket, now);
        }
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
        // What a client says comes by POST, as an entry of the inbox.
        Received::All
    }

    fn send(&mut self, frame: &Frame, replaceable: Option<Replaceable>) -> Result<usize, Overflow> {
        let mut live = self.0.borrow_mut();
        if live.closed {
            return Ok(0);
        }
        live.session
            .push(frame.clone(), frame.wire().len(), replaceable)
            .map_err(|_| Overflow)
    }

    fn waiting(&self) -> usize {
        self.0.borrow().session.waiting_bytes()
    }

    fn flush(&mut self) -> Flushed {
        let (mut live, now) = (self.0.borrow_mut(), Instant::now());
        live.let_go(now);
        let Some((ticket, _)) = &live.waiting else {
            return Flushed::All;
        };
        let ticket = *ticket;
        if let Some(answer) = live.session.take(ticket, now)
            && let Some((_, reply)) = live.waiting.take()
        {
            // If the client hangs up just now, the messages stay, and its next poll gets them.
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
