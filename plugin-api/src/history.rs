//! What happened before: [`History`], for those who come later.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The newest entries of what goes on in a topic, each with an id: 1, 2, 3, …. What is too old to keep is dropped, its id is
/// never used again. Made for a topic's state, so that newcomers see what was said before they came, and those who were
/// away for a moment get what they missed:
///
/// ```
/// # use bennu_plugin::prelude::*;
/// let mut history = History::default();
/// for body in ["a", "b", "c"] {
///     let entry = json!({ "id": history.next_id(), "body": body });
///     history.push(entry, 2); // keeps two
/// }
/// assert_eq!(json!(history.all()), json!([{ "id": 2, "body": "b" }, { "id": 3, "body": "c" }]));
/// assert_eq!(json!(history.since(2)), json!([{ "id": 3, "body": "c" }]));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History<T = Value> {
    /// The id of the newest entry, 0 before the first.
    last_id: u64,
    entries: VecDeque<T>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self {
            last_id: 0,
            entries: VecDeque::new(),
        }
    }
}

impl<T> History<T> {
    /// The id that the next entry will have.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Adds an entry; returns its id. Of all entries the newest `keep` stay.
    pub fn push(&mut self, entry: T, keep: usize) -> u64 {
        self.last_id += 1;
        self.entries.push_back(entry);
        let surplus = self.entries.len().saturating_sub(keep);
        self.entries.drain(..surplus);
        self.last_id
    }

    /// What is kept, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<&T> {
        self.entries.iter().collect()
    }

    /// What is kept of the entries after the one with this id, the oldest first. Begins with a later one than the next
    /// where too much has happened since.
    #[must_use]
    pub fn since(&self, id: u64) -> Vec<&T> {
        let missed = usize::try_from(self.last_id.saturating_sub(id)).unwrap_or(usize::MAX);
        let skipped = self.entries.len().saturating_sub(missed);
        self.entries.iter().skip(skipped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_ids_go_on() {
        let mut history = History::default();
        let ids: Vec<_> = "abcd".chars().map(|letter| history.push(letter, 2)).collect();
        assert_eq!((ids, history.all()), (vec![1, 2, 3, 4], vec![&'c', &'d']));
        assert_eq!(history.push('e', 0), 5);
        assert_eq!((history.next_id(), history.all().len()), (6, 0));
    }

    #[test]
    fn what_was_missed_is_what_came_after() {
        let mut history = History::default();
        for letter in "abcd".chars() {
            history.push(letter, 3);
        }
        assert_eq!(history.since(0), [&'b', &'c', &'d'], "the first is gone");
        assert_eq!(history.since(3), [&'d']);
        assert!(history.since(4).is_empty() && history.since(9).is_empty());
    }
}
