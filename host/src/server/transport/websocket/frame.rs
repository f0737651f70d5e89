//! WebSocket framing (RFC 6455): bytes from a client become complete messages, and messages for clients become bytes.
//!
//! [`Decoder`] reads, [`Frame`] is a message ready to be sent to any number of clients. There is no I/O here.

mod decode;
mod deflate;
mod encode;
mod mask;
#[cfg(test)]
mod tests;
mod utf8;

pub(crate) use decode::{Decoder, Input, ProtocolError, Rules};
pub(crate) use deflate::WINDOW_BITS;
pub use encode::Frame;
pub(crate) use encode::{close, pong};

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A further fragment of a message.
    Continuation,
    /// A message in UTF-8, or its first fragment.
    Text,
    /// A binary message, or its first fragment.
    Binary,
    /// Ends the connection.
    Close,
    /// Asks for a pong with the same payload.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    /// Reads the low half of a frame's first byte.
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The codes of close frames that the server sends. 1000 is not among them, because clients take it as final.
pub(crate) mod close_code {
    /// A close frame without a code counts as one with this. Never sent.
    pub(crate) const NONE: u16 = 1005;
    /// A broadcast of `disconnect` closed it.
    pub(crate) const GOING_AWAY: u16 = 1001;
    /// The client broke RFC 6455, was silent too long, or took too long for a message.
    pub(crate) const PROTOCOL_ERROR: u16 = 1002;
    /// Text that is not UTF-8.
    pub(crate) const INVALID_PAYLOAD: u16 = 1007;
    /// The client goes on beyond a limit of the server.
    pub(crate) const POLICY_VIOLATION: u16 = 1008;
    /// The message is too big.
    pub(crate) const TOO_BIG: u16 = 1009;
    /// A frame that cannot be decoded, or a fault of the server.
    pub(crate) const INTERNAL_ERROR: u16 = 1011;
    /// The server is shutting down.
    pub(crate) const RESTART: u16 = 1012;
    /// The client reads too slowly. It may come back; 1008, which says that it broke a rule, makes some clients stay away.
    pub(crate) const TRY_AGAIN_LATER: u16 = 1013;
    /// The token has expired: "Unauthorized" in the registry of close codes.
    pub(crate) const UNAUTHORIZED: u16 = 3000;
}
