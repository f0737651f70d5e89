//! What is asked of a session, by HTTP requests that may arrive on any I/O thread.

use bennu_wire::serializer::Incoming;
use tokio::sync::oneshot;

use super::session::Answer;
use crate::server::transport::Frame;

/// Tells a session from all others: random.
pub(crate) type SessionId = [u8; 16];

/// A session has been opened, if there was room for it.
pub(crate) type SessionOpened = Option<SessionId>;

/// A GET of a client that has a token.
#[derive(Debug)]
pub(crate) struct PollRequest {
    /// From the token.
    pub(crate) session: SessionId,
    /// From the token: the last message that the client has.
    pub(crate) position: u64,
    /// Where the response waits; gone when its window is over, or the client is.
    pub(crate) reply: oneshot::Sender<PollAnswer>,
}

/// What a poll leads to.
#[derive(Debug)]
pub(crate) enum PollAnswer {
    /// There are messages.
    Messages(Answer<Frame>),
    /// There is no such session any more.
    Gone,
}

/// A POST of a client that has a token.
#[derive(Debug)]
pub(crate) struct PublishRequest {
    /// From the token.
    pub(crate) session: SessionId,
    /// From the token: the last message that the client has.
    pub(crate) position: u64,
    /// What it said.
    pub(crate) frames: Vec<Incoming>,
    /// Where the response waits.
    pub(crate) reply: oneshot::Sender<Published>,
}

/// What became of the messages of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// They were dispatched; in the Phoenix 0.11 dialect, and nobody refused it.
    Accepted,
    /// In the Phoenix 0.11 dialect: no route, a topic that is not joined, or a join that was refused.
    Refused,
    /// One of them is no message. None was dispatched.
    Malformed,
    /// There is no such session any more.
    Gone,
}
