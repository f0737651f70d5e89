//! Notices handlers that do not return, logs them, and abandons their shards.
//!
//! One thread of the host looks at all shards every few milliseconds. All that a shard's thread does for it is to count its events
//! ([`Pulse`]). In `dev` no shard is abandoned; the log lines repeat instead. The same thread keeps the [`clock`] going, and writes
//! the log lines that sum up what was left out. [`abandon`] says what happens to an abandoned shard.

mod pulse;
mod thread;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

pub(crate) use self::pulse::{Abandoned, Pulse};
use self::thread::ThreadState;
use super::abandon;
use super::generation::ShardSet;
use super::loader::{said, signals};
use super::shard::{Shard, Work};
use crate::config::Mode;
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock::{self, Heart};
use crate::runtime::plugin::Hub;
use crate::runtime::threads::{self, fault};

/// The thread's name.
const NAME: &str = "watchdog";
/// The time between two looks. Reports may be late by as much.
const TICK: Duration = Duration::from_millis(20);

/// How many ticks are between two looks at the process's signal handlers.
const SIGNAL_TICKS: u32 = 5;

/// The line about a handler past `warn_ms`.
const SLOW: &str = "slow handler: move blocking work to a thread (`cx.spawn`)";
/// The line about it later, at growing intervals.
const STILL: &str = "handler still running: other topics of the same thread wait";

/// The shards of all generations.
#[derive(Debug, Default)]
pub(crate) struct Watchdog(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    set: Weak<ShardSet>,
    shard: Arc<Shard>,
    /// The event that the last look saw, and since when it runs.
    seen: Option<(u64, Instant)>,
    /// The watchdog has woken I/O threads for what the shard had sent before.
    woken: bool,
    /// When to log again that the event takes long; `None`: not logged yet.
    again: Option<Duration>,
}

/// A handler that takes too long.
#[derive(Debug)]
struct Alarm {
    set: Arc<ShardSet>,
    shard: Arc<Shard>,
    event: u64,
    since: Instant,
    /// It is past the deadline, where there is one.
    hangs: bool,
    report: Option<Report>,
}

/// Which line about a slow handler is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    First,
    Again,
}

/// A call into a plugin that has not returned.
#[derive(Debug)]
pub(crate) struct Running {
    /// The plugin.
    pub(crate) plugin: String,
    /// The callback.
    pub(crate) callback: &'static str,
    /// The topic; empty if there is none.
    pub(crate) topic: String,
    /// The name of the event; empty if it has none.
    pub(crate) event: String,
}

/// What a plugin does, for a log line.
#[derive(Debug, Default)]
struct Doing {
    callback: &'static str,
    topic: String,
    event: String,
}

/// Starts the thread, which ends with the hub. In `dev` it abandons no shard.
///
/// # Errors
///
/// If the system gives no thread.
pub(crate) fn start(hub: &Arc<Hub>, mode: Mode) -> std::io::Result<()> {
    let hub = Arc::downgrade(hub);
    let heart = Heart::start();
    let body = move || {
        let mut look_at_signals = (0..SIGNAL_TICKS).cycle();
        while let Some(hub) = hub.upgrade() {
            fault::point(NAME);
            heart.beat();
            for alarm in hub.watchdog.look(mode) {
                alarm.raise();
            }
            hub.client_lines.tell_rest();
            drop(hub);
            if look_at_signals.next() == Some(0) {
                look_after_signals();
            }
            std::thread::sleep(TICK);
        }
    };
    threads::spawn(NAME, body).map(drop)
}

/// Puts back signal handlers of the host's that a plugin has replaced, and tells of timers that a plugin has forgotten.
fn look_after_signals() {
    for changed in signals::look() {
        changed.say();
    }
    for signal in signals::fired() {
        tracing::error!(
            signal,
            "ignored a timer signal that no handler expects: a plugin left a timer behind. Delete timers when the plugin's value is dropped"
        );
    }
}

impl Watchdog {
    /// Watches a shard until it is closed or its generation is gone.
    pub(super) fn watch(&self, set: Weak<ShardSet>, shard: Arc<Shard>) {
        let watched = Watched {
            set,
            shard,
            seen: None,
            woken: false,
            again: None,
        };
        self.0.lock().expect("no holder panics").push(watched);
    }

    /// The calls into plugins that have lasted at least since the last look.
    pub(crate) fn running(&self) -> Vec<Running> {
        let all = self.0.lock().expect("no holder panics");
        all.iter().filter_map(Watched::running).collect()
    }

    fn look(&self, mode: Mode) -> Vec<Alarm> {
        let now = clock::now();
        let mut alarms = Vec::new();
        self.0.lock().expect("no holder panics").retain_mut(|watched| {
            let Some(set) = watched.set.upgrade() else {
                return false;
            };
            alarms.extend(watched.look(&set, now, mode));
            set.env.slot.refused_effects.say_overdue(&set.env.slot.name);
            !watched.shard.is_closed()
        });
        alarms
    }
}

impl Watched {
    fn running(&self) -> Option<Running> {
        let (seen, _) = self.seen?;
        let set = self.set.upgrade()?;
        let Doing { callback, topic, event } = Doing::of(&self.shard);
        (self.shard.pulse.event() == Some(seen)).then(|| Running {
            plugin: set.env.slot.name.clone(),
            callback,
            topic,
            event,
        })
    }

