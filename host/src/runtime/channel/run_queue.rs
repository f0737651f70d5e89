//! The run queue of a shard: the topics that have something to be handled, and whether the shard is asked for anything else.
//!
//! A [`Topic`] and the run queue of its owner know each other, as a task and its scheduler do. What else a shard is asked for
//! is kept elsewhere; here it only counts.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytestring::ByteString;

use super::Topic;
use crate::runtime::wake::{self, Sleeper};

/// What waits for a shard.
#[derive(Debug)]
pub(crate) struct RunQueue {
    /// Of the generation that it belongs to.
    pub(crate) generation: u64,
    /// The events that this generation's code intercepts.
    intercepts: Arc<HashSet<String>>,
    /// Topics that this generation owns, all its shards together.
    residents: Arc<AtomicUsize>,
    waiting: Mutex<Waiting>,
    ready: Condvar,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    topics: VecDeque<Arc<Topic>>,
    /// Times that the shard was called for something else.
    calls: usize,
    /// Topics go first this time: a flood of calls does not keep them waiting.
    topics_first: bool,
    stopping: bool,
    /// The thread has found nothing, and sleeps.
    asleep: bool,
}

/// What a shard does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// It handles these.
    Topics(Vec<Arc<Topic>>),
    /// It looks what it is called for.
    Call,
    /// It ends.
    Stop,
}

impl RunQueue {
    /// The queue of a shard of this generation.
    #[must_use]
    pub(crate) fn new(generation: u64, intercepts: Arc<HashSet<String>>, residents: Arc<AtomicUsize>) -> Self {
        Self {
            generation,
            intercepts,
            residents,
            waiting: Mutex::default(),
            ready: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the run queue panics")
    }

    /// Whether this generation's code wants the event for its `handle_out`.
    #[must_use]
    pub(crate) fn intercepts(&self, event: &ByteString) -> bool {
        !self.intercepts.is_empty() && self.intercepts.contains(&**event)
    }

    /// Adds a topic that has something to be handled.
    pub(crate) fn schedule(self: &Arc<Self>, topic: Arc<Topic>) {
        let mut waiting = self.waiting();
        waiting.topics.push_back(topic);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            wake::soon(self);
        }
    }

    /// Puts topics back that were taken and not handled, in front of all others.
    pub(crate) fn put_back(&self, topics: impl DoubleEndedIterator<Item = Arc<Topic>>) {
        let mut topics = topics.rev().peekable();
        if topics.peek().is_none() {
            return;
        }
        let mut waiting = self.waiting();
        topics.for_each(|topic| waiting.topics.push_front(topic));
    }

    /// Says that the shard is asked for something else.
    pub(crate) fn call(&self) {
        self.waiting().calls += 1;
        self.wake();
    }

    /// The shard ends once nothing waits.
    pub(crate) fn stop(&self) {
        self.waiting().stopping = true;
        self.wake();
    }

    /// The shard does nothing any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        self.closed.store(true, Ordering::Release);
        waiting.topics.clear();
        drop(waiting);
        self.wake();
    }

    /// Whether it does nothing any more.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// It owns one topic more.
    pub(crate) fn enter(&self) {
        self.residents.fetch_add(1, Ordering::AcqRel);
    }

    /// It owns one less.
    pub(crate) fn leave(&self) {
        self.residents.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for something to do; at most so many topics at once.
    pub(crate) fn next(&self, most: usize) -> Next {
        let mut waiting = self.waiting();
        loop {
            let topics_first = std::mem::replace(&mut waiting.topics_first, false) && !waiting.topics.is_empty();
            if !topics_first && waiting.calls > 0 {
                waiting.calls -= 1;
                waiting.topics_first = true;
                return Next::Call;
            }
            if !waiting.topics.is_empty() {
                let most = waiting.topics.len().min(most);
                return Next::Topics(waiting.topics.drain(..most).collect());
            }
            if waiting.stopping || self.is_closed() {
                return Next::Stop;
            }
            waiting.asleep = true;
            waiting = self.ready.wait(waiting).expect("no holder of the run queue panics");
            waiting.asleep = false;
        }
    }
}

impl Sleeper for RunQueue {
    const IS_SHARD: bool = true;

    fn wake(&self) {
        if std::mem::take(&mut self.waiting().asleep) {
            self.ready.notify_one();
        }
    }
}
