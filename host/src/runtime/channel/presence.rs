//! Who is here: the presence list of one topic, and what changed in it since the last diff.
//!
//! Metas are JSON objects that the host carries without looking inside; it only puts `phx_ref` in front. Every meta has
//! a [`Tag`], which names the replica that made it, so that lists of several nodes can be merged one day.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use crate::runtime::id::MemberId;

/// The presence list of one topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presence {
    entries: BTreeMap<ByteString, Entry>,
    keys: HashMap<MemberId, Vec<ByteString>>,
    joins: Vec<(ByteString, Bytes)>,
    leaves: Vec<(ByteString, Bytes)>,
    /// What stood beside the metas of keys that are gone, for the diff that says so.
    gone: HashMap<ByteString, Bytes>,
    /// How to take back what the event at hand did.
    undo: Vec<Undo>,
    /// When the next diff may go out.
    next_diff: Option<Instant>,
    /// Somebody will come back for it then.
    waiting: bool,
}

/// What is tracked under one key.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// The oldest first.
    metas: Vec<Meta>,
    /// What is sent beside `metas`: the inside of a JSON object, without its braces.
    beside: Bytes,
}

/// The reverse of one change.
#[derive(Clone, Debug)]
enum Undo {
    Track(MemberId, ByteString),
    Update(MemberId, ByteString, Meta),
    Untrack(ByteString, usize, Meta, Bytes),
    Describe(ByteString, Bytes),
}

/// One tracked presence.
#[derive(Clone, Debug)]
struct Meta {
    member: MemberId,
    tag: Tag,
    /// The whole meta as it goes out, `phx_ref` included.
    json: Bytes,
}

/// Names a meta among those of all nodes: the replica that made it, and when by a clock that never shows the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    replica: Replica,
    clock: u64,
}

/// Tells this node, since its start, from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replica([u8; 4]);

/// What is to be done about changes that were not announced yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nothing: there are none, or somebody comes back for them.
    Nothing,
    /// This is to be broadcast.
    Diff(Bytes),
    /// Somebody is to come back after this time.
    After(Duration),
}

/// Why presence is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PresenceError {
    /// The member is tracked under this key already.
    #[error("already tracked")]
    Tracked,
    /// The member is not tracked under this key, or nobody is.
    #[error("not tracked")]
    Untracked,
}

impl Presence {
    /// Tracks `member` under `key`. `meta` is a JSON object.
    ///
    /// # Errors
    ///
    /// If it is tracked under this key already.
    pub(crate) fn track(&mut self, member: MemberId, key: &ByteString, meta: &[u8]) -> Result<(), PresenceError> {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.metas.iter().any(|known| known.member == member) {
            return Err(PresenceError::Tracked);
        }
        let meta = Meta::new(member, meta, None);
        self.joins.push((key.clone(), meta.json.clone()));
        entry.metas.push(meta);
        self.keys.entry(member).or_default().push(key.clone());
        self.undo.push(Undo::Track(member, key.clone()));
        Ok(())
    }

    /// Replaces what is tracked for `member` under `key`.
    ///
    /// # Errors
    ///
    /// If nothing is.
    pub(crate) fn update(&mut self, member: MemberId, key: &ByteString, meta: &[u8]) -> Result<(), PresenceError> {
        let known = self.meta_mut(member, key).ok_or(PresenceError::Untracked)?;
        let meta = Meta::new(member, meta, Some(known.tag));
        let json = meta.json.clone();
        let old = std::mem::replace(known, meta);
        self.leaves.push((key.clone(), old.json.clone()));
        self.joins.push((key.clone(), json));
        self.undo.push(Undo::Update(member, key.clone(), old));
        Ok(())
    }

