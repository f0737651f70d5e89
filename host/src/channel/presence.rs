//! Who is here: the presence list of one topic, and what changed in it since the last diff.
//!
//! Metas are JSON objects that the host carries without looking inside; it only puts `phx_ref` in front. Every entry
//! knows the replica that made it, so that lists of several nodes can be merged one day.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use bytestring::ByteString;

use crate::id::MemberId;

/// The presence list of one topic.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    entries: BTreeMap<ByteString, Vec<Meta>>,
    keys: HashMap<MemberId, Vec<ByteString>>,
    joins: Vec<(ByteString, Bytes)>,
    leaves: Vec<(ByteString, Bytes)>,
    /// How to take back what the event at hand did.
    undo: Vec<Undo>,
}

/// The reverse of one change.
#[derive(Clone, Debug)]
enum Undo {
    Track(MemberId, ByteString),
    Update(MemberId, ByteString, Meta),
    Untrack(ByteString, usize, Meta),
}

/// One tracked presence.
#[derive(Clone, Debug)]
struct Meta {
    member: MemberId,
    phx_ref: String,
    /// The whole meta as it goes out, `phx_ref` included.
    json: Bytes,
}

/// Why presence is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The member is tracked under this key already.
    #[error("already tracked")]
    Tracked,
    /// The member is not tracked under this key.
    #[error("not tracked")]
    Untracked,
}

impl Presence {
    /// Tracks `member` under `key`. `meta` is a JSON object.
    ///
    /// # Errors
    ///
    /// If it is tracked under this key already.
    pub fn track(&mut self, member: MemberId, key: &ByteString, meta: &[u8]) -> Result<(), PresenceError> {
        let metas = self.entries.entry(key.clone()).or_default();
        if metas.iter().any(|known| known.member == member) {
            return Err(PresenceError::Tracked);
        }
        let phx_ref = next_ref();
        let json = with_refs(meta, &phx_ref, None);
        metas.push(Meta {
            member,
            phx_ref,
            json: json.clone(),
        });
        self.keys.entry(member).or_default().push(key.clone());
        self.joins.push((key.clone(), json));
        self.undo.push(Undo::Track(member, key.clone()));
        Ok(())
    }

    /// Replaces what is tracked for `member` under `key`.
    ///
    /// # Errors
    ///
    /// If nothing is.
    pub fn update(&mut self, member: MemberId, key: &ByteString, meta: &[u8]) -> Result<(), PresenceError> {
        let known = self
            .entries
            .get_mut(key)
            .and_then(|metas| metas.iter_mut().find(|known| known.member == member))
            .ok_or(PresenceError::Untracked)?;
        let phx_ref = next_ref();
        let json = with_refs(meta, &phx_ref, Some(&known.phx_ref));
        let old = std::mem::replace(
            known,
            Meta {
                member,
                phx_ref,
                json: json.clone(),
            },
        );
        self.leaves.push((key.clone(), old.json.clone()));
        self.joins.push((key.clone(), json));
        self.undo.push(Undo::Update(member, key.clone(), old));
        Ok(())
    }

    /// Stops tracking `member` under `key`; nothing happens where it is not tracked.
    pub fn untrack(&mut self, member: MemberId, key: &ByteString) {
        self.forget_key(member, key);
        self.remove(member, key);
    }

