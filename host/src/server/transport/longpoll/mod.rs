//! Long polling, for clients that no WebSocket reaches: what stands in its bodies and tokens, and what waits between polls.

pub(crate) mod body;
mod live;
mod request;
pub(crate) mod session;
pub(crate) mod token;

pub(crate) use live::{Live, LongPoll};
pub(crate) use request::{PollAnswer, PollRequest, PublishRequest, Published, SessionId, SessionOpened};
