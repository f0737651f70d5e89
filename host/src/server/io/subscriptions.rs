//! The members on this I/O thread that get the broadcasts of a topic.

use std::collections::HashMap;

use bytestring::ByteString;
use smallvec::SmallVec;

use crate::runtime::id::MemberId;

/// The subscribers of a topic. Most topics have one, which needs no memory of its own.
pub(crate) type Subscribers = SmallVec<[MemberId; 1]>;

/// Subscribers by topic. A subscriber knows its place in the list, so that leaving costs the same in a room of ten thousand members
/// as in a room of two.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    topics: HashMap<ByteString, Subscribers>,
}

impl Subscriptions {
    /// Adds a subscriber. Returns its place.
    pub(crate) fn add(&mut self, topic: &ByteString, member: MemberId) -> u32 {
        let list = match self.topics.get_mut(topic) {
            Some(list) => list,
            None => self.topics.entry(topic.clone()).or_default(),
        };
        list.push(member);
        // A thread has at most 2^24 sockets, each at most once in a topic.
        (list.len() - 1) as u32
    }

    /// Removes the subscriber at `place`. Returns the subscriber that took its place, if any.
    pub(crate) fn remove(&mut self, topic: &ByteString, place: u32) -> Option<MemberId> {
        let list = self.topics.get_mut(topic)?;
        let place = place as usize;
        if place < list.len() {
            list.swap_remove(place);
        }
        let moved = list.get(place).copied();
        if list.is_empty() {
            self.topics.remove(topic);
        }
        moved
    }

    /// Lends the subscribers of a topic for a walk that adds and removes none. The caller [gives them
    /// back](Subscriptions::take_back).
    #[must_use]
    pub(crate) fn lend(&mut self, topic: &str) -> Subscribers {
        self.topics.get_mut(topic).map(std::mem::take).unwrap_or_default()
    }

    /// Takes lent subscribers back.
    pub(crate) fn take_back(&mut self, topic: &str, subscribers: Subscribers) {
        if let Some(list) = self.topics.get_mut(topic) {
            *list = subscribers;
        }
    }

    /// The subscribers of a topic.
    #[must_use]
    pub(crate) fn of(&self, topic: &str) -> &[MemberId] {
        self.topics.get(topic).map_or(&[], SmallVec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_takes_the_place_of_the_one_that_leaves() {
        let (a, b, c) = (MemberId::new(0, 1, 1), MemberId::new(0, 2, 2), MemberId::new(0, 3, 3));
        let (mut all, topic) = (Subscriptions::default(), ByteString::from_static("room:a"));
        assert_eq!([a, b, c].map(|member| all.add(&topic, member)), [0, 1, 2]);
        assert_eq!(all.remove(&topic, 0), Some(c));
        assert_eq!(all.of("room:a"), [c, b]);
        assert_eq!(all.remove(&topic, 1), None);
        assert_eq!(all.remove(&topic, 0), None);
        assert!(all.of("room:a").is_empty() && all.topics.is_empty());
    }
}
