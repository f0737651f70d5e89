//! A shard: one thread of one generation, the only place where its plugin code runs.
//!
//! It takes topics from its run queue, hands their events to the plugin in batches, and between batches does what the
//! host asks of it: connects, and moving topics from one generation to the next.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bennu_plugin::refusal;
use bytestring::ByteString;

use super::batch::Plan;
use super::connect::ConnectCall;
use super::handover::{self, Carried, Move};
use super::health::Health;
use super::journal::Panic;
use super::loader::{Effect, ShardInstance, said};
use super::sample::{self, Sampling};
use super::slot::PluginSlot;
use super::watchdog::Pulse;
use crate::channel::Topic;
use crate::hub::Hub;
use crate::wake::{self, PutOff, Sleeper};

/// Events that one call of the plugin may get: enough to spread the cost of the hop, few enough to stay fair.
pub(super) const BATCH: usize = 64;

/// Handshakes that may wait for one shard. Beyond: 503.
const MAX_CONTROLS: usize = 1024;

/// What a shard works with.
#[derive(Clone, Debug)]
pub struct Env {
    /// The rest of the host.
    pub hub: Arc<Hub>,
    /// The plugin it serves.
    pub slot: Arc<PluginSlot>,
    /// The number of its generation.
    pub generation: u64,
    /// How its generation fares.
    pub health: Arc<Health>,
}

impl Env {
    /// Notes that a callback panicked: counted, kept in the journal, and said in the log.
    pub fn panicked(&self, topic: &str, callback: &'static str, message: &str) {
        self.panicked_at(topic, callback, "", message);
    }

    /// The same for a callback that was called for an event or message of this name.
    pub fn panicked_at(&self, topic: &str, callback: &'static str, event: &str, message: &str) {
        self.note_panic(topic, callback, event, message);
        self.slot.stats.panics.inc();
        let message = &*said(message);
        tracing::error!(plugin = self.slot.name, topic, callback, message, "plugin panicked");
        // Whoever is woken by this finds all of it.
        self.health.panicked();
    }

    /// Notes that a thread of the plugin's own panicked, which ends no callback. The plugin has the log say so.
    pub fn thread_panicked(&self, message: &str) {
        self.note_panic("", "on a thread of its own", "", message);
        self.health.noted();
    }

    fn note_panic(&self, topic: &str, callback: &'static str, event: &str, message: &str) {
        self.slot.journal.panicked(Panic {
            generation: self.generation,
            callback,
            event: said(event).into_owned(),
            topic: said(topic).into_owned(),
            message: said(message).into_owned(),
            count: 1,
            at_unix_s: 0,
        });
    }

    /// Notes that the plugin asked for `what`, of this event, and does not get it: counted, and said in the log unless it is
    /// usual.
    pub(super) fn refused(
        &self,
        what: &'static str,
        topic: Option<&Topic>,
        event: &str,
        (error, why): (i64, impl FnOnce() -> String),
    ) {
        self.slot.stats.refused_effects.inc();
        self.health.erred();
        if !refusal::is_usual(error) {
            let Self { slot, .. } = self;
            slot.refusals.note(&slot.name, what, topic, event, (error, why));
        }
    }

    /// The same of an effect of a callback, as far as it could be read.
    pub(super) fn refused_effect(&self, kind: u32, topic: Option<&Topic>, effect: Option<&Effect<'_>>, error: i64) {
        let event = effect.map_or("", |effect| effect.name);
        let of = effect.map_or("", |effect| effect.topic);
        let len = match of {
            "" => topic.map_or(0, |topic| topic.name.len()),
            other => other.len(),
        };
        let why = || refusal::why(kind, error, event.len(), len);
        self.refused(refusal::word(kind), topic, event, (error, why));
    }
}

