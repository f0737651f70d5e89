//! Everything that is to happen later, as data: one thread, one ordered map, for the whole host.
//!
//! A due timer becomes an input of its topic. Nothing here calls a plugin or waits for one.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::runtime::channel::{Input, Topic};

/// The host's timers. Dropping the last handle ends their thread.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), (Weak<Topic>, Input)>,
    /// When each is due, so that it can be found to be cancelled.
    times: std::collections::HashMap<u64, Instant>,
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
        std::thread::Builder::new()
            .name("timers".into())
            .spawn(move || run(&weak))?;
        Ok(timers)
    }

    /// A number for a timer that is to be [set](Timers::set).
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        let mut queue = self.queue();
        queue.last += 1;
        queue.last
    }

    /// After `delay`, pushes `input` to `topic`, if that is still there.
    pub(crate) fn set(&self, number: u64, delay: Duration, topic: Weak<Topic>, input: Input) {
        // A delay beyond what the clock can show is as good as never.
        let Some(at) = Instant::now().checked_add(delay) else {
            return;
        };
        let mut queue = self.queue();
        let first = queue.due.first_key_value().map(|((at, _), _)| *at);
        queue.due.insert((at, number), (topic, input));
        queue.times.insert(number, at);
        drop(queue);
        if first.is_none_or(|first| at < first) {
            self.changed.notify_all();
        }
    }

    /// Forgets a timer. `false` if there is none (any more).
    pub(crate) fn cancel(&self, number: u64) -> bool {
        let mut queue = self.queue();
        let Some(at) = queue.times.remove(&number) else {
            return false;
        };
        queue.due.remove(&(at, number)).is_some()
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

fn run(timers: &Weak<Timers>) {
    while let Some(timers) = timers.upgrade() {
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
        let ((_, number), (topic, input)) = queue.due.pop_first().expect("it was looked at");
        queue.times.remove(&number);
        drop(queue);
        if let Some(topic) = topic.upgrade() {
            topic.owe(input);
        }
    }
}
