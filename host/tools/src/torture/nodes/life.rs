//! A topic as all clients together know it: its lives, and what is in each.
//!
//! A topic whose home is lost begins anew somewhere else, empty. Each life has a number of its own, which moves along with the state. So
//! it shows whether a topic that is found empty may be, and whether a home that has lost it goes on with the life before.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;

use crate::torture::topic::{TopicState, chained};

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    /// The name.
    pub(super) name: String,
    book: Mutex<Book>,
}

/// What a join and an audit are told of a topic.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Found {
    /// The number of its life.
    pub(super) born: u64,
    #[serde(flatten)]
    pub(super) state: TopicState,
}

/// What was known of a topic when somebody asked for its state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at: Instant,
    born: u64,
    told: u64,
    ticks: u64,
}

/// What must not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// What clients were told of is no longer there, although the topic has not lost its home.
    Undone(String),
    /// An event was handled twice.
    Doubled(String),
    /// Clients were told of different things, or of things that cannot be.
    Differs(String),
    /// A home goes on that has lost the topic.
    Outlived(String),
}

#[derive(Debug, Default)]
struct Book {
    /// In the order in which clients met them.
    lives: Vec<Life>,
    /// Where each entry is: in which life, and its number there.
    places: HashMap<u64, (usize, u64)>,
    /// Entries of events that were answered with an error.
    refused: HashSet<u64>,
    /// The topic loses its home, so the next life may begin.
    may_begin_anew: bool,
    begun_anew: u64,
}

#[derive(Debug)]
struct Life {
    born: u64,
    /// When a client met the next one.
    over: Option<Instant>,
    /// The entries by number, from number 1. 0 if nobody has seen the entry.
    entries: Vec<u64>,
    /// The digests up to each entry, as far as all entries before are known. The first one is that of no entry.
    digests: Vec<u64>,
    /// The highest number that a client was told.
    told: u64,
    /// The number of the next tick, as clients were told.
    ticks: u64,
}

impl Topic {
    pub(super) fn new(name: String) -> Self {
        let book = Mutex::default();
        Self { name, book }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its home is about to be lost, so that it may begin anew, once; or that is over.
    pub(super) fn let_begin_anew(&self, may: bool) {
        self.book().may_begin_anew = may;
    }

    /// How often it has begun anew.
    pub(super) fn begun_anew(&self) -> u64 {
        self.book().begun_anew
    }

    /// What is known now. What is asked of the topic from now on must know it, too.
    pub(super) fn mark(&self) -> Mark {
        let book = self.book();
        let last = book.lives.last();
        Mark {
            at: Instant::now(),
            born: last.map_or(0, |life| life.born),
            told: last.map_or(0, |life| life.told),
            ticks: last.map_or(0, |life| life.ticks),
        }
    }

    /// A client was told the topic's state: it had asked when this mark was made.
    pub(super) fn found(&self, found: &Found, mark: Mark) -> Vec<Wrong> {
        self.book().found(found, mark)
    }

    /// A client was told of an entry. `pushed`: when it had pushed the event, if that was its own.
    pub(super) fn told(&self, born: u64, number: u64, entry: u64, pushed: Option<Instant>) -> Vec<Wrong> {
        let mut book = self.book();
        let Some(at) = book.lives.iter().position(|life| life.born == born) else {
            return vec![Wrong::Differs(format!("entry {number} of a life that nobody knows"))];
        };
        let mut wrong = book.enter(at, number, entry);
        let life = &mut book.lives[at];
        life.told = life.told.max(number);
        if let (Some(over), Some(pushed)) = (life.over, pushed)
            && pushed > over
        {
            let late = pushed.duration_since(over);
            wrong.push(Wrong::Outlived(format!(
                "an event is answered that was pushed {late:?} after somebody had met the topic's next life"
            )));
        }
        wrong
    }

    /// A client was told of a tick.
    pub(super) fn ticked(&self, born: u64, number: u64) {
        let mut book = self.book();
        if let Some(life) = book.lives.iter_mut().find(|life| life.born == born) {
            life.ticks = life.ticks.max(number + 1);
        }
    }

    /// The event of an entry was answered with an error, so it must not be there.
    pub(super) fn refused(&self, entry: u64) -> Option<Wrong> {
        let mut book = self.book();
        book.refused.insert(entry);
        let place = book.places.get(&entry)?;
        Some(Wrong::Differs(format!(
            "an event was refused, and is entry {}",
            place.1
        )))
    }
}

impl Book {
    fn found(&mut self, found: &Found, mark: Mark) -> Vec<Wrong> {
        let Found { born, state } = found;
        let mut wrong = Vec::new();
        let at = match self.lives.iter().position(|life| life.born == *born) {
            Some(at) => at,
            None => {
                wrong.extend(self.begin(*born));
                self.lives.len() - 1
            }
        };
        if let Some(over) = self.lives[at].over
            && over < mark.at
        {
            wrong.push(Wrong::Outlived(format!(
                "the topic is found in a life that was over {:?} before",
                mark.at.duration_since(over)
            )));
        }
        if mark.born == *born && (state.count < mark.told || state.ticks < mark.ticks) {
            wrong.push(Wrong::Undone(format!(
                "{} entries and {} ticks are there, but clients were told of {} and {}",
                state.count, state.ticks, mark.told, mark.ticks
            )));
        }
        wrong.extend(self.compare(at, state));
        wrong
    }

