//! The presence list of one topic, and its changes since the last diff.
//!
//! Metas are JSON objects that the host carries without looking inside; it only puts `phx_ref` in front. Every meta has
//! a [`Tag`], which names the replica that made it, so that lists of several nodes can be merged one day.
//!
//! A diff leads from what clients know to the list of now. Between two diffs only the announced meta of each change is kept; a meta
//! that came and went in between is kept only if a client was shown it in a state.

mod meta;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

use self::meta::{Meta, Tag};
use self::text::{end_entry, write_map, written};
use crate::runtime::id::MemberId;

/// The presence list of one topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presence {
    entries: BTreeMap<ByteString, Entry>,
    keys: HashMap<MemberId, Vec<ByteString>>,
    /// What the list takes as clients get it: keys, metas and extra data, without what is between them.
    bytes: usize,
    /// What has changed since the last diff.
    changes: BTreeMap<(ByteString, MemberId), Change>,
    /// The extra data of keys whose last meta is gone, for the diff that says so.
    gone: HashMap<ByteString, Bytes>,
    /// How often a state was shown.
    shown: u64,
    /// The size of the [metas that were shown](Change::shown) and are gone.
    shown_bytes: usize,
    /// How to undo the current event.
    undo: Vec<Undo>,
    /// When the next diff may go out.
    next_diff: Option<Instant>,
    /// A timer will ask for it then.
    waiting: bool,
}

/// Metas that were shown between two diffs and are gone may take so many bytes. Then the diff goes out early.
const MAX_SHOWN_BYTES: usize = 64 * 1024;

/// What is tracked under one key.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// The oldest first.
    metas: Vec<Meta>,
    /// The extra data beside `metas`: the inside of a JSON object, without its braces.
    beside: Bytes,
}

/// The change of one member's presence under one key since the last diff. What it has changed to is in the list.
#[derive(Clone, Debug, Default)]
struct Change {
    /// The meta that the clients know from diffs.
    announced: Option<Meta>,
    /// Metas that a state has shown since, and that are gone.
    shown: Vec<Meta>,
}

/// The reverse of one step.
#[derive(Clone, Debug)]
struct Undo {
    key: ByteString,
    member: MemberId,
    step: Step,
    /// The change as it was before.
    change: Option<Change>,
}

/// What an event did.
#[derive(Clone, Debug)]
enum Step {
    Track,
    /// Replaced this meta.
    Update(Meta),
    /// Removed this meta, which was at this place beside these extra data; and those of a key that was gone before.
    Untrack(usize, Meta, Bytes, Option<Bytes>),
    /// Replaced these extra data.
    Describe(Bytes),
}

/// What to do about changes that are not announced yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nothing: there are none, or a timer will ask for them.
    Nothing,
    /// Broadcast this.
    Diff(Bytes),
    /// Ask again after this time.
    After(Duration),
}

