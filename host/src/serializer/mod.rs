//! How messages are written on the wire. One [`Serializer`] per protocol version; a socket keeps the one it
//! negotiated, or that of its mount's [dialect](crate::socket::Dialect).

mod json;
mod object;
pub mod seeds;
mod text;
pub mod v1;
pub mod v2;

use std::fmt;

use bytes::{Bytes, BytesMut};

#[cfg(doc)]
use crate::message::Payload;
use crate::message::{Message, Outgoing};

/// What arrived from a client, complete and unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Text, known to be UTF-8.
    Text(bytestring::ByteString),
    /// Binary.
    Binary(Bytes),
}

/// Whether an encoded message is text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// Turns frames into messages and back. Knows the wire, and nothing of sockets or topics.
pub trait Serializer: fmt::Debug + Send + Sync + 'static {
    /// The protocol version, as in `vsn`.
    fn vsn(&self) -> &'static str;

    /// Whether it has binary messages to clients. If not, binary payloads are sent as [`Payload::as_text`] makes them.
    fn takes_binary(&self) -> bool;

    /// Whether it can carry this at all. Asked before a binary payload becomes text.
    ///
    /// # Errors
    ///
    /// If it cannot. The message is then not sent; it is counted, and the log says so once a channel.
    fn carries(&self, _message: &Outgoing<'_>) -> Result<(), EncodeError> {
        Ok(())
    }

    /// Reads one message. What it returns are slices of `frame`; nothing is copied that needs no unescaping.
    ///
    /// # Errors
    ///
    /// If the frame is not a message of this version. A WebSocket is then closed with 1011.
    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError>;

    /// Appends one message to `out`.
    ///
    /// # Errors
    ///
    /// If a field does not fit this version's format. `out` is then as before.
    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError>;
}

/// Picks the serializer for the `vsn` that a client asks for; absent means 1.0.0.
///
/// # Errors
///
/// If `vsn` is no full semantic version, or none of ours satisfies it. The client is then refused (403).
pub fn negotiate(vsn: Option<&str>) -> Result<&'static dyn Serializer, VsnError> {
    let vsn = vsn.unwrap_or("1.0.0");
    let version: semver::Version = vsn.parse().map_err(|_| VsnError::Malformed(vsn.into()))?;
    // `~> 1.0.0` and `~> 2.0.0`, neither of which what precedes them satisfies.
    let released = version.patch > 0 || version.pre.is_empty();
    match (version.major, version.minor) {
        (1, 0) if released => Ok(&v1::V1),
        (2, 0) if released => Ok(&v2::V2),
        _ => Err(VsnError::Unsupported(vsn.into())),
    }
}

/// Why there is no serializer for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VsnError {
    /// No semantic version.
    #[error("vsn {0:?} is not a version such as 2.0.0")]
    Malformed(String),
    /// A version that is not served.
    #[error("no serializer for vsn {0}, use 1.0.0 or 2.0.0")]
    Unsupported(String),
}

/// Why a frame is no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the right shape.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Why a message cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A header field of a binary frame has more than 255 bytes.
    #[error("{field} has {len} bytes, a binary frame takes 255")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How long it is.
        len: usize,
    },
    /// What is pushed or broadcast is no JSON object.
    #[error("this client takes JSON objects only")]
    NotAnObject,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(vsn: Option<&str>, serializer: Result<&str, VsnError>) {
        assert_eq!(negotiate(vsn).map(Serializer::vsn), serializer, "{vsn:?}");
    }

    #[test]
    fn version_2_0_is_spoken_in_every_patch() {
        for vsn in ["2.0.0", "2.0.5", "2.0.1-rc.1", "2.0.0+build"] {
            check(Some(vsn), Ok("2.0.0"));
        }
    }

    #[test]
    fn version_1_0_is_spoken_in_every_patch_and_to_those_who_name_none() {
        for vsn in [None, Some("1.0.0"), Some("1.0.7")] {
            check(vsn, Ok("1.0.0"));
        }
    }

    #[test]
    fn other_versions_are_refused() {
        for vsn in [
            "1.0.0-rc.1",
            "1.1.0",
            "2.1.0",
            "2.1.0-rc.1",
            "2.0.0-rc.1",
            "3.0.0",
            "123.1.1",
        ] {
            check(Some(vsn), Err(VsnError::Unsupported(vsn.into())));
        }
    }

    #[test]
    fn what_is_no_full_version_is_refused() {
        for vsn in [
            "",
            "2",
            "2.0",
            "2.0.0.0",
            "v2.0.0",
            " 2.0.0",
            "02.0.0",
            "2.0.x",
            "2.0.99999999999999999999999",
        ] {
            check(Some(vsn), Err(VsnError::Malformed(vsn.into())));
        }
    }
}