/// What waits for a shard.
#[derive(Debug)]
pub struct ShardQueue {
    /// Of the generation that it belongs to.
    pub generation: u64,
    /// The events that this generation's code intercepts.
    intercepts: Arc<HashSet<String>>,
    /// Topics at home in this generation, all its shards together.
    residents: Arc<AtomicUsize>,
    /// Whether the plugin's code is running.
    pub(super) pulse: Arc<Pulse>,
    work: Mutex<Option<Work>>,
    queue: Mutex<Queue>,
    ready: Condvar,
    /// The thread has ended, or nobody waits for it any more.
    ended: Condvar,
    closed: AtomicBool,
}

/// What a shard has in hand while the plugin's code runs. It is the host's: the thread takes it back when the plugin
/// returns; if the shard was given up meanwhile, somebody else has it.
#[derive(Debug)]
pub(super) enum Work {
    /// A batch.
    Events(Arc<Plan>),
    /// A connect.
    Connect(ConnectCall),
    /// A topic is written.
    Give(Move),
    /// A topic is read.
    Take(Carried),
    /// A topic is written for the probe.
    Sample(Arc<Topic>),
    /// What came over is dropped.
    Forget,
    /// The plugin makes what it needs for the shard, or drops it, or drops its own value.
    Life(&'static str),
}

#[derive(Debug, Default)]
struct Queue {
    topics: VecDeque<Arc<Topic>>,
    controls: VecDeque<Control>,
    /// Topics go first this time: a flood of handshakes does not keep them waiting.
    topics_first: bool,
    stopping: bool,
    /// The thread has found nothing, and sleeps.
    asleep: bool,
    /// The thread has ended, or nobody waits for it any more.
    over: bool,
}

/// What the host asks of a shard, between batches.
#[derive(Debug)]
pub enum Control {
    /// Run the connect handler.
    Connect(Box<ConnectCall>),
    /// Give a topic to another generation.
    Give(Box<Move>),
    /// Take it.
    Take(Box<Carried>),
    /// Forget what was given: it has arrived.
    Forget(Arc<Topic>),
    /// Write a topic's state for the probe.
    Sample(Box<Sampling>),
}

/// What a shard does next.
enum Next {
    Control(Control),
    Topics(Vec<Arc<Topic>>),
    Stop,
}

impl ShardQueue {
    /// A queue for a shard of this generation.
    #[must_use]
    pub fn new(generation: u64, intercepts: Arc<HashSet<String>>, residents: Arc<AtomicUsize>) -> Self {
        Self {
            generation,
            intercepts,
            residents,
            pulse: Arc::default(),
            work: Mutex::default(),
            queue: Mutex::default(),
            ready: Condvar::new(),
            ended: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the run queue panics")
    }

    /// Whether this generation's code wants the event for its `handle_out`.
    #[must_use]
    pub fn intercepts(&self, event: &ByteString) -> bool {
        !self.intercepts.is_empty() && self.intercepts.contains(&**event)
    }

    /// Adds a topic that has something to be handled.
    pub fn schedule(self: &Arc<Self>, topic: Arc<Topic>) {
        let mut queue = self.queue();
        queue.topics.push_back(topic);
        let asleep = queue.asleep;
        drop(queue);
        if asleep {
            wake::soon(self);
        }
    }

    /// Asks for something between batches.
    ///
    /// # Errors
    ///
    /// With what was asked, if the shard does nothing any more.
    pub fn control(&self, control: Control) -> Result<(), Control> {
        let mut queue = self.queue();
        if self.is_closed() {
            return Err(control);
        }
        queue.controls.push_back(control);
        drop(queue);
        self.wake();
        Ok(())
    }

    /// Ends the thread once nothing waits.
    pub fn stop(&self) {
        self.queue().stopping = true;
        self.wake();
    }

    /// Waits until the thread has ended, or is given up.
    pub(super) fn wait(&self) {
        let queue = self.queue();
        let over = self.ended.wait_while(queue, |queue| !queue.over);
        drop(over.expect("no holder of the run queue panics"));
    }

    /// The thread has ended.
    pub(super) fn end_thread(&self) {
        self.queue().over = true;
        self.ended.notify_all();
    }

    /// The shard does nothing any more. Returns what it was asked for.
    pub(super) fn close(&self) -> VecDeque<Control> {
        let mut queue = self.queue();
        self.closed.store(true, Ordering::Release);
        queue.over = true;
        queue.topics.clear();
        self.ended.notify_all();
        let controls = std::mem::take(&mut queue.controls);
        drop(queue);
        self.wake();
        controls
    }

    /// Whether it does nothing any more: it was given up, or could not be opened.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Notes what the plugin is about to be called for.
    pub(super) fn begin(&self, work: Work) {
        *self.work() = Some(work);
    }

    /// Takes it back.
    pub(super) fn end(&self) -> Option<Work> {
        self.work().take()
    }

    /// What is in hand.
    pub(super) fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().expect("no holder of the work panics")
    }