/// Why a presence did not change.
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
    /// What the list takes in bytes, and what it would take with a meta of this size for `member` under `key`.
    pub(crate) fn bytes_with(&self, member: MemberId, key: &str, size: usize) -> (usize, usize) {
        let entry = self.entries.get(key);
        let known = entry
            .and_then(|entry| entry.of(member))
            .map_or(0, |meta| meta.json.len());
        (self.bytes, self.bytes - known + key.len() + size)
    }

    /// The same with extra data of this size beside `key`.
    pub(crate) fn bytes_with_extra(&self, key: &str, size: usize) -> (usize, usize) {
        let known = self.entries.get(key).map_or(0, |entry| entry.beside.len());
        (self.bytes, self.bytes - known + size)
    }

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
        let meta = Meta::new(member, meta, None, self.shown);
        self.bytes += weight(key, &meta);
        entry.metas.push(meta);
        self.keys.entry(member).or_default().push(key.clone());
        let change = self.note(member, key, None);
        self.remember(member, key, Step::Track, change);
        Ok(())
    }

    /// Replaces what is tracked for `member` under `key`.
    ///
    /// # Errors
    ///
    /// If nothing is.
    pub(crate) fn update(&mut self, member: MemberId, key: &ByteString, meta: &[u8]) -> Result<(), PresenceError> {
        let shown = self.shown;
        let is_changed = self.changes.contains_key(&(key.clone(), member));
        let known = self.meta_mut(member, key).ok_or(PresenceError::Untracked)?;
        // Clients that never saw this meta know the one before it.
        let before = if is_changed && known.since == shown {
            known.before
        } else {
            Some(known.tag)
        };
        let new = Meta::new(member, meta, before, shown);
        let size = new.json.len();
        let old = std::mem::replace(known, new);
        self.bytes = self.bytes + size - old.json.len();
        let change = self.note(member, key, Some(&old));
        self.remember(member, key, Step::Update(old), change);
        Ok(())
    }

    /// Sends the keys of `extra`, a JSON object without `metas`, beside the metas of `key` from now on, until its last
    /// meta is gone. This alone causes no diff.
    ///
    /// # Errors
    ///
    /// If nobody is tracked under `key`.
    pub(crate) fn describe(&mut self, key: &ByteString, extra: &[u8]) -> Result<(), PresenceError> {
        let entry = self.entries.get_mut(key).ok_or(PresenceError::Untracked)?;
        let inside = extra.trim_ascii();
        let inside = inside.strip_prefix(b"{").and_then(|inside| inside.strip_suffix(b"}"));
        let beside = Bytes::copy_from_slice(inside.unwrap_or_default().trim_ascii());
        self.bytes = self.bytes + beside.len() - entry.beside.len();
        let before = std::mem::replace(&mut entry.beside, beside);
        let (key, step) = (key.clone(), Step::Describe(before));
        // It concerns no member, and is no change.
        let (member, change) = (MemberId::FIRST, None);
        self.undo.push(Undo {
            key,
            member,
            step,
            change,
        });
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

    /// Undoes it, because the event that did it failed.
    pub(crate) fn roll_back(&mut self) {
        while let Some(Undo {
            key,
            member,
            step,
            change,
        }) = self.undo.pop()
        {
            match step {
                Step::Track => {
                    self.forget_key(member, &key);
                    self.drop_meta(member, &key);
                }
                Step::Update(old) => {
                    if let Some(known) = self.meta_mut(member, &key) {
                        let size = old.json.len();
                        let new = std::mem::replace(known, old);
                        self.bytes = self.bytes + size - new.json.len();
                    }
                }
                Step::Untrack(at, meta, beside, gone) => {
                    self.keys.entry(member).or_default().push(key.clone());
                    let entry = self.entries.entry(key.clone()).or_default();
                    self.bytes += weight(&key, &meta) + beside.len() - entry.beside.len();
                    entry.metas.insert(at, meta);
                    entry.beside = beside;
                    match gone {
                        Some(gone) => self.gone.insert(key.clone(), gone),
                        None => self.gone.remove(&key),
                    };
                }
                Step::Describe(before) => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        self.bytes = self.bytes + before.len() - entry.beside.len();
                        entry.beside = before;
                    }
                    continue;
                }
            }
            let now = change.as_ref().map_or(0, Change::shown_bytes);
            let before = match change {
                Some(change) => self.changes.insert((key, member), change),
                None => self.changes.remove(&(key, member)),
            };
            self.shown_bytes = self.shown_bytes + now - before.as_ref().map_or(0, Change::shown_bytes);
        }
    }

    /// Notes that `old`, or nothing, is no longer what `member` has under `key`. Returns the change as it was before.
    fn note(&mut self, member: MemberId, key: &ByteString, old: Option<&Meta>) -> Option<Change> {
        let is_shown = |meta: &&Meta| meta.since < self.shown;
        let change = self.changes.get_mut(&(key.clone(), member));
        let Some(change) = change else {
            let (announced, shown) = (old.cloned(), Vec::new());
            self.changes.insert((key.clone(), member), Change { announced, shown });
            return None;
        };
        let before = change.clone();
        if let Some(old) = old.filter(is_shown)
            && !change.names(old.tag)
        {
            self.shown_bytes += old.json.len() + size_of::<Meta>();
            change.shown.push(old.clone());
        }
        Some(before)
    }

    fn remember(&mut self, member: MemberId, key: &ByteString, step: Step, change: Option<Change>) {
        let key = key.clone();
        self.undo.push(Undo {
            key,
            member,
            step,
            change,
        });
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
        let change = self.note(member, key, Some(&meta));
        let at_key = (key.clone(), member);
        if self.changes.get(&at_key).is_some_and(Change::is_nothing) {
            // It came and went, and no client knows of it.
            self.changes.remove(&at_key);
        }
        let gone = self.gone.get(key).cloned();
        if !self.entries.contains_key(key) && !beside.is_empty() && self.changes_of(key).next().is_some() {
            self.gone.insert(key.clone(), beside.clone());
        }
        self.remember(member, key, Step::Untrack(at, meta, beside, gone), change);
        Ok(())
    }

    /// The changes under one key.
    fn changes_of(&self, key: &ByteString) -> impl Iterator<Item = (MemberId, &Change)> {
        let (first, last) = ((key.clone(), MemberId::FIRST), (key.clone(), MemberId::LAST));
        self.changes
            .range(first..=last)
            .map(|((_, member), change)| (*member, change))
    }

    /// Removes a meta; returns where it was, and the extra data beside it.
    fn drop_meta(&mut self, member: MemberId, key: &ByteString) -> Option<(usize, Meta, Bytes)> {
        let entry = self.entries.get_mut(key)?;
        let at = entry.metas.iter().position(|known| known.member == member)?;
        let (meta, beside) = (entry.metas.remove(at), entry.beside.clone());
        self.bytes -= weight(key, &meta);
        if entry.metas.is_empty() {
            self.bytes -= beside.len();
            self.entries.remove(key);
        }
        Some((at, meta, beside))
    }

    /// The list as `presence_state` carries it.
    #[must_use]
    pub(crate) fn state(&mut self) -> Bytes {
        self.shown += 1;
        self.list()
    }

    /// The same list for somebody who gets no diffs.
    #[must_use]
    pub(crate) fn list(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 * self.entries.len() + 2);
        let entries = self.entries.iter();
        let all = entries.flat_map(|(key, entry)| entry.metas.iter().map(move |meta| (key, &meta.json)));
        write_map(&mut out, all, |key| self.beside(key));
        out.into()
    }

    /// One key of the list: `{"metas":[…]}`. `None` if nobody is tracked under it.
    #[must_use]
    pub(crate) fn get_by_key(&mut self, key: &str) -> Option<Bytes> {
        self.shown += 1;
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

    /// What to do at `now` about the changes since the last diff. There is at most one diff per `interval`, so a storm of joins
    /// becomes a few diffs.
    pub(crate) fn flush(&mut self, now: Instant, interval: Duration) -> Flush {
        if self.changes.is_empty() {
            return Flush::Nothing;
        }
        match self.next_diff.map(|next| next.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() && self.shown_bytes <= MAX_SHOWN_BYTES => {
                if std::mem::replace(&mut self.waiting, true) {
                    Flush::Nothing
                } else {
                    Flush::After(wait)
                }
            }
            _ => {
                self.waiting = false;
                let Some(diff) = self.take_diff() else {
                    return Flush::Nothing;
                };
                self.next_diff = now.checked_add(interval);
                Flush::Diff(diff)
            }
        }
    }

    /// What changed since the last call, as `presence_diff` carries it. `None` if all is as it was.
    ///
    /// A meta that came and went in between is on both sides if a state has shown it: the clients that got the state know it.
    fn take_diff(&mut self) -> Option<Bytes> {
        let changes = std::mem::take(&mut self.changes);
        let gone = std::mem::take(&mut self.gone);
        self.shown_bytes = 0;
        let (mut joins, mut leaves) = (Vec::new(), Vec::new());
        for ((key, member), change) in &changes {
            let now = self.entries.get(key).and_then(|entry| entry.of(*member));
            let tag = now.map(|meta| meta.tag);
            let shown = change.shown.iter().filter(|meta| Some(meta.tag) != tag);
            for meta in shown {
                joins.push((key, meta));
                leaves.push((key, meta));
            }
            if tag != change.announced.as_ref().map(|meta| meta.tag) {
                joins.extend(now.map(|meta| (key, meta)));
                leaves.extend(change.announced.as_ref().map(|meta| (key, meta)));
            }
        }
        for side in [&mut joins, &mut leaves] {
            side.sort_by_key(|(key, meta)| (*key, meta.tag.clock));
        }
        if joins.is_empty() && leaves.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(64 * (joins.len() + leaves.len()) + 24);
        let here = |key: &ByteString| self.beside(key).or_else(|| gone.get(key));
        out.extend_from_slice(br#"{"joins":"#);
        write_map(&mut out, joins.into_iter().map(written), here);
        out.extend_from_slice(br#","leaves":"#);
        write_map(&mut out, leaves.into_iter().map(written), |key| {
            gone.get(key).or_else(|| self.beside(key))
        });
        out.push(b'}');
        Some(out.into())
    }

    fn beside(&self, key: &ByteString) -> Option<&Bytes> {
        self.entries.get(key).map(|entry| &entry.beside)
    }
}

impl Entry {
    fn of(&self, member: MemberId) -> Option<&Meta> {
        self.metas.iter().find(|meta| meta.member == member)
    }
}

impl Change {
    /// Whether no client knows a meta of it.
    fn is_nothing(&self) -> bool {
        self.announced.is_none() && self.shown.is_empty()
    }

    /// Whether clients know the meta with this tag.
    fn names(&self, tag: Tag) -> bool {
        self.announced.iter().chain(&self.shown).any(|meta| meta.tag == tag)
    }

    fn shown_bytes(&self) -> usize {
        self.shown.iter().map(|meta| meta.json.len() + size_of::<Meta>()).sum()
    }
}

/// What a meta and its key take in the list.
fn weight(key: &ByteString, meta: &Meta) -> usize {
    key.len() + meta.json.len()
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
