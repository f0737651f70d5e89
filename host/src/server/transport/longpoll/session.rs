//! What waits for the client of a long-poll session, from one poll to the next.
//!
//! Messages have sequence numbers from 1. Each response says how far it goes, in its token, and the client's next poll brings
//! that position back: it is the ack. Until then messages are kept, so a response that gets lost loses nothing.
//!
//! A client that sends the first token for ever acks nothing that way. It is taken for one once it has had two answers with
//! messages and still polls from position 0; from then on each of its polls acks what the answer before it held. (So until a
//! client has taken up its first token, one lost response is made good, but not two in a row.)
//!
//! There is no clock in here, and nobody waits: [`Session::poll`] says that a poll has to wait, and whoever pushes looks at
//! [`Session::waiting`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::LongPoll;
use crate::server::transport::replaceable::{Replaceable, keep_newest};

/// How many windows a client may let pass between the end of one poll and the next, in halves.
const PATIENCE_HALF_WINDOWS: u32 = 3;

/// Answers with messages after which a client that acks none of them is taken for one that never will.
const UNACKED_ANSWERS: u8 = 2;

/// The messages of one client, and its polls. `M` is a message as it is stored.
#[derive(Debug)]
pub(crate) struct Session<M> {
    limits: Limits,
    /// Those that are not acked.
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
    /// Messages that may be kept.
    pub(crate) messages: usize,
    /// And their size in bytes.
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
    /// Nobody knows yet; it has had so many answers with messages.
    Unknown(u8),
    Yes,
    No,
}

/// A poll that waits. Only the newest one of a session is ever answered with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    number: u64,
    position: u64,
}

/// What a poll leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled<M> {
    /// There are messages: status 200.
    Answer(Answer<M>),
    /// There are none. Ends with [`Session::take`] or [`Session::end_wait`].
    Wait(Ticket),
}

/// What a response holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer<M> {
    /// In order; none for status 204.
    pub(crate) messages: Vec<M>,
    /// For the token: the sequence number of the last message that the client has with this response.
    pub(crate) position: u64,
}

/// The client has too much to read. Its session is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{messages} messages of {bytes} bytes wait for a long-poll client")]
pub(crate) struct Overflow {
    /// How many there are without the one that did not fit.
    pub(crate) messages: usize,
    /// How big they are.
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

    /// Stores a message of so many bytes for the next answer. Where the limits do not allow it, replaceable ones that no
    /// answer has held give way to newer ones. Returns how many did.
    ///
    /// # Errors
    ///
    /// If the limits do not allow it even so. The message is then not stored.
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
            // With less room than this, the next message would have all of them looked through again.
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

    /// The size of all that is not acked.
    #[must_use]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// What an answer has held keeps its sequence number; what comes behind has none yet.
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

    /// Takes a poll with the position of its token. From now on it is the newest: one that waits already will get nothing,
    /// and runs to the end of its window.
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

    /// Takes note of the position in the token that came with a POST: it acks as that of a poll does.
    pub(crate) fn posted(&mut self, position: u64) {
        let arrived = self.taken_up(position);
        self.ack(arrived);
    }

    /// The poll to be answered with [`take`](Self::take), if there is one that waits, and something to say.
    #[must_use]
    pub(crate) fn waiting(&self) -> Option<Ticket> {
        self.waiting.filter(|_| !self.kept.is_empty())
    }

    /// Answers a poll that waits, if it is the newest and there is something to say.
    pub(crate) fn take(&mut self, ticket: Ticket, now: Instant) -> Option<Answer<M>> {
        if self.waiting() != Some(ticket) {
            return None;
        }
        self.waiting = None;
        self.last_poll = now;
        Some(self.answer())
    }

    /// Ends a poll that has waited for its window (the answer is for status 204), or whose client has hung up.
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

    /// When the session dies if no poll comes: one and a half windows after the last one ended. While one waits, never.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting
            .is_none()
            .then(|| self.last_poll + self.limits.window * PATIENCE_HALF_WINDOWS / 2)
    }

    /// Whether the client has gone. Asked at least every one and a half windows, this is true within three of its last poll.
    #[must_use]
    pub(crate) fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Everything that is not acked. An older position than before is a retry, and gets the same again.
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

    /// What has arrived by the position of a token. Only one that came with an answer has any.
    fn taken_up(&mut self, position: u64) -> u64 {
        if position > 0 {
            self.uptake = Uptake::Yes;
        }
        position.min(self.answered)
    }

    /// Forgets what has arrived.
    fn ack(&mut self, arrived: u64) {
        while self.acked < arrived
            && let Some(kept) = self.kept.pop_front()
        {
            self.acked += 1;
            self.kept_bytes -= kept.bytes;
        }
        if self.kept.is_empty() {
            // A session that is idle holds no memory for messages.
            self.kept = VecDeque::new();
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
