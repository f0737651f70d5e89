//! Messages of which a client that has fallen behind gets only the newest (`replaceable` of a route).

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

/// The key of a replaceable message: its topic and its event.
///
/// It is a hash of both, keyed for this process: two different pairs are equal once in 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replaceable(u64);

impl Replaceable {
    /// The key of this event of this topic.
    #[must_use]
    pub fn new(topic: &str, event: &str) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(HASHER.hash_one((topic, event)))
    }
}

/// Removes each message, from the one at `from` on, that a later one replaces, and passes it to `removed`. The others keep their
/// order. Takes time in proportion to the queue's length.
pub(super) fn keep_newest<T>(
    queue: &mut VecDeque<T>,
    from: usize,
    replaceable: impl Fn(&T) -> Option<Replaceable>,
    mut removed: impl FnMut(&T),
) {
    let mut newest = HashMap::new();
    for (at, message) in queue.iter().enumerate().skip(from) {
        if let Some(key) = replaceable(message) {
            newest.insert(key, at);
        }
    }
    let mut next = 0;
    queue.retain(|message| {
        let at = next;
        next += 1;
        let stays = at < from || replaceable(message).is_none_or(|key| newest[&key] == at);
        if !stays {
            removed(message);
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_event_of_a_topic_the_newest_stays_in_its_place_and_all_else_stays() {
        let price = Some(Replaceable::new("ticker:a", "price"));
        let other = Some(Replaceable::new("ticker:b", "price"));
        let messages = [
            (1, price),
            (2, None),
            (3, price),
            (4, other),
            (5, price),
            (6, None),
            (7, other),
        ];
        let kept = |from| {
            let (mut queue, mut removed) = (VecDeque::from(messages), Vec::new());
            keep_newest(&mut queue, from, |(_, key)| *key, |(number, _)| removed.push(*number));
            (queue.into_iter().map(|(number, _)| number).collect::<Vec<_>>(), removed)
        };
        assert_eq!(kept(0), (vec![2, 5, 6, 7], vec![1, 3, 4]));
        // The first one is half written already.
        assert_eq!(kept(1), (vec![1, 2, 5, 6, 7], vec![3, 4]));
    }
}
