//! A topic's presence, as the host keeps it. References are numbers, so that a test can name them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::abi::error;

/// The presence of one topic.
#[derive(Clone, Default)]
pub(super) struct Presence {
    entries: BTreeMap<String, Entry>,
    joins: BTreeMap<String, Entry>,
    leaves: BTreeMap<String, Entry>,
    last_ref: u64,
}

#[derive(Clone, Default)]
struct Entry {
    metas: Vec<(u64, Map<String, Value>)>,
    extra: Map<String, Value>,
}

impl Entry {
    fn value(&self) -> Value {
        let mut entry = self.extra.clone();
        let metas: Vec<_> = self.metas.iter().map(|(_, meta)| meta.clone()).collect();
        entry.insert("metas".to_owned(), json!(metas));
        entry.into()
    }
}

impl Presence {
    pub(super) fn track(&mut self, member: u64, key: &str, meta: Map<String, Value>) -> Result<(), i64> {
        if self.find(member, key).is_some() {
            return Err(error::TRACKED);
        }
        let meta = self.with_ref(meta, None);
        let entry = self.entries.entry(key.to_owned()).or_default();
        entry.metas.push((member, meta.clone()));
        let joined = self.joins.entry(key.to_owned()).or_default();
        joined.extra.clone_from(&entry.extra);
        joined.metas.push((member, meta));
        Ok(())
    }

    pub(super) fn update(&mut self, member: u64, key: &str, meta: Map<String, Value>) -> Result<(), i64> {
        let Some(at) = self.find(member, key) else {
            return Err(error::UNTRACKED);
        };
        let before = self.entries[key].metas[at].1.clone();
        let meta = self.with_ref(meta, before.get("phx_ref"));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.metas[at].1.clone_from(&meta);
            for (changes, meta) in [(&mut self.leaves, before), (&mut self.joins, meta)] {
                let changed = changes.entry(key.to_owned()).or_default();
                changed.extra.clone_from(&entry.extra);
                changed.metas.push((member, meta));
            }
        }
        Ok(())
    }

    /// Stops tracking.
    pub(super) fn untrack(&mut self, member: u64, key: &str) -> Result<(), i64> {
        let (Some(at), Some(entry)) = (self.find(member, key), self.entries.get_mut(key)) else {
            return Err(error::UNTRACKED);
        };
        let gone = entry.metas.remove(at);
        let left = self.leaves.entry(key.to_owned()).or_default();
        left.extra.clone_from(&entry.extra);
        left.metas.push(gone);
        if entry.metas.is_empty() {
            self.entries.remove(key);
        }
        Ok(())
    }

    /// Stops tracking a member under all keys.
    pub(super) fn leave(&mut self, member: u64) {
        let keys: Vec<String> = self.entries.keys().cloned().collect();
        for key in keys {
            // It is tracked under some of them.
            let _ = self.untrack(member, &key);
        }
    }

    /// Removes a member whose join was not accepted: nobody has heard of it.
    pub(super) fn leave_quietly(&mut self, member: u64) {
        for entries in [&mut self.entries, &mut self.joins, &mut self.leaves] {
            entries
                .values_mut()
                .for_each(|entry| entry.metas.retain(|(of, _)| *of != member));
            entries.retain(|_, entry| !entry.metas.is_empty());
        }
    }

    pub(super) fn describe(&mut self, key: &str, extra: Map<String, Value>) -> Result<(), i64> {
        if extra.contains_key("metas") {
            return Err(error::INVALID);
        }
        let entry = self.entries.get_mut(key).ok_or(error::UNTRACKED)?;
        entry.extra = extra;
        Ok(())
    }

    /// The payload of `presence_state`.
    pub(super) fn state(&self) -> Value {
        as_object(&self.entries)
    }

    /// The presence under one key.
    pub(super) fn get(&self, key: &str) -> Option<Value> {
        self.entries.get(key).map(Entry::value)
    }

    /// The metas under one key, without references.
    pub(super) fn metas(&self, key: &str) -> Vec<Value> {
        let metas = self.entries.get(key).map_or(&[][..], |entry| &entry.metas);
        let plain = metas.iter().map(|(_, meta)| {
            let mut meta = meta.clone();
            meta.remove("phx_ref");
            meta.remove("phx_ref_prev");
            meta.into()
        });
        plain.collect()
    }

    /// The payload of `presence_diff`: the changes since the last call, if there are any.
    pub(super) fn take_diff(&mut self) -> Option<Value> {
        let (joins, leaves) = (std::mem::take(&mut self.joins), std::mem::take(&mut self.leaves));
        let changed = !joins.is_empty() || !leaves.is_empty();
        changed.then(|| json!({ "joins": as_object(&joins), "leaves": as_object(&leaves) }))
    }

    fn find(&self, member: u64, key: &str) -> Option<usize> {
        let metas = &self.entries.get(key)?.metas;
        metas.iter().position(|(known, _)| *known == member)
    }

    fn with_ref(&mut self, mut meta: Map<String, Value>, before: Option<&Value>) -> Map<String, Value> {
        self.last_ref += 1;
        meta.insert("phx_ref".to_owned(), self.last_ref.to_string().into());
        if let Some(before) = before {
            meta.insert("phx_ref_prev".to_owned(), before.clone());
        }
        meta
    }
}

fn as_object(entries: &BTreeMap<String, Entry>) -> Value {
    let object: Map<String, Value> = entries
        .iter()
        .map(|(key, entry)| (key.clone(), entry.value()))
        .collect();
    object.into()
}
