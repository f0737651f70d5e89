//! The run queue of a shard: the topics with waiting inputs, and the number of other calls to the shard.
//!
//! A [`Topic`] and the run queue of its owner know each other, as a task and its scheduler do. The other calls are kept elsewhere;
//! here they are only counted.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytestring::ByteString;
use tokio::sync::Notify;

use super::Topic;
use crate::runtime::wake::{self, Sleeper};

/// The work that waits for a shard.
#[derive(Debug)]
pub(crate) struct RunQueue {
    /// The generation that it belongs to.
    pub(crate) generation: u64,
    /// The events that this generation's code intercepts.
    intercepts: Arc<HashSet<String>>,
    /// How many topics all shards of this generation own.
    residents: Arc<AtomicUsize>,
    waiting: Mutex<Waiting>,
    ready: Condvar,
    /// Who sleeps elsewhere, and asks with [`try_next`](Self::try_next).
    sleeper: Option<Arc<Notify>>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    topics: VecDeque<Arc<Topic>>,
    /// How often the shard was called for something else.
    calls: usize,
    /// Topics go first this time, so that a flood of calls does not keep them waiting.
    topics_first: bool,
    stopping: bool,
    /// The thread has found no work, and sleeps.
    asleep: bool,
}

/// What a shard does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Handle these.
    Topics(Vec<Arc<Topic>>),
    /// Answer a call.
    Call,
    /// End.
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
            sleeper: None,
            closed: AtomicBool::new(false),
        }
    }

    /// A queue of topics that no shard of this host handles: their home is another node. `sleeper` is told when some wait.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    #[must_use]
    pub(crate) fn for_node(sleeper: Arc<Notify>) -> Self {
        Self {
            sleeper: Some(sleeper),
            ..Self::new(0, Arc::default(), Arc::default())
        }
    }

    /// Takes up to `most` topics without waiting. If there is none, the sleeper is told of the next.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    #[must_use]
    pub(crate) fn try_next(&self, most: usize) -> Vec<Arc<Topic>> {
        let mut waiting = self.waiting();
        let most = waiting.topics.len().min(most);
        waiting.asleep = most == 0;
        waiting.topics.drain(..most).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the run queue panics")
    }

    /// Whether this generation's code intercepts the event.
    #[must_use]
    pub(crate) fn intercepts(&self, event: &ByteString) -> bool {
        !self.intercepts.is_empty() && self.intercepts.contains(&**event)
    }

    /// Adds a topic with waiting inputs.
    pub(crate) fn schedule(self: &Arc<Self>, topic: Arc<Topic>) {
        let mut waiting = self.waiting();
        waiting.topics.push_back(topic);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            wake::soon(self);
        }
    }

    /// Puts back topics that were not handled, in front of all others.
    pub(crate) fn put_back(&self, topics: impl DoubleEndedIterator<Item = Arc<Topic>>) {
        let mut topics = topics.rev().peekable();
        if topics.peek().is_none() {
            return;
        }
        let mut waiting = self.waiting();
        topics.for_each(|topic| waiting.topics.push_front(topic));
    }

    /// Calls the shard for something else.
    pub(crate) fn call(&self) {
        self.waiting().calls += 1;
        self.wake();
    }

    /// The shard ends once no work waits.
    pub(crate) fn stop(&self) {
        self.waiting().stopping = true;
        self.wake();
    }

    /// The shard does no more work.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        self.closed.store(true, Ordering::Release);
        waiting.topics.clear();
        drop(waiting);
        self.wake();
    }

    /// Whether the shard does no more work.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Counts one more topic.
    pub(crate) fn enter(&self) {
        self.residents.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one topic less.
    pub(crate) fn leave(&self) {
        self.residents.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for work: at most so many topics at once.
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
            match &self.sleeper {
                None => self.ready.notify_one(),
                Some(sleeper) => sleeper.notify_one(),
            }
        }
    }
}