    fn look(&mut self, set: &Arc<ShardSet>, now: Instant, mode: Mode) -> Option<Alarm> {
        let event = self.shard.pulse.event();
        let (event, since) = match (event, self.seen) {
            (None, _) => {
                self.seen = None;
                return None;
            }
            (Some(event), Some((seen, since))) if event == seen => (event, since),
            (Some(event), _) => {
                self.seen = Some((event, now));
                (self.woken, self.again) = (false, None);
                return None;
            }
        };
        if !std::mem::replace(&mut self.woken, true) {
            // Its thread does that only at the end of its batch, which is not near.
            set.env.hub.pubsub.hurry();
        }
        let (config, taken) = (set.env.slot.config(), now.saturating_duration_since(since));
        // Past the deadline, each look tries again: a handler that calls the host at that moment cannot be abandoned.
        let hangs = mode == Mode::Serve && taken >= config.deadline && clock::may_judge();
        let report = match self.again {
            None => (taken >= config.warn).then_some(Report::First),
            Some(again) => (taken >= again).then_some(Report::Again),
        };
        if report.is_some() {
            self.again = Some(say_again(taken));
        }
        (hangs || report.is_some()).then(|| Alarm {
            set: Arc::clone(set),
            shard: Arc::clone(&self.shard),
            event,
            since,
            hangs,
            report,
        })
    }
}

impl Alarm {
    fn raise(self) {
        let (stats, doing) = (&self.set.env.slot.stats, Doing::of(&self.shard));
        let thread = ThreadState::of(self.shard.pulse.thread());
        if self.hangs && self.shard.pulse.abandon(self.event) {
            stats.hangs.inc();
            // During probation it counts as a panic.
            self.set.env.health.panicked();
            let lost = abandon::abandon(&self.set, &self.shard);
            return self.say_lost(&doing, &thread, &lost);
        }
        match self.report {
            Some(Report::First) => {
                stats.slow_handlers.inc();
                self.say(SLOW, &doing, &thread);
            }
            Some(Report::Again) => self.say(STILL, &doing, &thread),
            None => {}
        }
    }

    fn say(&self, what: &str, doing: &Doing, thread: &ThreadState) {
        let Doing { callback, topic, event } = doing;
        client_line!(
            WARN,
            self.set.env.hub.client_lines,
            "slow handler",
            Source::Plugin(self.set.env.slot.name.as_str().into()),
            plugin = self.set.env.slot.name,
            generation = self.shard.generation(),
            topic,
            callback,
            event,
            ms = self.ms(),
            state = thread.state,
            call = thread.call,
            cpu_ms = thread.cpu_ms(),
            "{what}"
        );
    }

    fn say_lost(&self, doing: &Doing, thread: &ThreadState, lost: &abandon::Lost) {
        let Doing { callback, topic, event } = doing;
        tracing::error!(
            plugin = self.set.env.slot.name,
            generation = self.shard.generation(),
            topic,
            callback,
            event,
            ms = self.ms(),
            state = thread.state,
            call = thread.call,
            cpu_ms = thread.cpu_ms(),
            topics = lost.topics,
            channels = lost.channels,
            replaced = lost.replaced,
            "handler did not return within `deadline_ms`: Bennu abandoned its thread; clients of its topics get `phx_error` and join again"
        );
        if self.set.is_abandoned() {
            tracing::error!(
                plugin = self.set.env.slot.name,
                generation = self.shard.generation(),
                "plugin out of service: all its threads are abandoned. Replace its library, or restart the server"
            );
        }
    }

    fn ms(&self) -> u128 {
        clock::since(self.since).as_millis()
    }
}

/// When to log again about a handler that has run for `taken`: after a second, after ten, then each minute.
fn say_again(taken: Duration) -> Duration {
    let seconds = match taken.as_secs() {
        0 => 1,
        1..10 => 10,
        more => (more / 60 + 1) * 60,
    };
    Duration::from_secs(seconds)
}

impl Doing {
    fn of(shard: &Shard) -> Self {
        let topic = |topic: &crate::runtime::channel::Topic| said(&topic.name).into_owned();
        match &*shard.work() {
            Some(Work::Events(plan)) => match plan.at_hand() {
                Some((step, on)) => Self {
                    callback: step.callback(),
                    topic: topic(on),
                    event: said(step.event_name()).into_owned(),
                },
                None => Self::default(),
            },
            Some(Work::Connect(call)) => Self::of_callback(call.asked.callback()),
            Some(Work::Give(moving)) => Self {
                callback: "snapshot",
                topic: topic(&moving.topic),
                ..Self::default()
            },
            Some(Work::Sample(sampled)) => Self {
                callback: "snapshot",
                topic: topic(sampled),
                ..Self::default()
            },
            Some(Work::Take(carried)) => Self {
                callback: "restore",
                topic: topic(carried.topic()),
                ..Self::default()
            },
            Some(Work::Wake(woken)) => Self {
                callback: "restore",
                topic: topic(woken),
                ..Self::default()
            },
            #[cfg(feature = "cluster")]
            Some(Work::Depart(departing)) => Self {
                callback: "snapshot",
                topic: topic(departing.topic()),
                ..Self::default()
            },
            #[cfg(feature = "cluster")]
            Some(Work::Arrive(arriving)) => Self {
                callback: "restore",
                topic: topic(arriving.topic()),
                ..Self::default()
            },
            Some(Work::Forget) => Self::of_callback("drop"),
            Some(Work::Life(callback)) => Self::of_callback(callback),
            None => Self::default(),
        }
    }

    fn of_callback(callback: &'static str) -> Self {
        Self {
            callback,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_handler_runs_on_is_said_after_a_second_after_ten_and_each_minute() {
        let mut said = vec![Duration::from_millis(60)];
        while said.len() < 6 {
            let last = said[said.len() - 1];
            // A little late, as the watchdog is.
            said.push(say_again(last) + TICK);
        }
        let seconds: Vec<_> = said.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 1, 10, 60, 120, 180]);
    }
}
