//! Reads and writes messages on the wire. A mount has its [`Serializers`], one per protocol version; a socket keeps the one that it
//! negotiated, or that of its [dialect](crate::dialect::Dialect).

pub mod json;
mod object;
pub mod phoenix_0_11;
pub mod supabase;
mod text;
pub mod v1;
pub mod v2;

use std::any::Any;
use std::fmt;

use bytes::{Bytes, BytesMut};
use semver::Version;

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

impl Incoming {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Whether an encoded message is text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// Turns frames into messages and back. It knows nothing about sockets or topics.
///
/// [`v2`] is the example to follow. An implementation promises:
///
/// * [`decode`](Self::decode) returns a message as [`Message`] describes it: refs are JSON text, `None` for null; keys are compared
///   as strings; a JSON payload is valid JSON, as other clients receive it unchanged.
/// * [`encode`](Self::encode) writes binary payloads, or [`takes_binary`](Self::takes_binary) returns false.
/// * All values of a type write alike: a broadcast is encoded once for all sockets whose serializers have the same type.
/// * Nothing blocks, and nothing panics, whatever a client sends.
pub trait Serializer: Any + fmt::Debug + Send + Sync {
    /// The protocol version, as in `vsn`: three numbers separated by dots. It serves clients that ask for this version with any
    /// patch number.
    fn vsn(&self) -> &'static str;

    /// Whether it can send binary messages. If not, binary payloads are sent as [`Payload::as_text`].
    fn takes_binary(&self) -> bool;

    /// Whether it can write this message. Asked before a binary payload becomes text.
    ///
    /// # Errors
    ///
    /// If it cannot. The server then does not send the message, counts it, and logs it once per channel.
    fn carries(&self, _message: &Outgoing<'_>) -> Result<(), EncodeError> {
        Ok(())
    }

    /// Reads one message. Its topic, event and payload are slices of `frame` where nothing has to be unescaped; refs are copies.
    ///
    /// # Errors
    ///
    /// If the frame is not a message of this version. The server then closes a WebSocket with 1011.
    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError>;

    /// Appends one message to `out`.
    ///
    /// # Errors
    ///
    /// If a field does not fit this version's format. `out` is then unchanged.
    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError>;
}

/// The serializers of the server itself.
pub const BUILT_IN: [&dyn Serializer; 2] = [&v1::V1, &v2::V2];

/// Those for clients of Supabase, which have the same versions.
pub const SUPABASE: [&dyn Serializer; 2] = [&supabase::SupabaseV1, &supabase::SupabaseV2];

/// The versions that a mount speaks.
#[derive(Clone, Debug)]
pub struct Serializers(Vec<&'static dyn Serializer>);

impl Serializers {
    /// These, and no others. If two have the same version, the first one is used.
    #[must_use]
    pub fn new(serializers: impl Into<Vec<&'static dyn Serializer>>) -> Self {
        Self(serializers.into())
    }

    /// Picks the serializer for the `vsn` that a client asks for. Without one, that is 1.0.0.
    ///
    /// # Errors
    ///
    /// If `vsn` is not a full semantic version, or no serializer satisfies it. The server then refuses the client (403).
    pub fn negotiate(&self, vsn: Option<&str>) -> Result<&'static dyn Serializer, VsnError> {
        let vsn = vsn.unwrap_or("1.0.0");
        let wanted: Version = vsn.parse().map_err(|_| VsnError::Malformed(vsn.into()))?;
        let found = self.0.iter().find(|serializer| satisfies(&wanted, serializer.vsn()));
        found.copied().ok_or_else(|| VsnError::Unsupported {
            vsn: vsn.into(),
            spoken: self.versions().join(" or "),
        })
    }

    fn versions(&self) -> Vec<&'static str> {
        self.0.iter().map(|serializer| serializer.vsn()).collect()
    }
}

impl Default for Serializers {
    /// All of [`BUILT_IN`].
    fn default() -> Self {
        Self::new(BUILT_IN)
    }
}

impl PartialEq for Serializers {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, other)| same(*one, *other))
    }
}

/// Whether two serializers write alike.
pub fn same(one: &dyn Serializer, other: &dyn Serializer) -> bool {
    let (one, other): (&dyn Any, &dyn Any) = (one, other);
    one.type_id() == other.type_id()
}

/// Whether `wanted` satisfies `~> 2.0.0`, for a serializer of version 2.0.0. A pre-release of 2.0.0 does not.
fn satisfies(wanted: &Version, vsn: &str) -> bool {
    let released = wanted.patch > 0 || wanted.pre.is_empty();
    let spoken: Option<Version> = vsn.parse().ok();
    released && spoken.is_some_and(|spoken| (spoken.major, spoken.minor) == (wanted.major, wanted.minor))
}

/// Why there is no serializer for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VsnError {
    /// Not a semantic version.
    #[error("vsn {0:?} is not a version such as 2.0.0")]
    Malformed(String),
    /// A version that the mount does not speak.
    #[error("no serializer for vsn {vsn}, use {spoken}")]
    Unsupported {
        /// The version that the client asked for.
        vsn: String,
        /// The versions of the mount.
        spoken: String,
    },
}

/// Why a frame is not a message.
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
    #[error("{field} has {len} bytes, but a binary frame has room for 255")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How long it is.
        len: usize,
    },
    /// The payload of a push or broadcast is not a JSON object.
    #[error("this client takes JSON objects only")]
    NotAnObject,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(vsn: Option<&str>, serializer: Result<&str, VsnError>) {
        let found = Serializers::default().negotiate(vsn);
        assert_eq!(found.map(Serializer::vsn), serializer, "{vsn:?}");
    }

    fn unsupported(vsn: &str, spoken: &str) -> VsnError {
        let (vsn, spoken) = (vsn.into(), spoken.into());
        VsnError::Unsupported { vsn, spoken }
    }

    #[test]
    fn a_mount_speaks_what_it_lists() {
        let only_v2 = Serializers::new([&v2::V2 as &dyn Serializer]);
        assert_eq!(only_v2.negotiate(Some("2.0.3")).map(Serializer::vsn), Ok("2.0.0"));
        let refused = only_v2.negotiate(None).map(Serializer::vsn);
        assert_eq!(refused, Err(unsupported("1.0.0", "2.0.0")));
        assert_ne!(only_v2, Serializers::default());
        assert_eq!(only_v2, only_v2.clone());
    }

    #[test]
    fn serializers_are_told_apart_by_their_types() {
        assert!(same(&v2::V2, &v2::V2));
        assert!(!same(&v2::V2, &v1::V1));
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
            check(Some(vsn), Err(unsupported(vsn, "1.0.0 or 2.0.0")));
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

    proptest! {
        #[test]
        fn arbitrary_versions_are_one_of_two_or_refused(vsn in "[0-9v.+a-z -]{0,12}") {
            if let Ok(serializer) = Serializers::default().negotiate(Some(&vsn)) {
                prop_assert!(vsn.starts_with(&serializer.vsn()[..4]), "{}", vsn);
            }
        }
    }
}
