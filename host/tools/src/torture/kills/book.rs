//! What clients know of one topic, and how that compares with what a server finds after a kill.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::torture::topic::{TopicState, chained};

/// What clients know of one topic.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The state that the last server has found.
    known: TopicState,
    /// Entries that clients have put since then, answered or not.
    put: HashSet<u64>,
    /// Those that clients were told of, by number, and when.
    told: BTreeMap<u64, (u64, Instant)>,
    /// The number of the next tick, as clients were told.
    ticks: u64,
    /// The last number that each client put.
    last: HashMap<u32, u32>,
    /// Two clients were told of different entries with the same number.
    disputed: u64,
}

/// How a topic that a server has found compares with what clients know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Entries that clients were told of.
    pub(super) told: u64,
    /// Entries that are there of those since the last look.
    pub(super) found: u64,
    /// Entries that clients were told of and that are not there.
    pub(super) lost: u64,
    /// How long before the kill the first of these was told.
    pub(super) behind: Duration,
    /// Entries that are there twice, or that nobody put.
    pub(super) doubled: u64,
    /// Ticks that clients were told of and that the state does not know.
    pub(super) ticks_lost: u64,
    /// Whether older entries have changed.
    pub(super) differs: bool,
}

impl Verdict {
    /// Whether something is there that may not be, or missing that may not. `allowed`: how far `checkpoint` may be behind.
    pub(super) fn is_wrong(&self, commits: bool, allowed: Duration) -> bool {
        let missing = match commits {
            true => self.lost + self.ticks_lost > 0,
            false => self.behind > allowed,
        };
        missing || self.doubled > 0 || self.differs
    }
}

impl Book {
    /// The next number of a client.
    pub(super) fn next(&mut self, client: u32) -> u32 {
        let last = self.last.entry(client).or_default();
        *last += 1;
        *last
    }

    /// The last number of a client.
    pub(super) fn last(&self, client: u32) -> u32 {
        self.last.get(&client).copied().unwrap_or_default()
    }

    /// A client is about to put an entry.
    pub(super) fn put(&mut self, entry: u64) {
        self.put.insert(entry);
    }

    /// How many entries clients have put since the last look.
    pub(super) fn puts(&self) -> usize {
        self.put.len()
    }

    /// A client was told of an entry.
    pub(super) fn told(&mut self, number: u64, entry: u64) {
        if number <= self.known.count {
            // A number that is taken.
            self.disputed += 1;
        } else if self.told.entry(number).or_insert((entry, Instant::now())).0 != entry {
            self.disputed += 1;
        }
    }

    /// A client was told of a tick.
    pub(super) fn ticked(&mut self, number: u64) {
        self.ticks = self.ticks.max(number + 1);
    }

    /// Compares with what a server finds after the one before was killed, and goes on from there.
    pub(super) fn compare(&mut self, found: TopicState, killed: Instant) -> Verdict {
        let since = found.count.saturating_sub(self.known.count);
        let mut verdict = Verdict {
            told: self.told.len() as u64,
            found: since,
            lost: self.known.count.saturating_sub(found.count) + self.disputed,
            ticks_lost: self.ticks.max(self.known.ticks).saturating_sub(found.ticks),
            ..Verdict::default()
        };
        let shown = usize::try_from(since).unwrap_or(usize::MAX).min(found.list.len());
        let entries = &found.list[found.list.len() - shown..];
        let mut seen = HashSet::new();
        let mut digest = self.known.digest;
        for (number, entry) in (found.count + 1 - shown as u64..).zip(entries) {
            digest = chained(digest, *entry);
            let is_new = self.put.contains(entry) && seen.insert(*entry);
            verdict.doubled += u64::from(!is_new);
            if self.told.get(&number).is_some_and(|(told, _)| told != entry) {
                verdict.lost += 1;
            }
        }
        verdict.differs = digest != found.digest;
        let gone = self.told.range(found.count + 1..);
        for (_, when) in gone.map(|(_, told)| told) {
            verdict.lost += 1;
            verdict.behind = verdict.behind.max(killed.saturating_duration_since(*when));
        }
        self.known = found;
        self.put.clear();
        self.told.clear();
        (self.ticks, self.disputed) = (0, 0);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::topic::entry;

    /// A topic with these entries.
    fn state(entries: &[u64], ticks: u64) -> TopicState {
        TopicState {
            count: entries.len() as u64,
            digest: entries.iter().fold(0, |digest, entry| chained(digest, *entry)),
            list: entries.to_vec(),
            ticks,
        }
    }

    /// A book of a client that has put 1 to 4, and was told of three of these and of a tick.
    fn book() -> Book {
        let mut book = Book::default();
        for number in 1..=4 {
            book.put(entry(1, number));
        }
        for number in 1..=3 {
            book.told(u64::from(number), entry(1, number));
        }
        book.ticked(1);
        book
    }

    fn check(entries: &[u64], expected: impl FnOnce(Verdict) -> Verdict) {
        let found = Verdict {
            told: 3,
            found: entries.len() as u64,
            ..Verdict::default()
        };
        let verdict = book().compare(state(entries, 2), Instant::now());
        let behind = Duration::ZERO;
        assert_eq!(Verdict { behind, ..verdict }, expected(found), "{entries:x?}");
    }

    const E: [u64; 4] = [1 << 32 | 1, 1 << 32 | 2, 1 << 32 | 3, 1 << 32 | 4];

    #[test]
    fn what_was_told_is_there_and_what_was_on_its_way_may_be() {
        check(&E, |fine| fine);
        check(&E[..3], |fine| fine);
    }

    #[test]
    fn what_is_missing_changed_or_there_twice_is_noticed() {
        check(&E[..2], |fine| Verdict { lost: 1, ..fine });
        check(&[], |fine| Verdict { lost: 3, ..fine });
        check(&[E[0], E[2], E[1]], |fine| Verdict { lost: 2, ..fine });
        check(&[E[0], E[1], E[2], E[2]], |fine| Verdict { doubled: 1, ..fine });
        check(&[E[0], E[1], E[2], 7], |fine| Verdict { doubled: 1, ..fine });
    }

    #[test]
    fn a_look_begins_where_the_last_one_ended() {
        let mut book = book();
        book.compare(state(&E[..3], 2), Instant::now());
        book.put(9);
        book.told(4, 9);
        let after = [E[0], E[1], E[2], 9];
        let fine = Verdict {
            told: 1,
            found: 1,
            ..Verdict::default()
        };
        assert_eq!(book.compare(state(&after, 2), Instant::now()), fine);
        let mut changed = state(&after, 1);
        changed.digest ^= 1;
        let verdict = book.compare(changed, Instant::now());
        assert_eq!((verdict.differs, verdict.ticks_lost), (true, 1));
        assert_eq!(book.compare(state(&E[..2], 1), Instant::now()).lost, 2);
    }

    #[test]
    fn a_number_that_is_given_twice_is_noticed() {
        let mut book = book();
        book.told(3, 8);
        assert_eq!(book.compare(state(&E, 2), Instant::now()).lost, 1);
    }
}
