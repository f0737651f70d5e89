//! The members of other nodes that are in topics here, and which nodes have to hear of a topic.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;

use crate::runtime::channel::Topic;

/// How many members that have ended are remembered, so that events which were underway are answered.
const MOST_ENDED: usize = 4_096;

/// The members of other nodes.
#[derive(Debug, Default)]
pub(super) struct Guests {
    /// By the last part of the number that this node has allotted.
    all: HashMap<u32, Guest>,
    /// That part, by session and the number that their own node knows them by.
    numbers: HashMap<(u32, u64), u32>,
    last: u32,
    /// How many have joined a topic, by topic and session: who has to hear its broadcasts.
    audiences: HashMap<ByteString, BTreeMap<u32, usize>>,
    /// Those that have ended lately.
    ended: VecDeque<Ended>,
}

/// A member of another node that has ended. What its client has sent before it knew is still answered.
#[derive(Debug)]
struct Ended {
    session: u32,
    theirs: u64,
    serial: u32,
    topic: ByteString,
}

/// A member of another node.
#[derive(Debug)]
pub(super) struct Guest {
    /// The session of its link.
    pub(super) session: u32,
    /// Its number on its own node.
    pub(super) theirs: u64,
    /// The topic.
    pub(super) topic: Arc<Topic>,
    /// It hears broadcasts.
    has_joined: bool,
}

impl Guests {
    /// How many there are of each session.
    pub(super) fn by_session(&self) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        for guest in self.all.values() {
            *counts.entry(guest.session).or_default() += 1;
        }
        counts
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// One of them, by its session and the last part of its number here.
    pub(super) fn get(&self, session: u32, serial: u32) -> Option<&Guest> {
        self.all.get(&serial).filter(|guest| guest.session == session)
    }

    /// All of a session.
    pub(super) fn of_session(&self, session: u32) -> Vec<u32> {
        let own = self.all.iter().filter(|(_, guest)| guest.session == session);
        own.map(|(serial, _)| *serial).collect()
    }

    /// The sessions that have to hear the broadcasts of a topic.
    pub(super) fn audience(&self, topic: &str) -> Vec<u32> {
        { self.audiences.get(topic) }.map_or_else(Vec::new, |audience| audience.keys().copied().collect())
    }

    /// A guest comes, under the number that [`next`](Self::next) gave.
    pub(super) fn add(&mut self, session: u32, theirs: u64, topic: Arc<Topic>, serial: u32) {
        self.numbers.insert((session, theirs), serial);
        let guest = Guest {
            session,
            theirs,
            topic,
            has_joined: false,
        };
        self.all.insert(serial, guest);
    }

    /// A number that no guest has.
    pub(super) fn next(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.all.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Its join is accepted: it hears broadcasts.
    pub(super) fn joined(&mut self, serial: u32) {
        let Some(guest) = self.all.get_mut(&serial) else { return };
        if !std::mem::replace(&mut guest.has_joined, true) {
            let (topic, session) = (guest.topic.name.clone(), guest.session);
            *self.audiences.entry(topic).or_default().entry(session).or_default() += 1;
        }
    }

    /// It hears no broadcasts any more.
    pub(super) fn leaves_audience(&mut self, serial: u32) {
        let Some(guest) = self.all.get_mut(&serial) else { return };
        if !std::mem::take(&mut guest.has_joined) {
            return;
        }
        let Some(audience) = self.audiences.get_mut(&guest.topic.name) else {
            return;
        };
        if let Some(count) = audience.get_mut(&guest.session) {
            *count -= 1;
            if *count == 0 {
                audience.remove(&guest.session);
            }
        }
        if audience.is_empty() {
            self.audiences.remove(&guest.topic.name);
        }
    }

    /// It is gone.
    pub(super) fn remove(&mut self, serial: u32) -> Option<Guest> {
        self.leaves_audience(serial);
        let guest = self.all.remove(&serial)?;
        self.numbers.remove(&(guest.session, guest.theirs));
        if self.ended.len() >= MOST_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended {
            session: guest.session,
            theirs: guest.theirs,
            serial,
            topic: guest.topic.name.clone(),
        });
        Some(guest)
    }

    /// A guest by the number that its own node knows it by.
    pub(super) fn of(&self, session: u32, theirs: u64) -> Option<(u32, &Guest)> {
        let serial = *self.numbers.get(&(session, theirs))?;
        Some((serial, self.all.get(&serial)?))
    }

    /// A session is over: nothing of it is underway any more.
    pub(super) fn forget_ended(&mut self, session: u32) {
        self.ended.retain(|ended| ended.session != session);
    }

    /// The topic of a member that has ended.
    pub(super) fn topic_of_ended(&self, session: u32, theirs: u64) -> Option<ByteString> {
        let mut ended = self.ended.iter().rev();
        let found = ended.find(|ended| (ended.session, ended.theirs) == (session, theirs));
        found.map(|ended| ended.topic.clone())
    }

    /// The number that its own node knows a member by, also if it has ended.
    pub(super) fn theirs(&self, session: u32, serial: u32) -> Option<u64> {
        if let Some(guest) = self.get(session, serial) {
            return Some(guest.theirs);
        }
        let mut ended = self.ended.iter().rev();
        let found = ended.find(|ended| (ended.session, ended.serial) == (session, serial));
        found.map(|ended| ended.theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::channel::RunQueue;

    fn topic(name: &'static str) -> Arc<Topic> {
        let owner = Arc::new(RunQueue::for_node(Arc::default()));
        Arc::new(Topic::new(name.into(), 1, Arc::default(), owner))
    }

    #[test]
    fn a_session_hears_a_topic_as_long_as_one_of_its_members_is_joined() {
        let mut guests = Guests::default();
        let lobby = topic("lobby");
        let serials = [(1, 10), (1, 11), (2, 10)].map(|(session, theirs)| {
            let serial = guests.next();
            guests.add(session, theirs, Arc::clone(&lobby), serial);
            serial
        });
        assert!(guests.audience("lobby").is_empty(), "nobody's join is accepted");
        serials.iter().for_each(|serial| guests.joined(*serial));
        // A second time changes nothing.
        guests.joined(serials[0]);
        assert_eq!(guests.audience("lobby"), [1, 2]);
        guests.leaves_audience(serials[0]);
        guests.remove(serials[0]);
        assert_eq!(guests.audience("lobby"), [1, 2]);
        guests.remove(serials[1]);
        assert_eq!((guests.audience("lobby"), guests.count()), (vec![2], 1));
        assert!(guests.get(1, serials[2]).is_none(), "it is of another session");
        assert_eq!(guests.topic_of_ended(1, 11).as_deref(), Some("lobby"));
        assert_eq!(guests.theirs(1, serials[1]), Some(11));
        assert_eq!(guests.theirs(2, serials[1]), None, "it was of another session");
        guests.forget_ended(1);
        assert_eq!(
            (guests.topic_of_ended(1, 11), guests.theirs(1, serials[1])),
            (None, None)
        );
    }
}
