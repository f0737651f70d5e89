//! Says in the log which effects of a plugin are refused, and why: each once, and then at most once a second with how many
//! more there were. A plugin may ask for a million of them in one callback.

use std::sync::Mutex;
use std::time::Instant;

use super::loader::said;
use crate::runtime::channel::Topic;
use crate::runtime::throttle::LogThrottle;

/// Lines that are told apart by their topic, in a second. What is refused on further topics shares a line without one.
const MOST_TOPICS: usize = 100;

/// What was said lately of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<LogThrottle<Key, Line>>);

/// What is refused: what tells one line from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    what: &'static str,
    error: i64,
    /// Its number, or 0.
    topic: u64,
}

/// The first that was refused.
#[derive(Debug)]
struct Line {
    topic: String,
    event: String,
    why: String,
}

impl Refusals {
    /// Notes that `what`, of this event, is refused on this topic.
    pub(super) fn note(
        &self,
        plugin: &str,
        what: &'static str,
        topic: Option<&Topic>,
        event: &str,
        (error, why): (i64, impl FnOnce() -> String),
    ) {
        let mut seldom = self.0.lock().expect("no holder panics");
        let key = |number| Key {
            what,
            error,
            topic: number,
        };
        let number = topic.map_or(0, |topic| topic.number);
        let own = seldom.len() < MOST_TOPICS || seldom.knows(&key(number));
        let (key, topic) = if own { (key(number), topic) } else { (key(0), None) };
        let line = || Line {
            topic: topic.map(|topic| said(&topic.name).into_owned()).unwrap_or_default(),
            event: said(event).into_owned(),
            why: why(),
        };
        if let Some((line, more)) = seldom.say(key, line, Instant::now()) {
            line.write(plugin, key, more);
        }
    }

    /// Says what was left unsaid, where nothing more has come since.
    pub(super) fn say_overdue(&self, plugin: &str) {
        let mut seldom = self.0.lock().expect("no holder panics");
        if !seldom.is_empty() {
            seldom.say_overdue(Instant::now(), |key, line, more| line.write(plugin, *key, more));
        }
    }
}

impl Line {
    fn write(&self, plugin: &str, key: Key, more: u64) {
        let Self { topic, event, why } = self;
        let more = (more > 0).then_some(more);
        tracing::warn!(plugin, topic, effect = key.what, event, more, "effect refused: {why}");
    }
}
