//! Logs which effects of a plugin the host refuses, and why. Each kind is logged once, and then at most once a second with a
//! count, because a plugin may ask for a million effects in one callback.

use std::sync::Mutex;
use std::time::Instant;

use super::loader::said;
use crate::runtime::channel::Topic;
use crate::runtime::throttle::LogThrottle;

/// How many topics have a line of their own in a second. Beyond that, topics share a line that names none.
const MOST_TOPICS: usize = 100;

/// What the log has said lately about one plugin.
#[derive(Debug, Default)]
pub(crate) struct RefusedEffects(Mutex<LogThrottle<Key, Line>>);

/// What is refused. Each key has its own line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    what: &'static str,
    error: i64,
    /// Its number, or 0.
    topic: u64,
}

/// The first effect that was refused.
#[derive(Debug)]
struct Line {
    topic: String,
    event: String,
    why: String,
}

impl RefusedEffects {
    /// Notes that the host refuses `what`, asked for with this event on this topic.
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

    /// Logs the counts that are due.
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
