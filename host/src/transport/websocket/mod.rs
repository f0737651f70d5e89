//! WebSocket (RFC 6455), the server's side.

mod connection;
pub mod frame;
pub mod handshake;
pub mod subprotocol;

pub use connection::{Upgraded, WebSocket};
