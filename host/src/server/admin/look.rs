//! Looks at what takes longer to find out: every topic, open files, the quarantine. One look serves all who watch, it happens only
//! while somebody does, and on a thread that nobody waits for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::ContentHash;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::quarantine::{Quarantine, Quarantined};
use crate::server::state::State;
use crate::server::usage;

/// For how long a look is good enough.
const FRESH: Duration = Duration::from_secs(5);
/// After how long events per second are no longer those of the last look.
const OLD: Duration = Duration::from_secs(60);
/// How many topics are shown.
const BUSIEST: usize = 20;
/// How many topics a look takes in. Beyond that, it says so.
const MOST_TOPICS: usize = 200_000;
/// How many topics of a plugin are asked for at once: for no longer does a look hold up joins.
const PAGE: usize = 500;
/// How many contents in quarantine are shown.
const MOST_QUARANTINED: usize = 100;

/// What was seen last.
#[derive(Debug)]
pub(super) struct Look {
    state: Arc<State>,
    quarantine: Arc<Quarantine>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    seen: Option<Arc<Seen>>,
    /// Somebody looks just now.
    is_looking: bool,
    /// Events of each topic, by its number, and when they were counted.
    handled: HashMap<u64, u64>,
    counted: Option<Instant>,
}

/// What a look has found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    at: Option<Instant>,
    /// Topics and members of each plugin.
    pub(super) populations: BTreeMap<String, (usize, usize)>,
    pub(super) topics: Vec<BusyTopic>,
    /// Whether it has taken in all topics.
    pub(super) is_complete: bool,
    pub(super) open_files: u64,
    pub(super) resident_bytes: u64,
    pub(super) quarantined: Vec<(ContentHash, Quarantined)>,
    /// How long it has taken.
    pub(super) took: Duration,
}

/// A topic that much happens in.
#[derive(Debug)]
pub(super) struct BusyTopic {
    name: String,
    plugin: String,
    members: usize,
    events: u64,
    /// Since the look before; unknown in the first.
    events_per_s: Option<f64>,
}

impl Look {
    pub(super) fn new(state: Arc<State>, quarantine: Arc<Quarantine>) -> Self {
        Self {
            state,
            quarantine,
            last: Mutex::default(),
        }
    }

    /// What was seen in the last seconds. Looks if nobody has done so.
    pub(super) async fn seen(self: &Arc<Self>) -> Arc<Seen> {
        {
            let mut last = self.last();
            let is_fresh = |seen: &Arc<Seen>| seen.at.is_some_and(|at| at.elapsed() < FRESH);
            if let Some(seen) = last.seen.clone().filter(|seen| last.is_looking || is_fresh(seen)) {
                return seen;
            }
            if last.is_looking {
                // The first look is under way.
                return Arc::default();
            }
            last.is_looking = true;
        }
        let look = Arc::clone(self);
        // It goes on if whoever asked is gone meanwhile.
        let done = tokio::task::spawn_blocking(move || {
            let _done = Done(&look);
            look.look()
        });
        done.await.unwrap_or_default()
    }

    /// Looks anew when somebody asks next: something was changed.
    pub(super) fn forget(&self) {
        self.last().seen = None;
    }

    /// Gives the memory back if nobody has asked for a while.
    pub(super) fn forget_if_old(&self) {
        let mut last = self.last();
        if last.counted.is_some_and(|counted| counted.elapsed() >= OLD) {
            *last = Last {
                is_looking: last.is_looking,
                ..Last::default()
            };
        }
    }

    fn look(&self) -> Arc<Seen> {
        let start = Instant::now();
        let routing = self.state.routing();
        let (before, since) = {
            let mut last = self.last();
            let since = last.counted.take().map(|counted| counted.elapsed());
            (std::mem::take(&mut last.handled), since.filter(|since| *since < OLD))
        };
        let mut handled = HashMap::new();
        let mut seen = Seen {
            is_complete: true,
            ..Seen::default()
        };
        for slot in routing.routes.plugins.values() {
            look_at_topics(slot, &mut seen, &mut handled, |number, events| {
                // A topic that was not there before has had all its events since.
                let more = events.saturating_sub(before.get(&number).copied().unwrap_or(0));
                Some(more as f64 / since?.as_secs_f64().max(0.001))
            });
        }
        seen.open_files = usage::open_files();
        seen.resident_bytes = usage::resident_bytes();
        seen.quarantined = self.quarantine.list();
        seen.quarantined.truncate(MOST_QUARANTINED);
        seen.at = Some(start);
        seen.took = start.elapsed();
        let seen = Arc::new(seen);
        let mut last = self.last();
        last.handled = handled;
        last.counted = Some(start);
        last.seen = Some(Arc::clone(&seen));
        seen
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a look has ended, even if it has panicked.
struct Done<'a>(&'a Look);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.last().is_looking = false;
    }
}

fn look_at_topics(
    slot: &PluginSlot,
    seen: &mut Seen,
    handled: &mut HashMap<u64, u64>,
    per_second: impl Fn(u64, u64) -> Option<f64>,
) {
    let (mut topics, mut members) = (0, 0);
    let mut after: Option<String> = None;
    loop {
        let page = slot.page("", after.as_deref(), PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.name.to_string());
        for topic in &page {
            let (events, joined) = (topic.handled(), topic.record().members.len());
            topics += 1;
            members += joined;
            handled.insert(topic.number, events);
            seen.take_in(BusyTopic {
                name: topic.name.to_string(),
                plugin: slot.name.clone(),
                members: joined,
                events,
                events_per_s: per_second(topic.number, events),
            });
        }
        if handled.len() >= MOST_TOPICS {
            seen.is_complete = false;
            break;
        }
    }
    // What was not looked at has topics all the same.
    let topics = if seen.is_complete { topics } else { slot.topic_count() };
    seen.populations.insert(slot.name.clone(), (topics, members));
}

impl Seen {
    /// Keeps a topic if it is one of the busiest so far.
    fn take_in(&mut self, topic: BusyTopic) {
        let at = self.topics.partition_point(|known| known.rank() >= topic.rank());
        if at < BUSIEST {
            self.topics.insert(at, topic);
            self.topics.truncate(BUSIEST);
        }
    }
}

impl BusyTopic {
    /// The busiest have the highest: by events of late, then members, then events in all.
    fn rank(&self) -> (u64, usize, u64) {
        let of_late = self.events_per_s.unwrap_or(0.0) * 1000.0;
        (of_late as u64, self.members, self.events)
    }

    /// As the dashboard gets it.
    pub(super) fn shown(&self) -> Value {
        json!({
            "topic": self.name, "plugin": self.plugin, "members": self.members, "events": self.events,
            "events_per_s": self.events_per_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_topics_are_kept_in_order() {
        let mut seen = Seen::default();
        for number in 0..100_u32 {
            seen.take_in(BusyTopic {
                name: number.to_string(),
                plugin: "room".to_owned(),
                members: 1,
                events: 5,
                events_per_s: Some(f64::from(number * 7 % 100)),
            });
        }
        let rates: Vec<_> = seen.topics.iter().filter_map(|topic| topic.events_per_s).collect();
        let expected: Vec<_> = (80..100).rev().map(f64::from).collect();
        assert_eq!(rates, expected);
    }
}