    /// Sends the keys of `extra`, a JSON object without `metas`, beside the metas of `key` from now on, until its last
    /// meta is gone. Announces nothing by itself.
    ///
    /// # Errors
    ///
    /// If nobody is tracked under `key`.
    pub(crate) fn describe(&mut self, key: &ByteString, extra: &[u8]) -> Result<(), PresenceError> {
        let entry = self.entries.get_mut(key).ok_or(PresenceError::Untracked)?;
        let inside = extra.trim_ascii();
        let inside = inside.strip_prefix(b"{").and_then(|inside| inside.strip_suffix(b"}"));
        let beside = Bytes::copy_from_slice(inside.unwrap_or_default().trim_ascii());
        let before = std::mem::replace(&mut entry.beside, beside);
        self.undo.push(Undo::Describe(key.clone(), before));
        Ok(())
    }

    /// Stops tracking `member` under `key`.
    ///
    /// # Errors
    ///
    /// If it is not tracked there.
    pub(crate) fn untrack(&mut self, member: MemberId, key: &ByteString) -> Result<(), PresenceError> {
        self.forget_key(member, key);
        self.remove(member, key)
    }

    /// Keeps what was done since the last call of this or [`Presence::roll_back`].
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Takes it back: the event that did it failed.
    pub(crate) fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Track(member, key) => {
                    self.joins.pop();
                    self.forget_key(member, &key);
                    self.drop_meta(member, &key);
                }
                Undo::Update(member, key, old) => {
                    self.joins.pop();
                    self.leaves.pop();
                    if let Some(known) = self.meta_mut(member, &key) {
                        *known = old;
                    }
                }
                Undo::Untrack(key, at, meta, beside) => {
                    self.leaves.pop();
                    self.keys.entry(meta.member).or_default().push(key.clone());
                    let entry = self.entries.entry(key).or_default();
                    entry.metas.insert(at, meta);
                    entry.beside = beside;
                }
                Undo::Describe(key, before) => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        entry.beside = before;
                    }
                }
            }
        }
    }

    /// Stops tracking `member` under all its keys: its channel has ended.
    pub(crate) fn leave(&mut self, member: MemberId) {
        for key in self.keys.remove(&member).unwrap_or_default() {
            // Its keys are those that it is tracked under.
            let _ = self.remove(member, &key);
        }
    }

    fn meta_mut(&mut self, member: MemberId, key: &ByteString) -> Option<&mut Meta> {
        let entry = self.entries.get_mut(key)?;
        entry.metas.iter_mut().find(|known| known.member == member)
    }

    fn forget_key(&mut self, member: MemberId, key: &ByteString) {
        if let Some(keys) = self.keys.get_mut(&member) {
            keys.retain(|known| known != key);
            if keys.is_empty() {
                self.keys.remove(&member);
            }
        }
    }

    fn remove(&mut self, member: MemberId, key: &ByteString) -> Result<(), PresenceError> {
        let (at, meta, beside) = self.drop_meta(member, key).ok_or(PresenceError::Untracked)?;
        if !self.entries.contains_key(key) && !beside.is_empty() {
            self.gone.insert(key.clone(), beside.clone());
        }
        self.leaves.push((key.clone(), meta.json.clone()));
        self.undo.push(Undo::Untrack(key.clone(), at, meta, beside));
        Ok(())
    }

    /// Removes a meta; returns where it was, and what stood beside it.
    fn drop_meta(&mut self, member: MemberId, key: &ByteString) -> Option<(usize, Meta, Bytes)> {
        let entry = self.entries.get_mut(key)?;
        let at = entry.metas.iter().position(|known| known.member == member)?;
        let (meta, beside) = (entry.metas.remove(at), entry.beside.clone());
        if entry.metas.is_empty() {
            self.entries.remove(key);
        }
        Some((at, meta, beside))
    }

    /// The list as `presence_state` carries it.
    #[must_use]
    pub(crate) fn state(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 * self.entries.len() + 2);
        let entries = self.entries.iter();
        let all = entries.flat_map(|(key, entry)| entry.metas.iter().map(move |meta| (key, &meta.json)));
        write_map(&mut out, all, |key| self.beside(key));
        out.into()
    }

    /// One key of the list: `{"metas":[…]}`. `None` if nobody is tracked under it.
    #[must_use]
    pub(crate) fn get_by_key(&self, key: &str) -> Option<Bytes> {
        let entry = self.entries.get(key)?;
        let mut out = br#"{"metas":["#.to_vec();
        for (at, meta) in entry.metas.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&meta.json);
        }
        end_entry(&mut out, &entry.beside);
        Some(out.into())
    }

    /// What is to be done at `now` about the changes since the last diff, of which there is one per `interval` at most:
    /// in a storm of joins as many diffs go out as it takes time, not one for each.
    pub(crate) fn flush(&mut self, now: Instant, interval: Duration) -> Flush {
        if self.joins.is_empty() && self.leaves.is_empty() {
            return Flush::Nothing;
        }
        match self.next_diff.map(|next| next.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() && self.waiting => Flush::Nothing,
            Some(wait) if !wait.is_zero() => {
                self.waiting = true;
                Flush::After(wait)
            }
            _ => {
                self.waiting = false;
                self.next_diff = now.checked_add(interval);
                Flush::Diff(self.take_diff())
            }
        }
    }

    /// What changed since the last call, as `presence_diff` carries it.
    ///
    /// A presence that came and went in between stands on both sides: whoever got a state in the meantime knows it.
    fn take_diff(&mut self) -> Bytes {
        let mut joins = std::mem::take(&mut self.joins);
        let mut leaves = std::mem::take(&mut self.leaves);
        let gone = std::mem::take(&mut self.gone);
        let mut out = Vec::with_capacity(64 * (joins.len() + leaves.len()) + 24);
        let here = |key: &ByteString| self.beside(key).or_else(|| gone.get(key));
        out.extend_from_slice(br#"{"joins":"#);
        write_changes(&mut out, &mut joins, here);
        out.extend_from_slice(br#","leaves":"#);
        write_changes(&mut out, &mut leaves, |key| gone.get(key).or_else(|| self.beside(key)));
        out.push(b'}');
        out.into()
    }

    fn beside(&self, key: &ByteString) -> Option<&Bytes> {
        self.entries.get(key).map(|entry| &entry.beside)
    }
}

impl Meta {
    /// A meta in place of the one with the tag `before`, if any.
    fn new(member: MemberId, meta: &[u8], before: Option<Tag>) -> Self {
        let tag = Tag::next();
        let json = with_refs(meta, tag, before);
        Self { member, tag, json }
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
    fn phx_ref(self) -> String {
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

/// Writes changes as a map of key to metas, those of one key together and in the order they came.
fn write_changes<'a>(
    out: &mut Vec<u8>,
    changes: &mut [(ByteString, Bytes)],
    beside: impl Fn(&ByteString) -> Option<&'a Bytes>,
) {
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    write_map(out, changes.iter().map(|(key, json)| (key, json)), beside);
}

/// Writes `{"key":{"metas":[…],…},…}`; the metas of one key stand together in `all`.
fn write_map<'a, 'b>(
    out: &mut Vec<u8>,
    all: impl Iterator<Item = (&'a ByteString, &'a Bytes)>,
    beside: impl Fn(&ByteString) -> Option<&'b Bytes>,
) {
    let mut current: Option<&ByteString> = None;
    let end = |out: &mut Vec<u8>, key: &ByteString| end_entry(out, beside(key).unwrap_or(&Bytes::new()));
    out.push(b'{');
    for (key, json) in all {
        if current == Some(key) {
            out.push(b',');
        } else {
            if let Some(before) = current {
                end(out, before);
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &**key).expect("text is written to memory");
            out.extend_from_slice(br#":{"metas":["#);
            current = Some(key);
        }
        out.extend_from_slice(json);
    }
    if let Some(last) = current {
        end(out, last);
    }
    out.push(b'}');
}

/// Ends the metas of a key, and its entry.
fn end_entry(out: &mut Vec<u8>, beside: &Bytes) {
    out.push(b']');
    if !beside.is_empty() {
        out.push(b',');
        out.extend_from_slice(beside);
    }
    out.push(b'}');
}

/// Whether a meta may have keys that are the host's: as they are, or escaped.
fn may_name_refs(meta: &[u8]) -> bool {
    memchr::memchr(b'\\', meta).is_some() || memchr::memmem::find(meta, b"\"phx_ref").is_some()
}

/// A meta without them. With them, one client could pass for another.
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

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