    /// A client meets a life that nobody knew.
    fn begin(&mut self, born: u64) -> Option<Wrong> {
        let last = self.lives.last_mut();
        let told = last.map(|life| {
            life.over = Some(Instant::now());
            life.told
        });
        let life = Life {
            born,
            over: None,
            entries: Vec::new(),
            digests: vec![0],
            told: 0,
            ticks: 0,
        };
        self.lives.push(life);
        let told = told?;
        self.begun_anew += 1;
        if std::mem::take(&mut self.may_begin_anew) {
            return None;
        }
        let what = format!("the topic begins anew although its home was not lost: clients were told of {told} entries");
        Some(Wrong::Undone(what))
    }

    /// Compares a state with what clients were told, and learns what nobody was told of.
    fn compare(&mut self, at: usize, state: &TopicState) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let first = state.count.saturating_sub(state.list.len() as u64) + 1;
        for (number, entry) in (first..).zip(&state.list) {
            wrong.extend(self.enter(at, number, *entry));
        }
        let life = &mut self.lives[at];
        while let Some(entry) = life.entries.get(life.digests.len() - 1).filter(|entry| **entry != 0) {
            life.digests.push(chained(*life.digests.last().unwrap_or(&0), *entry));
        }
        let count = usize::try_from(state.count).unwrap_or(usize::MAX);
        match life.digests.get(count) {
            Some(digest) if *digest == state.digest => {}
            Some(_) => wrong.push(Wrong::Differs(format!(
                "the {count} entries of the topic are not those that clients were told of"
            ))),
            None => wrong.push(Wrong::Differs(format!(
                "of {count} entries, clients know only {}",
                life.digests.len() - 1
            ))),
        }
        wrong
    }

    /// An entry is there, under this number.
    fn enter(&mut self, at: usize, number: u64, entry: u64) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let Some(index) = index else {
            return vec![Wrong::Differs("an entry has the number 0".to_owned())];
        };
        let entries = &mut self.lives[at].entries;
        if index >= entries.len() {
            entries.resize(index + 1, 0);
        }
        let known = std::mem::replace(&mut entries[index], entry);
        if known == entry {
            return wrong;
        }
        if known != 0 {
            wrong.push(Wrong::Differs(format!(
                "there are two entries with the number {number}"
            )));
        }
        if let Some((life, other)) = self.places.insert(entry, (at, number)) {
            wrong.push(Wrong::Doubled(format!(
                "an event is entry {other} of life {life} and entry {number} of life {at}"
            )));
        }
        if self.refused.contains(&entry) {
            wrong.push(Wrong::Differs(format!("an event was refused, and is entry {number}")));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(born: u64, entries: &[u64]) -> Found {
        let state = TopicState {
            count: entries.len() as u64,
            digest: entries.iter().fold(0, |digest, entry| chained(digest, *entry)),
            list: entries[entries.len().saturating_sub(3)..].to_vec(),
            ticks: 1,
        };
        Found { born, state }
    }

    /// A topic in its first life, with these entries of which clients were told.
    fn topic(entries: &[u64]) -> Topic {
        let topic = Topic::new("ledger:1".to_owned());
        assert_eq!(topic.found(&found(1, &[]), topic.mark()), []);
        for (number, entry) in (1..).zip(entries) {
            assert_eq!(topic.told(1, number, *entry, None), []);
        }
        topic
    }

    /// What is wrong with what a client finds that asks now.
    #[track_caller]
    fn check(topic: &Topic, there: &Found, expected: &str) {
        let wrong = format!("{:?}", topic.found(there, topic.mark()));
        let is_it = if expected.is_empty() {
            wrong == "[]"
        } else {
            wrong.contains(expected)
        };
        assert!(is_it, "{wrong} instead of {expected:?}");
    }

    #[test]
    fn what_clients_were_told_of_is_there_and_more_may_be() {
        check(&topic(&[5, 6, 7]), &found(1, &[5, 6, 7]), "");
        check(&topic(&[5, 6, 7]), &found(1, &[5, 6, 7, 8, 9]), "");
        check(&topic(&[5, 6, 7]), &found(1, &[5, 6]), "Undone");
        check(&topic(&[5, 6, 7]), &found(1, &[5, 7, 6]), "Differs");
        check(&topic(&[5, 6, 7]), &found(1, &[5, 6, 7, 5]), "Doubled");
        check(&topic(&[5, 6, 7, 8]), &found(1, &[4, 6, 7, 8]), "Differs");
    }

    #[test]
    fn a_topic_begins_anew_only_where_its_home_is_lost() {
        let topic = topic(&[5, 6]);
        topic.let_begin_anew(true);
        check(&topic, &found(2, &[]), "");
        assert_eq!(topic.begun_anew(), 1);
        check(&topic, &found(3, &[]), "Undone");
    }

    #[test]
    fn a_home_that_has_lost_a_topic_does_not_go_on() {
        let topic = topic(&[5]);
        let before = topic.mark();
        let pushed = Instant::now();
        topic.let_begin_anew(true);
        check(&topic, &found(2, &[]), "");
        // What was on its way may still arrive.
        assert_eq!(topic.found(&found(1, &[5]), before), []);
        assert_eq!(topic.told(1, 2, 6, Some(pushed)), []);
        check(&topic, &found(1, &[5, 6]), "Outlived");
        let wrong = topic.told(1, 3, 7, Some(Instant::now()));
        assert!(matches!(wrong[..], [Wrong::Outlived(_)]), "{wrong:?}");
        // Nor is an event handled in both lives.
        let wrong = topic.told(2, 1, 5, None);
        assert!(matches!(wrong[..], [Wrong::Doubled(_)]), "{wrong:?}");
    }

    #[test]
    fn an_event_that_was_refused_is_not_there() {
        let refused_first = topic(&[5]);
        assert_eq!(refused_first.refused(6), None);
        check(&refused_first, &found(1, &[5, 6]), "refused");
        assert!(topic(&[5]).refused(5).is_some());
    }
}
