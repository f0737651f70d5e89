//! One presence under a key: what clients see of it, and what tells it apart from all others.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::runtime::id::MemberId;

/// One tracked presence.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) member: MemberId,
    pub(super) tag: Tag,
    /// The tag of the meta that it replaced, of those that clients know.
    pub(super) before: Option<Tag>,
    /// How often a state had been shown when it came.
    pub(super) since: u64,
    /// The whole meta as it is sent, `phx_ref` included.
    pub(super) json: Bytes,
}

/// Identifies a meta among those of all nodes: the replica that made it, and the time by a clock that never shows the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) replica: Replica,
    pub(super) clock: u64,
}

/// Identifies this run of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replica([u8; 4]);

impl Meta {
    /// A meta in place of the one with the tag `before`, if any, when a state had been shown `since` times.
    pub(super) fn new(member: MemberId, meta: &[u8], before: Option<Tag>, since: u64) -> Self {
        let tag = Tag::next();
        let json = with_refs(meta, tag, before);
        Self {
            member,
            tag,
            before,
            since,
            json,
        }
    }
}

impl Tag {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        let clock = match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1))) {
            Ok(last) | Err(last) => now.max(last + 1),
        };
        Self {
            replica: Replica::this(),
            clock,
        }
    }

    /// As clients see it: 12 bytes as 16 characters.
    pub(super) fn phx_ref(self) -> String {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.clock.to_be_bytes());
        bytes[8..].copy_from_slice(&self.replica.0);
        URL_SAFE.encode(bytes)
    }
}

impl Replica {
    fn this() -> Self {
        static REPLICA: OnceLock<Replica> = OnceLock::new();
        *REPLICA.get_or_init(|| {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).expect("the system gives random bytes");
            Self(bytes)
        })
    }
}

/// Whether a meta may have keys that belong to the host, plain or escaped.
fn may_name_refs(meta: &[u8]) -> bool {
    memchr::memchr(b'\\', meta).is_some() || memchr::memmem::find(meta, b"\"phx_ref").is_some()
}

/// A meta without them. With them, one client could impersonate another.
fn without_refs(meta: &[u8]) -> Vec<u8> {
    let Ok(mut keys) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(meta) else {
        return meta.to_owned();
    };
    keys.retain(|key, _| !matches!(&**key, "phx_ref" | "phx_ref_prev"));
    serde_json::to_vec(&keys).unwrap_or_else(|_| meta.to_owned())
}

/// Puts the references in front of a meta, which is a JSON object (the boundary checked it).
fn with_refs(meta: &[u8], tag: Tag, before: Option<Tag>) -> Bytes {
    let without;
    let meta = if may_name_refs(meta) {
        without = without_refs(meta);
        &without
    } else {
        meta
    };
    let inner = meta.trim_ascii().strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    let mut out = Vec::with_capacity(meta.len() + 64);
    out.extend_from_slice(format!(r#"{{"phx_ref":"{}""#, tag.phx_ref()).as_bytes());
    if let Some(before) = before {
        out.extend_from_slice(format!(r#","phx_ref_prev":"{}""#, before.phx_ref()).as_bytes());
    }
    if inner != b"}" {
        out.push(b',');
    }
    out.extend_from_slice(inner);
    out.into()
}
