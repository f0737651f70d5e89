//! WebSocket (RFC 6455), the server's side.

mod connection;
mod echo;
pub mod extension;
pub mod frame;
pub mod handshake;
mod outbox;
pub mod subprotocol;

pub use connection::{Upgraded, WebSocket};
pub use echo::Echo;
