//! Requests to a session. The HTTP request may arrive on any I/O thread.

use bennu_wire::serializer::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::session::Answer;
use crate::server::transport::Frame;

/// Identifies a session: random.
pub(crate) type SessionId = [u8; 16];

/// The new session; `None` if there was no room for it.
pub(crate) type SessionOpened = Option<SessionId>;

/// A GET of a client that has a token.
#[derive(Debug)]
pub(crate) struct PollRequest {
    /// From the token.
    pub(crate) session: SessionId,
    /// From the token: the last message that the client has.
    pub(crate) position: u64,
    /// Where the response waits. Closed when the window is over or the client is gone.
    pub(crate) reply: oneshot::Sender<PollAnswer>,
}

/// The outcome of a poll.
#[derive(Debug)]
pub(crate) enum PollAnswer {
    /// There are messages.
    Messages(Answer<Frame>),
    /// The session has ended.
    Gone,
}

/// A POST of a client that has a token.
#[derive(Debug)]
pub(crate) struct PublishRequest {
    /// From the token.
    pub(crate) session: SessionId,
    /// From the token: the last message that the client has.
    pub(crate) position: u64,
    /// Its messages.
    pub(crate) frames: Vec<Incoming>,
    /// Where the response waits.
    pub(crate) reply: oneshot::Sender<Published>,
}

/// The outcome of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Published {
    /// Its messages were dispatched; in the Phoenix 0.11 dialect, and not refused.
    Accepted,
    /// In the Phoenix 0.11 dialect: no route, a topic that is not joined, or a join that was refused.
    Refused,
    /// One of its messages cannot be decoded. None was dispatched.
    Malformed,
    /// The session has ended.
    Gone,
}
