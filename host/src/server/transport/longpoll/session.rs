//! The messages that wait for the client of a long-poll session, from one poll to the next.
//!
//! Messages have sequence numbers from 1. The token of each response holds the position of its last message, and the client's next
//! poll brings that position back: it is the ack. The session keeps messages until then, so a lost response loses none.
//!
//! A client that always sends its first token acks nothing that way. The session recognises it when it has had two answers with
//! messages and still polls from position 0; from then on each of its polls acks the messages of the previous answer. (So until a
//! client has sent its second token, one lost response loses no message, but two in a row do.)
//!
//! There is no clock here, and no call waits: [`Session::poll`] says that a poll has to wait, and the caller that pushes a message
//! looks at [`Session::waiting`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::LongPoll;
use crate::server::transport::Frame;
use crate::server::transport::queue;
use crate::server::transport::replaceable::{Replaceable, keep_newest};

/// How many windows a client may let pass between the end of one poll and the next, in halves.
const PATIENCE_HALF_WINDOWS: u32 = 3;

/// Answers with messages after which a client that acks none of them is taken for one that never will.
const UNACKED_ANSWERS: u8 = 2;

/// The messages of one client, and its polls. `M` is a message as it is stored.
#[derive(Debug)]
pub(crate) struct Session<M> {
    limits: Limits,
    /// The messages that are not acked.
    kept: VecDeque<Kept<M>>,
    kept_bytes: usize,
    /// The sequence number before the first kept message's.
    acked: u64,
    /// The highest sequence number that an answer held.
    answered: u64,
    uptake: Uptake,
    waiting: Option<Ticket>,
    polls: u64,
    /// When the last poll came, or ended if it had to wait.
    last_poll: Instant,
}

const _: () = assert!(queue::PLACE >= queue::place::<Kept<Frame>>());

#[derive(Debug)]
struct Kept<M> {
    message: M,
    bytes: usize,
    replaceable: Option<Replaceable>,
}

/// The bounds of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a poll waits.
    pub(crate) window: Duration,
    /// How many messages it keeps.
    pub(crate) messages: usize,
    /// How much memory they may take, in bytes.
    pub(crate) bytes: usize,
}

impl From<&LongPoll> for Limits {
    fn from(config: &LongPoll) -> Self {
        Self {
            window: config.window,
            messages: config.max_buffer_messages,
            bytes: config.max_buffer_bytes,
        }
    }
}

/// Whether the client sends back the tokens that it is given.
#[derive(Clone, Copy, Debug)]
enum Uptake {
    /// It is not known yet. The client has had so many answers with messages.
    Unknown(u8),
    Yes,
    No,
}

/// A poll that waits. Only the newest poll of a session is answered with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    number: u64,
    position: u64,
}

/// The outcome of a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled<M> {
    /// There are messages: status 200.
    Answer(Answer<M>),
    /// There are none. The wait ends with [`Session::take`] or [`Session::end_wait`].
    Wait(Ticket),
}

/// The content of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer<M> {
    /// In order; none for status 204.
    pub(crate) messages: Vec<M>,
    /// For the token: the sequence number of the last message that the client has with this response.
    pub(crate) position: u64,
}

/// Too much waits for the client. The caller ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{messages} messages of {bytes} bytes wait for a long-poll client")]
pub(crate) struct Overflow {
    /// How many messages wait, without the one that did not fit.
    pub(crate) messages: usize,
    /// How much memory they take.
    pub(crate) bytes: usize,
}

