//! Notices handlers that do not return, says so, and gives their shards up.
//!
//! One thread of the host looks at all shards every few milliseconds. A shard's thread does no more for it than to count
//! its events ([`Pulse`]). It also says how many refused effects were left unsaid. What becomes of a shard that is given up stands in [`giveup`].

mod pulse;
mod thread;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

pub use self::pulse::{GivenUp, Pulse};
use self::thread::ThreadState;
use super::generation::Crew;
use super::giveup;
use super::loader::said;
use super::shard::{ShardQueue, Work};
use crate::config::Mode;
use crate::hub::Hub;
use crate::wake::Sleeper;

/// Between two looks: reports may come so much later.
const TICK: Duration = Duration::from_millis(20);

/// The shards of all generations.
#[derive(Debug, Default)]
pub struct Watchdog(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    crew: Weak<Crew>,
    shard: Arc<ShardQueue>,
    /// The event that was seen last, and since when.
    seen: Option<(u64, Instant)>,
    /// I/O threads were told of what the shard had sent before.
    woken: bool,
    warned: bool,
}

/// A handler that takes too long.
#[derive(Debug)]
struct Alarm {
    crew: Arc<Crew>,
    shard: Arc<ShardQueue>,
    event: u64,
    since: Instant,
    /// Past the deadline.
    hangs: bool,
}

/// What a plugin is doing, for a line of the log.
#[derive(Debug, Default)]
struct Doing {
    callback: &'static str,
    topic: String,
    event: String,
}

/// Starts the thread, which ends with the hub. In `dev` it gives nothing up.
///
/// # Errors
///
/// If the system gives no thread.
pub fn start(hub: &Arc<Hub>, mode: Mode) -> std::io::Result<()> {
    let hub = Arc::downgrade(hub);
    let body = move || {
        while let Some(hub) = hub.upgrade() {
            for alarm in hub.watchdog.look() {
                alarm.raise(mode);
            }
            drop(hub);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(body)
        .map(drop)
}

impl Watchdog {
    /// Watches a shard until it is closed or its generation is gone.
    pub(super) fn watch(&self, crew: Weak<Crew>, shard: Arc<ShardQueue>) {
        let watched = Watched {
            crew,
            shard,
            seen: None,
            woken: false,
            warned: false,
        };
        self.0.lock().expect("no holder panics").push(watched);
    }

    fn look(&self) -> Vec<Alarm> {
        let now = Instant::now();
        let mut alarms = Vec::new();
        self.0.lock().expect("no holder panics").retain_mut(|watched| {
            let Some(crew) = watched.crew.upgrade() else {
                return false;
            };
            alarms.extend(watched.look(&crew, now));
            crew.env.slot.refusals.say_overdue(&crew.env.slot.name);
            !watched.shard.is_closed()
        });
        alarms
    }
}

impl Watched {
    fn look(&mut self, crew: &Arc<Crew>, now: Instant) -> Option<Alarm> {
        let event = self.shard.pulse.event();
        let (event, since) = match (event, self.seen) {
            (None, _) => {
                self.seen = None;
                return None;
            }
            (Some(event), Some((seen, since))) if event == seen => (event, since),
            (Some(event), _) => {
                self.seen = Some((event, now));
                (self.woken, self.warned) = (false, false);
                return None;
            }
        };
        if !std::mem::replace(&mut self.woken, true) {
            // Its thread has put that off to the end of its batch, which is not near.
            for inbox in crew.env.hub.pubsub.inboxes() {
                Sleeper::wake(&**inbox);
            }
        }
        let (config, taken) = (crew.env.slot.config(), now - since);
        let hangs = taken >= config.deadline;
        // Past the deadline it is tried again and again: the handler may have been calling the host just then.
        if !hangs && (self.warned || taken < config.warn) {
            return None;
        }
        self.warned = true;
        Some(Alarm {
            crew: Arc::clone(crew),
            shard: Arc::clone(&self.shard),
            event,
            since,
            hangs,
        })
    }
}

impl Alarm {
    fn raise(self, mode: Mode) {
        let (stats, doing) = (&self.crew.env.slot.stats, Doing::of(&self.shard));
        let thread = ThreadState::of(self.shard.pulse.thread());
        if !self.hangs {
            stats.slow_handlers.inc();
            self.say(&doing, &thread, None);
        } else if mode == Mode::Serve && self.shard.pulse.give_up(self.event) {
            stats.hangs.inc();
            // On probation it counts as a panic.
            self.crew.env.health.panicked();
            let lost = giveup::give_up(&self.crew, &self.shard);
            self.say(&doing, &thread, Some(&lost));
        }
    }

    fn say(&self, doing: &Doing, thread: &ThreadState, lost: Option<&giveup::Lost>) {
        let Doing { callback, topic, event } = doing;
        let (plugin, generation) = (&self.crew.env.slot.name, self.shard.generation);
        let (ms, cpu_ms) = (self.since.elapsed().as_millis(), thread.cpu.as_millis());
        let (state, call) = (&thread.state, &thread.call);
        match lost {
            None => tracing::warn!(
                plugin,
                generation,
                topic,
                callback,
                event,
                ms,
                state,
                call,
                cpu_ms,
                "handler takes long: blocking work belongs on a thread of the plugin"
            ),
            Some(lost) => tracing::error!(
                plugin,
                generation,
                topic,
                callback,
                event,
                ms,
                state,
                call,
                cpu_ms,
                topics = lost.topics,
                channels = lost.channels,
                replaced = lost.replaced,
                "handler hangs: its shard is given up, its clients join again"
            ),
        }
    }
}

impl Doing {
    fn of(shard: &ShardQueue) -> Self {
        let topic = |topic: &crate::channel::Topic| said(&topic.name).into_owned();
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
