//! Which entries the bucket has, in the order of their names: in memory, because NATS lists nothing in order. It takes a name and about
//! 150 bytes for each stored topic, at each node.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use tokio::sync::watch;

use crate::runtime::store::Key;

/// How long a mark stays, so that nodes that follow hear of it.
const MARK: Duration = Duration::from_secs(60);

/// The names of all entries.
#[derive(Debug, Default)]
pub(super) struct Index {
    state: Mutex<State>,
    complete: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// Entries that say that a topic is forgotten, with the time at which nobody needs them any more.
    marks: VecDeque<(Instant, Key, u64)>,
    /// How often everything was read.
    pass: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// 0: it is only set aside.
    revision: u64,
    /// When its topic has to be looked at, in milliseconds since 1970.
    look_unix_ms: Option<u64>,
    /// The versions that are set aside.
    aside: Vec<u32>,
    /// When it was seen last.
    pass: u64,
}

/// One entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) topic: ByteString,
    /// What was set aside of it, in this version.
    pub(super) aside: Option<u32>,
}

impl Index {
    /// Everything is read once more.
    pub(super) fn begin(&self) {
        self.state().pass += 1;
    }

    /// Everything that is there was read: what was not seen is gone.
    pub(super) fn end(&self) {
        let mut state = self.state();
        let pass = state.pass;
        state.entries.retain(|_, entry| entry.pass == pass);
        drop(state);
        self.complete.send_replace(true);
    }

    /// Waits until everything was read once. Later readings are not waited for: what is known from the one before is good enough.
    pub(super) async fn complete(&self) {
        let mut complete = self.complete.subscribe();
        // The sender is there as long as this is.
        let _ = complete.wait_for(|complete| *complete).await;
    }

    /// An entry has this revision. Returns false if a later one is known.
    pub(super) fn put(&self, key: Key, revision: u64, look_unix_ms: Option<u64>) -> bool {
        let mut state = self.state();
        let pass = state.pass;
        let entry = state.entries.entry(key).or_default();
        entry.pass = pass;
        let is_news = revision > entry.revision;
        if is_news {
            (entry.revision, entry.look_unix_ms) = (revision, look_unix_ms);
        }
        is_news
    }

    /// When a topic has to be looked at.
    pub(super) fn look(&self, key: &Key) -> Option<u64> {
        self.state().entries.get(key)?.look_unix_ms
    }

    /// When those of these topics have to be looked at that have to be one day.
    pub(super) fn looks(&self, of: impl Fn(&Key) -> bool) -> Vec<(Key, u64)> {
        let state = self.state();
        let entries = state.entries.iter().filter(|(key, _)| of(key));
        entries
            .filter_map(|(key, entry)| Some((key.clone(), entry.look_unix_ms?)))
            .collect()
    }

    /// Something is set aside.
    pub(super) fn put_aside(&self, key: Key, version: u32) {
        let mut state = self.state();
        let pass = state.pass;
        let entry = state.entries.entry(key).or_default();
        entry.pass = pass;
        if !entry.aside.contains(&version) {
            entry.aside.push(version);
            entry.aside.sort_unstable();
        }
    }

    /// A topic is forgotten, by the entry with this revision, which is to be `cleared` later.
    pub(super) fn forget(&self, key: Key, revision: u64, cleared: bool) -> bool {
        let mut state = self.state();
        let is_news = state.entries.get(&key).is_none_or(|entry| entry.revision < revision);
        if is_news && let Some(entry) = state.entries.get_mut(&key) {
            (entry.revision, entry.look_unix_ms) = (0, None);
            if entry.aside.is_empty() {
                state.entries.remove(&key);
            }
        }
        if cleared {
            state.marks.push_back((Instant::now() + MARK, key, revision));
        }
        is_news
    }

