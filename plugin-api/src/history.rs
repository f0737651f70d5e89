//! [`History`]: the newest entries of a topic, for clients that join later.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The newest entries of a topic, each with an id: 1, 2, 3, …. It drops the oldest entries, and never uses their ids again. Keep
/// it in the topic's state, so that clients that join later see earlier entries, and clients that return get what they missed:
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
    /// The id of the newest entry; 0 before the first.
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

    /// Adds an entry, and drops all but the newest `keep`. Returns the entry's id.
    pub fn push(&mut self, entry: T, keep: usize) -> u64 {
        self.last_id += 1;
        self.entries.push_back(entry);
        let surplus = self.entries.len().saturating_sub(keep);
        self.entries.drain(..surplus);
        self.last_id
    }

    /// All entries, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<&T> {
        self.entries.iter().collect()
    }

    /// The entries after the one with this id, the oldest first. If some of these were dropped, it begins with the oldest that is
    /// left.
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
