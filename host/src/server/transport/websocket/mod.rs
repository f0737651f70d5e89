//! WebSocket (RFC 6455), the server's side.

mod connection;
mod echo;
pub(crate) mod extension;
pub(crate) mod frame;
pub(crate) mod handshake;
mod outbox;
pub(crate) mod subprotocol;

pub(crate) use connection::{Upgraded, WebSocket};
pub(crate) use echo::Echo;
