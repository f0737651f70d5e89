//! A topic as bytes: what the host and the plugin know of it, as one string that explains itself.
//!
//! The hand-over between generations carries the [`Snapshot`] alone, because the rest of the topic stays where it is. The store keeps
//! a [`Capsule`]: the snapshot without members, and the topic's own timers. A capsule for another node has the members as well, so
//! that the plugin can end them there. Presence, promises and what waits in the mailbox belong to connections of this process, so
//! there is nobody who could take them from a capsule.
//!
//! It is a MessagePack map with field names, in an envelope of the same kind that has the format's version and a checksum. A reader
//! ignores fields that it does not know, and has a default for those that are missing, so that hosts of other versions read it, too.
//! `capsule/format-1.capsule` is a file of the first format, which is read for ever.

pub(crate) mod bytes;
mod fence;

use ::bytes::Bytes;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cluster")]
pub(crate) use self::fence::Seen;
pub(crate) use self::fence::{Fence, Revision};
use crate::runtime::id::MemberId;

/// The format that this host writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The state of a topic and of its members, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    /// The version of the state.
    pub(crate) version: u32,
    /// Events that the topic had handled by then.
    pub(crate) handled: u64,
    /// The topic's own state, as its plugin wrote it.
    #[serde(with = "bytes")]
    pub(crate) shared: Bytes,
    /// Those of its members. None in the store: members end with their connections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) members: Vec<MemberState>,
}

/// The state of one member, as its plugin wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberState {
    /// Which.
    pub(crate) member: MemberId,
    /// Its state.
    #[serde(with = "bytes")]
    pub(crate) state: Bytes,
    /// JSON of `wire::MemberInfo`, if it goes to another node.
    #[serde(default, with = "bytes", skip_serializing_if = "Bytes::is_empty")]
    pub(crate) info: Bytes,
}

impl Snapshot {
    /// How large it is.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.shared.len() + self.members.iter().map(|member| member.state.len()).sum::<usize>()
    }
}

/// A topic that is not in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capsule {
    /// The plugin that serves it.
    pub(crate) plugin: String,
    /// Its name.
    pub(crate) topic: String,
    /// When it was written, in milliseconds since 1970.
    pub(crate) written_unix_ms: u64,
    /// Somebody was in it then.
    pub(crate) in_use: bool,
    /// Its state.
    pub(crate) state: Snapshot,
    /// Its timers, in order of due time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) timers: Vec<Timer>,
    /// Its entry in a store that nodes share, if it goes to another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<Revision>,
}

/// A message that a topic has sent itself for later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Timer {
    /// The name of the message.
    pub(crate) name: String,
    /// Its payload.
    #[serde(with = "bytes")]
    pub(crate) payload: Bytes,
    /// Whether the payload is binary; otherwise it is JSON.
    pub(crate) binary: bool,
    /// When it is due, in milliseconds since 1970.
    pub(crate) due_unix_ms: u64,
}

/// What stands around a capsule.
#[derive(Serialize, Deserialize)]
struct Envelope {
    /// [`FORMAT`].
    bennu_capsule: u32,
    /// CRC-32 of `body`.
    crc32: u32,
    /// The capsule.
    #[serde(with = "bytes")]
    body: Bytes,
}

/// Why bytes are no capsule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapsuleError {
    /// They are damaged, or something else.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A later host wrote them.
    #[error("it has format {0}, and this server reads formats up to {FORMAT}: use a newer server")]
    Newer(u32),
}

impl Capsule {
    /// Writes it.
    #[must_use]
    pub(crate) fn encode(&self) -> Bytes {
        let body = rmp_serde::to_vec_named(self).expect("plain data can be written");
        let envelope = Envelope {
            bennu_capsule: FORMAT,
            crc32: crc32fast::hash(&body),
            body: body.into(),
        };
        rmp_serde::to_vec_named(&envelope)
            .expect("plain data can be written")
            .into()
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// If the bytes are no whole capsule, or of a later format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CapsuleError> {
        let damaged = |error: rmp_serde::decode::Error| CapsuleError::Damaged(error.to_string());
        let mut rest = bytes;
        let envelope: Envelope = rmp_serde::from_read(&mut rest).map_err(damaged)?;
        if envelope.bennu_capsule == 0 {
            return Err(CapsuleError::Damaged("it has no format".to_owned()));
        }
        if envelope.bennu_capsule > FORMAT {
            return Err(CapsuleError::Newer(envelope.bennu_capsule));
        }
        if !rest.is_empty() {
            return Err(CapsuleError::Damaged("there is something behind it".to_owned()));
        }
        if crc32fast::hash(&envelope.body) != envelope.crc32 {
            return Err(CapsuleError::Damaged("its checksum is wrong".to_owned()));
        }
        rmp_serde::from_slice(&envelope.body).map_err(damaged)
    }

    /// When its first timer is due, in milliseconds since 1970.
    #[must_use]
    pub(crate) fn due_unix_ms(&self) -> Option<u64> {
        self.timers.first().map(|timer| timer.due_unix_ms)
    }
}

#[cfg(test)]
mod tests;