    /// There is nothing under this name, although that was said.
    pub(super) fn is_gone(&self, key: &Key, aside: Option<u32>) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        match aside {
            Some(version) => entry.aside.retain(|known| *known != version),
            None => (entry.revision, entry.look_unix_ms) = (0, None),
        }
        if entry.revision == 0 && entry.aside.is_empty() {
            state.entries.remove(key);
        }
    }

    /// Nothing is set aside of a topic any more.
    pub(super) fn clear_aside(&self, key: &Key) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(key) {
            entry.aside.clear();
            if entry.revision == 0 {
                state.entries.remove(key);
            }
        }
    }

    /// Whether something is set aside of a topic.
    pub(super) fn has_aside(&self, key: &Key) -> bool {
        self.state()
            .entries
            .get(key)
            .is_some_and(|entry| !entry.aside.is_empty())
    }

    /// A mark that nobody needs any more.
    pub(super) fn take_mark(&self, now: Instant) -> Option<(Key, u64)> {
        let mut state = self.state();
        state.marks.front().filter(|(until, ..)| *until <= now)?;
        state.marks.pop_front().map(|(_, key, revision)| (key, revision))
    }

    /// Up to `most` names of a plugin that begin with `prefix`, in order, after the name `after`.
    pub(super) fn page(&self, plugin: &str, prefix: &str, after: Option<&str>, most: usize) -> Vec<Name> {
        let key = |topic: &str| Key {
            plugin: Arc::from(plugin),
            topic: topic.into(),
        };
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(key(after)),
            _ => Bound::Included(key(prefix)),
        };
        let state = self.state();
        let mut page = Vec::new();
        for (key, entry) in state.entries.range((from, Bound::Unbounded)) {
            if &*key.plugin != plugin || !key.topic.starts_with(prefix) || page.len() >= most {
                break;
            }
            let name = |aside| Name {
                topic: key.topic.clone(),
                aside,
            };
            page.extend((entry.revision > 0).then(|| name(None)));
            page.extend(entry.aside.iter().map(|version| name(Some(*version))));
        }
        page.truncate(most);
        page
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(plugin: &str, topic: &str) -> Key {
        Key {
            plugin: plugin.into(),
            topic: topic.into(),
        }
    }

    fn names(index: &Index, prefix: &str, after: Option<&str>, most: usize) -> Vec<(String, Option<u32>)> {
        let page = index.page("room", prefix, after, most);
        page.into_iter()
            .map(|name| (name.topic.to_string(), name.aside))
            .collect()
    }

    #[test]
    fn a_page_has_the_topics_of_one_plugin_in_order_and_what_was_set_aside() {
        let index = Index::default();
        for (number, topic) in ["room:c", "room:a", "hall:a", "room:b"].into_iter().enumerate() {
            assert!(index.put(key("room", topic), number as u64 + 1, None));
        }
        index.put(key("roomy", "room:x"), 9, None);
        index.put_aside(key("room", "room:b"), 2);
        let all = |topics: &[(&str, Option<u32>)]| -> Vec<_> {
            topics
                .iter()
                .map(|(topic, aside)| ((*topic).to_owned(), *aside))
                .collect()
        };
        let expected = all(&[
            ("hall:a", None),
            ("room:a", None),
            ("room:b", None),
            ("room:b", Some(2)),
            ("room:c", None),
        ]);
        assert_eq!(names(&index, "", None, 9), expected);
        assert_eq!(names(&index, "room:", Some("room:b"), 9), all(&[("room:c", None)]));
        assert_eq!(names(&index, "room:", Some("room:a"), 1), all(&[("room:b", None)]));
    }

    #[test]
    fn what_is_older_than_what_is_known_changes_nothing() {
        let index = Index::default();
        assert!(index.put(key("room", "a"), 7, Some(70)));
        assert!(!index.put(key("room", "a"), 6, Some(60)) && !index.forget(key("room", "a"), 5, true));
        assert_eq!(names(&index, "", None, 9).len(), 1);
        assert_eq!(index.looks(|_| true), [(key("room", "a"), 70)]);
        assert_eq!(
            (index.look(&key("room", "a")), index.look(&key("room", "b"))),
            (Some(70), None)
        );
        assert!(index.looks(|key| &*key.topic != "a").is_empty());
        assert!(index.forget(key("room", "a"), 8, true));
        assert!(names(&index, "", None, 9).is_empty());
        assert_eq!(index.take_mark(Instant::now()), None);
        assert_eq!(index.take_mark(Instant::now() + MARK), Some((key("room", "a"), 5)));
    }

    #[test]
    fn what_is_set_aside_of_a_forgotten_topic_is_known_until_it_is_cleared() {
        let index = Index::default();
        index.put(key("room", "a"), 1, None);
        index.put_aside(key("room", "a"), 2);
        assert!(index.forget(key("room", "a"), 3, false));
        assert!(index.has_aside(&key("room", "a")));
        assert_eq!(names(&index, "", None, 9), [("a".to_owned(), Some(2))]);
        index.clear_aside(&key("room", "a"));
        assert!(names(&index, "", None, 9).is_empty());
        index.put(key("room", "b"), 4, None);
        index.put_aside(key("room", "b"), 2);
        index.is_gone(&key("room", "b"), None);
        assert_eq!(names(&index, "", None, 9), [("b".to_owned(), Some(2))]);
        index.is_gone(&key("room", "b"), Some(2));
        assert!(names(&index, "", None, 9).is_empty());
    }

    #[test]
    fn what_is_not_seen_when_everything_is_read_again_is_gone() {
        let index = Index::default();
        index.begin();
        index.put(key("room", "a"), 1, None);
        index.put(key("room", "b"), 2, None);
        index.end();
        index.begin();
        index.put(key("room", "b"), 2, None);
        index.end();
        assert_eq!(names(&index, "", None, 9), [("b".to_owned(), None)]);
    }
}
