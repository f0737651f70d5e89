//! Long polling, for clients that no WebSocket reaches: what stands in its bodies and tokens, and what waits between polls.

pub mod body;
pub mod session;
mod sessions;
pub mod token;

pub use sessions::{PollAnswer, PollRequest, PublishRequest, Published, SessionId, SessionOpened, Sessions};
