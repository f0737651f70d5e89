//! The long-poll sessions of one I/O thread. Each is a socket whose transport is a buffer and, at times, a waiting poll.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::DecodeError;
use tokio::sync::oneshot;

use super::Core;
use super::dispatch::Dispatched;
use crate::runtime::id::MemberId;
use crate::server::closes::CloseReason;
use crate::server::socket::{NewSocket, Waiting};
use crate::server::transport::longpoll::session::Limits;
use crate::server::transport::longpoll::{
    Live, LongPoll, PollAnswer, PollRequest, PublishRequest, Published, SessionId, SessionOpened,
};

/// All sessions of one I/O thread.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: HashMap<SessionId, (usize, Rc<RefCell<Live>>)>,
    by_slot: HashMap<usize, SessionId>,
}

impl Sessions {
    /// Whether the socket in this slot is a session. A session ends by its own rules, not by its silence.
    #[must_use]
    pub(crate) fn owns(&self, slot: usize) -> bool {
        self.by_slot.contains_key(&slot)
    }

    /// Forgets the session of a socket that is gone.
    pub(crate) fn forget(&mut self, slot: usize) {
        if let Some(id) = self.by_slot.remove(&slot) {
            self.by_id.remove(&id);
        }
    }

    /// Whether this session is alive.
    #[must_use]
    pub(crate) fn has(&self, id: &SessionId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: &SessionId) -> Option<(usize, Rc<RefCell<Live>>)> {
        self.by_id
            .get(id)
            .filter(|(_, live)| !live.borrow().is_closed())
            .cloned()
    }
}

impl Core {
    /// Opens a session, and replies with its id.
    pub(super) fn open_session(&mut self, info: NewSocket, reply: oneshot::Sender<SessionOpened>, now: Instant) {
        let Some(limits) = info.mount.longpoll_of(info.dialect).map(Limits::from) else {
            return;
        };
        let mut id = SessionId::default();
        if getrandom::fill(&mut id).is_err() {
            return;
        }
        let live = Rc::new(RefCell::new(Live::new(limits, now)));
        let slot = self.open(info, Box::new(LongPoll::new(Rc::clone(&live))), now);
        if let Some(slot) = slot {
            self.sessions.by_id.insert(id, (slot, live));
            self.sessions.by_slot.insert(slot, id);
        }
        if reply.send(slot.map(|_| id)).is_err()
            && let Some(slot) = slot
        {
            // The client hung up before it learned of its session.
            self.drop_socket(slot, CloseReason::ConnectionLost);
        }
    }

    /// Answers a poll, or lets it wait.
    pub(super) fn poll_session(&mut self, request: PollRequest, now: Instant) {
        let Some((slot, live)) = self.sessions.find(&request.session) else {
            let _ = request.reply.send(PollAnswer::Gone);
            return;
        };
        live.borrow_mut().poll(request.position, request.reply, now);
        self.account(slot);
    }

    /// Dispatches the messages of a POST: all of them, or none.
    pub(super) fn publish(&mut self, request: PublishRequest) {
        let Some((slot, live)) = self.sessions.find(&request.session) else {
            let _ = request.reply.send(Published::Gone);
            return;
        };
        live.borrow_mut().posted(request.position);
        let NewSocket {
            serializer, dialect, ..
        } = self.sockets[slot].info;
        let messages: Result<Vec<_>, DecodeError> = request
            .frames
            .into_iter()
            .map(|frame| {
                let bytes = frame.size();
                Ok((serializer.decode(frame)?, bytes))
            })
            .collect();
        let Ok(messages) = messages else {
            let _ = request.reply.send(Published::Malformed);
            return;
        };
        let mut last = Dispatched::Taken;
        for (message, frame_bytes) in messages {
            if self.sockets[slot].closing {
                let _ = request.reply.send(Published::Gone);
                return;
            }
            last = self.dispatch(slot, message, frame_bytes);
        }
        if let Some((member, waiting)) = outcome(dialect, last, request.reply) {
            self.await_join(member, waiting);
        }
    }

    /// Ends sessions that have not been polled for too long.
    pub(super) fn expire_sessions(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for (slot, live) in self.sessions.by_id.values() {
            if live.borrow_mut().expired(now) {
                expired.push(*slot);
            }
        }
        for slot in expired {
            self.drop_socket(slot, CloseReason::NotPolled);
        }
    }
}

/// Answers a POST as soon as its outcome is known. If that is the outcome of a join and not known yet, returns the member that
/// joins, and the waiting request.
fn outcome(dialect: Dialect, dispatched: Dispatched, reply: Waiting) -> Option<(MemberId, Waiting)> {
    let published = match (dialect, dispatched) {
        (Dialect::Modern | Dialect::Supabase, _) | (Dialect::Phoenix011, Dispatched::Taken) => Published::Accepted,
        (Dialect::Phoenix011, Dispatched::Refused) => Published::Refused,
        (Dialect::Phoenix011, Dispatched::Joining(member)) => return Some((member, reply)),
    };
    // The request may have ended.
    let _ = reply.send(published);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, dispatched: Dispatched, expected: Option<Published>) {
        let (reply, mut answer) = oneshot::channel();
        let waits = outcome(dialect, dispatched, reply);
        assert_eq!(answer.try_recv().ok(), expected, "{dialect:?} {dispatched:?}");
        assert_eq!(waits.is_some(), expected.is_none());
    }

    #[test]
    fn only_clients_of_phoenix_0_11_are_told_the_outcome_of_what_they_posted() {
        let joining = Dispatched::Joining(MemberId::new(0, 1, 2));
        check(Dialect::Phoenix011, Dispatched::Taken, Some(Published::Accepted));
        check(Dialect::Phoenix011, Dispatched::Refused, Some(Published::Refused));
        check(Dialect::Phoenix011, joining, None);
        for dispatched in [Dispatched::Taken, Dispatched::Refused, joining] {
            check(Dialect::Modern, dispatched, Some(Published::Accepted));
        }
    }
}
