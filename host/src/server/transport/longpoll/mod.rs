//! Long polling, for clients that cannot use a WebSocket: its bodies, its tokens, and the messages between two polls.

pub(crate) mod body;
mod live;
mod request;
pub(crate) mod session;
pub(crate) mod token;

pub(crate) use live::{Live, LongPoll};
pub(crate) use request::{PollAnswer, PollRequest, PublishRequest, Published, SessionId, SessionOpened};