    /// Keeps what was done since the last call of this or [`Presence::roll_back`].
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// Takes it back: the event that did it failed.
    pub fn roll_back(&mut self) {
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
                    if let Some(known) = self
                        .entries
                        .get_mut(&key)
                        .and_then(|metas| metas.iter_mut().find(|m| m.member == member))
                    {
                        *known = old;
                    }
                }
                Undo::Untrack(key, at, meta) => {
                    self.leaves.pop();
                    self.keys.entry(meta.member).or_default().push(key.clone());
                    self.entries.entry(key).or_default().insert(at, meta);
                }
            }
        }
    }

    fn forget_key(&mut self, member: MemberId, key: &ByteString) {
        if let Some(keys) = self.keys.get_mut(&member) {
            keys.retain(|known| known != key);
            if keys.is_empty() {
                self.keys.remove(&member);
            }
        }
    }

    /// Stops tracking `member` under all its keys: its channel has ended.
    pub fn leave(&mut self, member: MemberId) {
        for key in self.keys.remove(&member).unwrap_or_default() {
            self.remove(member, &key);
        }
    }

    fn remove(&mut self, member: MemberId, key: &ByteString) {
        if let Some((at, meta)) = self.drop_meta(member, key) {
            self.leaves.push((key.clone(), meta.json.clone()));
            self.undo.push(Undo::Untrack(key.clone(), at, meta));
        }
    }

    fn drop_meta(&mut self, member: MemberId, key: &ByteString) -> Option<(usize, Meta)> {
        let metas = self.entries.get_mut(key)?;
        let at = metas.iter().position(|known| known.member == member)?;
        let meta = metas.remove(at);
        if metas.is_empty() {
            self.entries.remove(key);
        }
        Some((at, meta))
    }

    /// The list as `presence_state` carries it.
    #[must_use]
    pub fn state(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 * self.entries.len() + 2);
        let all = self
            .entries
            .iter()
            .flat_map(|(key, metas)| metas.iter().map(move |meta| (key, &meta.json)));
        write_map(&mut out, all);
        out.into()
    }

    /// What changed since the last call, as `presence_diff` carries it.
    ///
    /// A presence that came and went in between stands on both sides: whoever got a state in the meantime knows it.
    pub fn take_diff(&mut self) -> Option<Bytes> {
        if self.joins.is_empty() && self.leaves.is_empty() {
            return None;
        }
        let mut joins = std::mem::take(&mut self.joins);
        let mut leaves = std::mem::take(&mut self.leaves);
        let mut out = Vec::with_capacity(64 * (joins.len() + leaves.len()) + 24);
        out.extend_from_slice(br#"{"joins":"#);
        write_changes(&mut out, &mut joins);
        out.extend_from_slice(br#","leaves":"#);
        write_changes(&mut out, &mut leaves);
        out.push(b'}');
        Some(out.into())
    }
}

/// Writes changes as a map of key to metas, those of one key together and in the order they came.
fn write_changes(out: &mut Vec<u8>, changes: &mut [(ByteString, Bytes)]) {
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    write_map(out, changes.iter().map(|(key, json)| (key, json)));
}

/// Writes `{"key":{"metas":[…]},…}`; the metas of one key stand together in `all`.
fn write_map<'a>(out: &mut Vec<u8>, all: impl Iterator<Item = (&'a ByteString, &'a Bytes)>) {
    let mut current: Option<&ByteString> = None;
    out.push(b'{');
    for (key, json) in all {
        if current == Some(key) {
            out.push(b',');
        } else {
            if current.is_some() {
                out.extend_from_slice(b"]},");
            }
            serde_json::to_writer(&mut *out, &**key).expect("text is written to memory");
            out.extend_from_slice(br#":{"metas":["#);
            current = Some(key);
        }
        out.extend_from_slice(json);
    }
    out.extend_from_slice(if current.is_some() { b"]}}" } else { b"}" });
}

/// Puts the references in front of a meta, which is a JSON object (the boundary checked it).
fn with_refs(meta: &[u8], phx_ref: &str, previous: Option<&str>) -> Bytes {
    let inner = meta.trim_ascii().strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    let mut out = Vec::with_capacity(meta.len() + 64);
    out.extend_from_slice(format!(r#"{{"phx_ref":"{phx_ref}""#).as_bytes());
    if let Some(previous) = previous {
        out.extend_from_slice(format!(r#","phx_ref_prev":"{previous}""#).as_bytes());
    }
    if inner != b"}" {
        out.push(b',');
    }
    out.extend_from_slice(inner);
    out.into()
}

/// A new `phx_ref`: 12 bytes as 16 characters, eight of a clock that never shows the same time twice, four of the replica.
fn next_ref() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let time = match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1))) {
        Ok(last) | Err(last) => now.max(last + 1),
    };
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&time.to_be_bytes());
    bytes[8..].copy_from_slice(&replica());
    URL_SAFE.encode(bytes)
}

