//! Everything that happens later, as data: one thread and one ordered map for the whole host.
//!
//! A due timer becomes an input of its topic. A deadline does so, too, but does not count the time for which the process stood
//! still. Nothing here calls a plugin or waits for one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::runtime::channel::{Input, Topic};
use crate::runtime::clock;
use crate::runtime::threads::{self, fault};

/// The thread's name.
const NAME: &str = "timers";

/// The host's timers. Dropping the last handle ends their thread.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// One input that comes later.
#[derive(Debug)]
struct Timer {
    topic: Weak<Topic>,
    input: Input,
    /// For a deadline: when it is over, on the clock that stands still with the process.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), Timer>,
    /// When each is due, so that it can be found to be cancelled.
    times: HashMap<u64, Instant>,
    last: u64,
    stopped: bool,
}

impl Timers {
    /// Starts the thread that fires them.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let timers = Arc::new(Self::default());
        let weak = Arc::downgrade(&timers);
        threads::spawn(NAME, move || run(&weak))?;
        Ok(timers)
    }

    /// A number for a timer that is [set](Timers::set) next.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        let mut queue = self.queue();
        queue.last += 1;
        queue.last
    }

    /// After `delay`, pushes `input` to `topic`, if that is still there.
    pub(crate) fn set(&self, number: u64, delay: Duration, topic: Weak<Topic>, input: Input) {
        let until = None;
        self.add(number, delay, Timer { topic, input, until });
    }

    /// The same for what somebody is judged by: a standstill of the process does not count.
    pub(crate) fn set_deadline(&self, number: u64, delay: Duration, topic: Weak<Topic>, input: Input) {
        let until = clock::now().checked_add(delay);
        self.add(number, delay, Timer { topic, input, until });
    }

    fn add(&self, number: u64, delay: Duration, timer: Timer) {
        // A delay beyond what the clock can show is as good as never.
        let Some(at) = Instant::now().checked_add(delay) else {
            return;
        };
        if self.queue().add(number, at, timer) {
            self.changed.notify_all();
        }
    }

    /// Forgets a timer. `false` if there is none, or none any more.
    pub(crate) fn cancel(&self, number: u64) -> bool {
        let mut queue = self.queue();
        let at = queue.times.remove(&number);
        at.is_some_and(|at| queue.due.remove(&(at, number)).is_some())
    }

    /// How many are due later.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.queue().due.len()
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.queue().stopped = true;
        self.changed.notify_all();
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the timers panics")
    }
}

impl Queue {
    /// Adds a timer that is due at `at`. True: it is the next one.
    fn add(&mut self, number: u64, at: Instant, timer: Timer) -> bool {
        let first = self.due.first_key_value().map(|((at, _), _)| *at);
        self.due.insert((at, number), timer);
        self.times.insert(number, at);
        first.is_none_or(|first| at < first)
    }

    /// Takes the timer that is due first. `None`: it is a deadline with a `rest`, because the process stood still.
    fn take_first(&mut self, now: Instant, rest: impl FnOnce(Instant) -> Option<Duration>) -> Option<Timer> {
        let ((_, number), timer) = self.due.pop_first()?;
        self.times.remove(&number);
        match timer.until.and_then(rest) {
            Some(rest) => {
                self.add(number, now + rest, timer);
                None
            }
            None => Some(timer),
        }
    }
}

fn run(timers: &Weak<Timers>) {
    while let Some(timers) = timers.upgrade() {
        fault::point(NAME);
        let mut queue = timers.queue();
        if queue.stopped {
            return;
        }
        let now = Instant::now();
        let wait = match queue.due.first_key_value() {
            Some(((at, _), _)) if *at <= now => Duration::ZERO,
            Some(((at, _), _)) => *at - now,
            None => Duration::from_secs(1),
        };
        if !wait.is_zero() {
            // Woken early at times, so as to notice that all handles are gone.
            drop(timers.changed.wait_timeout(queue, wait.min(Duration::from_secs(1))));
            continue;
        }
        let timer = queue.take_first(now, clock::rest);
        drop(queue);
        if let Some(Timer { topic, input, .. }) = timer
            && let Some(topic) = topic.upgrade()
        {
            topic.owe(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with one timer that is due at `at`.
    fn queue(until: Option<Instant>, at: Instant) -> Queue {
        let mut queue = Queue::default();
        let (topic, input) = (Weak::new(), Input::PresenceDiff);
        queue.add(1, at, Timer { topic, input, until });
        queue
    }

    #[test]
    fn a_deadline_waits_for_as_long_as_the_process_stood_still_and_a_timer_does_not() {
        let start = Instant::now();
        let due = start + Duration::from_secs(10);
        let now = due + Duration::from_secs(60);
        let rest = Duration::from_secs(4);
        assert!(queue(None, due).take_first(now, |_| Some(rest)).is_some());

        let mut queue = queue(Some(due), due);
        assert!(queue.take_first(now, |until| (until == due).then_some(rest)).is_none());
        let later: Vec<Instant> = queue.due.keys().map(|(at, _)| *at).collect();
        assert_eq!(later, [now + rest]);
        assert_eq!(queue.times.get(&1), Some(&(now + rest)), "it can still be cancelled");
        assert!(queue.take_first(now + rest, |_| None).is_some());
        assert!(queue.due.is_empty() && queue.times.is_empty());
    }
}