impl<M: Clone> Session<M> {
    /// A session whose client has been given a token with position 0.
    #[must_use]
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            kept: VecDeque::new(),
            kept_bytes: 0,
            acked: 0,
            answered: 0,
            uptake: Uptake::Unknown(0),
            waiting: None,
            polls: 0,
            last_poll: now,
        }
    }

    /// Stores a message that takes so many bytes for the next answer. If the limits do not allow it, newer replaceable messages first
    /// replace older ones that no answer has held. Returns how many they replaced.
    ///
    /// # Errors
    ///
    /// If the limits still do not allow it. The message is then not stored.
    pub(crate) fn push(
        &mut self,
        message: M,
        bytes: usize,
        replaceable: Option<Replaceable>,
    ) -> Result<usize, Overflow> {
        let Limits {
            messages: max_messages,
            bytes: max_bytes,
            ..
        } = self.limits;
        let mut replaced = 0;
        if self.kept.len() >= max_messages || self.kept_bytes + bytes > max_bytes {
            replaced = self.keep_newest();
            // With less room than this, the next message would search all of them again.
            if self.kept.len() > max_messages - max_messages.div_ceil(8)
                || self.kept_bytes + bytes > max_bytes - max_bytes / 8
            {
                return Err(Overflow {
                    messages: self.kept.len(),
                    bytes: self.kept_bytes,
                });
            }
        }
        self.kept.push_back(Kept {
            message,
            bytes,
            replaceable,
        });
        self.kept_bytes += bytes;
        Ok(replaced)
    }

    /// The memory of the messages that are not acked, in bytes.
    #[must_use]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Messages that an answer has held keep their sequence numbers; those behind them have none yet.
    fn keep_newest(&mut self) -> usize {
        let answered = usize::try_from(self.answered - self.acked).unwrap_or(usize::MAX);
        let (mut gone, mut bytes) = (0, 0);
        keep_newest(
            &mut self.kept,
            answered,
            |kept| kept.replaceable,
            |kept| {
                gone += 1;
                bytes += kept.bytes;
            },
        );
        self.kept_bytes -= bytes;
        gone
    }

    /// Takes a poll with the position of its token. It is the newest from now on: an earlier one that waits gets no message, and
    /// waits to the end of its window.
    pub(crate) fn poll(&mut self, position: u64, now: Instant) -> Polled<M> {
        self.last_poll = now;
        let arrived = match (self.uptake, position) {
            (Uptake::Unknown(UNACKED_ANSWERS..) | Uptake::No, 0) => {
                self.uptake = Uptake::No;
                self.answered
            }
            _ => self.taken_up(position),
        };
        self.ack(arrived);
        self.polls += 1;
        if self.kept.is_empty() {
            let ticket = Ticket {
                number: self.polls,
                position: self.acked,
            };
            self.waiting = Some(ticket);
            Polled::Wait(ticket)
        } else {
            self.waiting = None;
            Polled::Answer(self.answer())
        }
    }

    /// Acks with the position in the token of a POST, as a poll does.
    pub(crate) fn posted(&mut self, position: u64) {
        let arrived = self.taken_up(position);
        self.ack(arrived);
    }

    /// The poll that [`take`](Self::take) would answer: one waits, and there are messages.
    #[must_use]
    pub(crate) fn waiting(&self) -> Option<Ticket> {
        self.waiting.filter(|_| !self.kept.is_empty())
    }

    /// Answers a waiting poll, if it is the newest and there are messages.
    pub(crate) fn take(&mut self, ticket: Ticket, now: Instant) -> Option<Answer<M>> {
        if self.waiting() != Some(ticket) {
            return None;
        }
        self.waiting = None;
        self.last_poll = now;
        Some(self.answer())
    }

    /// Ends a poll whose window is over (the answer is for status 204) or whose client has hung up.
    pub(crate) fn end_wait(&mut self, ticket: Ticket, now: Instant) -> Answer<M> {
        if self.waiting == Some(ticket) {
            self.waiting = None;
            self.last_poll = now;
        }
        Answer {
            messages: Vec::new(),
            position: ticket.position,
        }
    }

    /// When the session ends if no poll comes: one and a half windows after the end of the last poll. `None` while a poll waits.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting
            .is_none()
            .then(|| self.last_poll + self.limits.window * PATIENCE_HALF_WINDOWS / 2)
    }

    /// Whether the client has gone. If called at least every one and a half windows, it is true within three windows of the last
    /// poll.
    #[must_use]
    pub(crate) fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// All messages that are not acked. A poll with an older position is a retry, and gets the same messages again.
    fn answer(&mut self) -> Answer<M> {
        if let Uptake::Unknown(answers) = &mut self.uptake {
            *answers = answers.saturating_add(1);
        }
        let position = self.acked + self.kept.len() as u64;
        self.answered = self.answered.max(position);
        Answer {
            messages: self.kept.iter().map(|kept| kept.message.clone()).collect(),
            position,
        }
    }

    /// The position up to which messages have arrived, by that of a token.
    fn taken_up(&mut self, position: u64) -> u64 {
        if position > 0 {
            self.uptake = Uptake::Yes;
        }
        position.min(self.answered)
    }

    /// Forgets messages that have arrived.
    fn ack(&mut self, arrived: u64) {
        while self.acked < arrived
            && let Some(kept) = self.kept.pop_front()
        {
            self.acked += 1;
            self.kept_bytes -= kept.bytes;
        }
        if self.kept.is_empty() {
            // An idle session holds no memory for messages.
            self.kept = VecDeque::new();
        } else {
            queue::shrink(&mut self.kept);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