/// Tells this node, since its start, from others.
fn replica() -> [u8; 4] {
    static REPLICA: std::sync::OnceLock<[u8; 4]> = std::sync::OnceLock::new();
    *REPLICA.get_or_init(|| {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        bytes
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ANN: MemberId = MemberId::new(0, 1, 1);
    const BOB: MemberId = MemberId::new(0, 2, 2);

    fn key(text: &str) -> ByteString {
        ByteString::from(text)
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("valid JSON")
    }

    #[test]
    fn a_tracked_member_is_in_the_state_and_once_in_a_diff() {
        let mut presence = Presence::default();
        presence.track(ANN, &key("ann"), br#" { "st": "on" } "#).unwrap();
        let state = json(&presence.state());
        let meta = &state["ann"]["metas"][0];
        assert_eq!(meta["st"], "on");
        assert_eq!(meta["phx_ref"].as_str().unwrap().len(), 16);
        let diff = json(&presence.take_diff().unwrap());
        assert_eq!(diff["joins"], state);
        assert_eq!(diff["leaves"], serde_json::json!({}));
        assert_eq!(presence.take_diff(), None);
    }

    #[test]
    fn an_update_is_one_diff_with_the_key_on_both_sides() {
        let mut presence = Presence::default();
        presence.track(ANN, &key("ann"), b"{}").unwrap();
        let before = json(&presence.take_diff().unwrap())["joins"]["ann"]["metas"][0]["phx_ref"].clone();
        presence.update(ANN, &key("ann"), br#"{"st":"away"}"#).unwrap();
        let diff = json(&presence.take_diff().unwrap());
        let (new, old) = (&diff["joins"]["ann"]["metas"][0], &diff["leaves"]["ann"]["metas"][0]);
        assert_eq!(new["phx_ref_prev"], before);
        assert_eq!(old["phx_ref"], before);
        assert_ne!(new["phx_ref"], before);
    }

    #[test]
    fn two_devices_of_one_user_are_two_metas_oldest_first() {
        let mut presence = Presence::default();
        presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
        presence.track(BOB, &key("u"), br#"{"n":2}"#).unwrap();
        assert_eq!(presence.track(ANN, &key("u"), b"{}"), Err(PresenceError::Tracked));
        let state = json(&presence.state());
        assert_eq!(state["u"]["metas"][0]["n"], 1);
        assert_eq!(state["u"]["metas"][1]["n"], 2);
        presence.leave(ANN);
        assert_eq!(json(&presence.state())["u"]["metas"].as_array().unwrap().len(), 1);
        presence.leave(BOB);
        assert_eq!(&presence.state()[..], b"{}");
    }

    #[test]
    fn whoever_is_not_tracked_cannot_be_updated_and_may_be_untracked() {
        let mut presence = Presence::default();
        assert_eq!(presence.update(ANN, &key("ann"), b"{}"), Err(PresenceError::Untracked));
        presence.untrack(ANN, &key("ann"));
        assert_eq!(presence.take_diff(), None);
    }

    #[test]
    fn what_a_failed_event_did_is_taken_back() {
        let mut presence = Presence::default();
        presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
        presence.track(BOB, &key("u"), br#"{"n":2}"#).unwrap();
        presence.commit();
        presence.take_diff();
        let before = presence.state();
        presence.track(ANN, &key("other"), b"{}").unwrap();
        presence.update(BOB, &key("u"), b"{}").unwrap();
        presence.untrack(ANN, &key("u"));
        presence.untrack(BOB, &key("u"));
        presence.roll_back();
        assert_eq!(presence.state(), before);
        assert_eq!(presence.take_diff(), None);
        presence.leave(ANN);
        presence.leave(BOB);
        assert_eq!(&presence.state()[..], b"{}");
    }

    #[test]
    fn keys_are_escaped_and_prototypes_are_only_keys() {
        let mut presence = Presence::default();
        presence.track(ANN, &key("__proto__"), b"{}").unwrap();
        presence.track(ANN, &key("a\"b"), b"{}").unwrap();
        let state = json(&presence.state());
        assert!(state.get("__proto__").is_some() && state.get("a\"b").is_some());
    }
}