    /// Has the connect handler run. `false` if too many wait for that.
    #[must_use]
    pub fn connect(&self, call: ConnectCall) -> bool {
        let mut queue = self.queue();
        if queue.controls.len() >= MAX_CONTROLS || self.is_closed() {
            return false;
        }
        queue.controls.push_back(Control::Connect(Box::new(call)));
        drop(queue);
        self.wake();
        true
    }

    /// A topic has its home here now.
    pub fn enter(&self) {
        self.residents.fetch_add(1, Ordering::AcqRel);
    }

    /// A topic has its home here no longer.
    pub fn leave(&self) {
        self.residents.fetch_sub(1, Ordering::AcqRel);
    }

    fn next(&self) -> Next {
        let mut queue = self.queue();
        loop {
            let topics_first = std::mem::replace(&mut queue.topics_first, false) && !queue.topics.is_empty();
            if !topics_first && let Some(control) = queue.controls.pop_front() {
                queue.topics_first = true;
                return Next::Control(control);
            }
            if !queue.topics.is_empty() {
                let most = queue.topics.len().min(BATCH);
                return Next::Topics(queue.topics.drain(..most).collect());
            }
            if queue.stopping || self.is_closed() {
                return Next::Stop;
            }
            queue.asleep = true;
            queue = self.ready.wait(queue).expect("no holder of the run queue panics");
            queue.asleep = false;
        }
    }
}

impl Sleeper for ShardQueue {
    const IS_SHARD: bool = true;

    fn wake(&self) {
        if std::mem::take(&mut self.queue().asleep) {
            self.ready.notify_one();
        }
    }
}

/// Runs until told to stop, or until it is given up. Returns the instance for its owner to close.
pub fn run(queue: &Arc<ShardQueue>, mut instance: ShardInstance, env: &Env) -> ShardInstance {
    loop {
        match queue.next() {
            Next::Topics(topics) => {
                wake::together(PutOff::IoThreads, || run_topics(queue, topics, &mut instance, env));
            }
            Next::Control(Control::Connect(call)) => call.run(queue, &mut instance, env),
            Next::Control(Control::Give(moving)) => handover::give(queue, *moving, &mut instance, env),
            Next::Control(Control::Take(carried)) => handover::take(queue, *carried, &mut instance, env),
            Next::Control(Control::Forget(topic)) => handover::forget(queue, &topic, &mut instance, env),
            Next::Control(Control::Sample(sampling)) => sample::take(queue, &sampling, &mut instance),
            Next::Stop => return instance,
        }
    }
}

/// One batch of several topics, at most [`BATCH`] events; what does not fit goes back to the queue's front.
pub(super) fn run_topics(queue: &Arc<ShardQueue>, topics: Vec<Arc<Topic>>, instance: &mut ShardInstance, env: &Env) {
    let mut plan = Plan::default();
    let mut topics = topics.into_iter();
    for topic in topics.by_ref() {
        let room = BATCH.saturating_sub(plan.steps.len());
        if let Some(inputs) = topic.start(queue, room) {
            plan.add(topic, inputs, env);
        }
        if plan.steps.len() >= BATCH {
            break;
        }
    }
    let rest: Vec<_> = topics.collect();
    if !rest.is_empty() {
        let mut waiting = queue.queue();
        for topic in rest.into_iter().rev() {
            waiting.topics.push_front(topic);
        }
    }
    plan.run(queue, instance, env);
}
