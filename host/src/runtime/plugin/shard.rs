//! A shard: one thread of one generation, the only place where its plugin code runs.
//!
//! It takes topics from its run queue and hands their events to the plugin in batches. Between batches it does what the host asks
//! for: it runs connect handlers, and moves topics from one generation to the next.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::batch::Plan;
use super::connect::ConnectCall;
use super::durable::{self, Stored, Woken};
use super::env::Env;
use super::handover::{self, Carried, Move};
#[cfg(feature = "cluster")]
use super::handover::{Arriving, Departing};
use super::loader::ShardInstance;
use super::sample::{self, Sampling};
use super::watchdog::Pulse;
use crate::runtime::channel::{Next, RunQueue, Topic};
use crate::runtime::wake::{self, PutOff};

/// Events in one call of the plugin: enough to spread the cost of the hop between threads, few enough to be fair.
pub(super) const BATCH: usize = 64;

/// Handshakes that may wait for one shard. Beyond that: HTTP 503.
const MAX_CONTROLS: usize = 1024;

/// One shard, as other threads see it.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Topics with inputs to handle.
    pub(crate) queue: Arc<RunQueue>,
    /// Whether the plugin's code is running.
    pub(super) pulse: Arc<Pulse>,
    work: Mutex<Option<Work>>,
    controls: Mutex<VecDeque<Control>>,
    /// Moves of topics that wait until their state is stored.
    put_off: Mutex<Vec<Move>>,
    /// The thread has ended, or was abandoned.
    over: Mutex<bool>,
    ended: Condvar,
}

/// What a shard works on while the plugin's code runs. The thread takes it back when the plugin returns; if the shard was given
/// up meanwhile, another thread has taken it.
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
    /// A topic is written for the probe, or for the store.
    Sample(Arc<Topic>),
    /// A stored topic is read.
    Wake(Arc<Topic>),
    /// A topic is written for another node.
    #[cfg(feature = "cluster")]
    Depart(Departing),
    /// A topic of another node is read.
    #[cfg(feature = "cluster")]
    Arrive(Arriving),
    /// The plugin drops its copy of a topic that has moved.
    Forget,
    /// The plugin makes what it needs for the shard, or drops it, or drops its own value.
    Life(&'static str),
}

/// What the host asks of a shard, between batches.
#[derive(Debug)]
pub(crate) enum Control {
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
    /// The state of topics is stored, or cannot be: they go on.
    Stored(Box<Stored>),
    /// Read a stored topic.
    Wake(Box<Woken>),
    /// Write a topic for another node.
    #[cfg(feature = "cluster")]
    Depart(Box<Departing>),
    /// Read a topic of another node.
    #[cfg(feature = "cluster")]
    Arrive(Box<Arriving>),
}

impl Shard {
    /// A shard of this generation, whose code intercepts these events. `residents` counts the topics that it owns.
    #[must_use]
    pub(crate) fn new(generation: u64, intercepts: Arc<HashSet<String>>, residents: Arc<AtomicUsize>) -> Self {
        Self {
            queue: Arc::new(RunQueue::new(generation, intercepts, residents)),
            pulse: Arc::default(),
            work: Mutex::default(),
            controls: Mutex::default(),
            put_off: Mutex::default(),
            over: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// The number of its generation.
    #[must_use]
    pub(crate) fn generation(&self) -> u64 {
        self.queue.generation
    }

    /// Whether it handles this topic now.
    #[must_use]
    pub(crate) fn owns(&self, topic: &Topic) -> bool {
        Arc::ptr_eq(&topic.owner(), &self.queue)
    }

    /// Asks for something between batches.
    ///
    /// # Errors
    ///
    /// Returns `control` if the shard is closed.
    pub(crate) fn control(&self, control: Control) -> Result<(), Control> {
        let mut controls = self.controls();
        if self.is_closed() {
            return Err(control);
        }
        controls.push_back(control);
        drop(controls);
        self.queue.call();
        Ok(())
    }

    /// Has the connect handler run. `false` if too many wait for that.
    #[must_use]
    pub(crate) fn connect(&self, call: ConnectCall) -> bool {
        let mut controls = self.controls();
        if controls.len() >= MAX_CONTROLS || self.is_closed() {
            return false;
        }
        controls.push_back(Control::Connect(Box::new(call)));
        drop(controls);
        self.queue.call();
        true
    }

    /// Ends the thread once nothing waits.
    pub(crate) fn stop(&self) {
        self.queue.stop();
    }

    /// Waits until the thread has ended, or is abandoned.
    pub(super) fn wait(&self) {
        let over = self.ended.wait_while(self.over(), |over| !*over);
        drop(over.expect("no holder of the end panics"));
    }

    /// The thread has ended.
    pub(super) fn end_thread(&self) {
        *self.over() = true;
        self.ended.notify_all();
    }

    /// Closes the shard: it does nothing any more. Returns what it had still to do.
    pub(super) fn close(&self) -> VecDeque<Control> {
        let mut controls = self.controls();
        self.queue.close();
        let mut controls = std::mem::take(&mut *controls);
        controls.extend(
            self.take_put_off()
                .into_iter()
                .map(|moving| Control::Give(Box::new(moving))),
        );
        self.end_thread();
        controls
    }

    /// Moves this topic once its state is stored.
    pub(super) fn put_off(&self, moving: Move) {
        self.put_off.lock().expect("no holder panics").push(moving);
    }

    fn take_put_off(&self) -> Vec<Move> {
        std::mem::take(&mut *self.put_off.lock().expect("no holder panics"))
    }

    /// Tries again what was put off.
    fn give_put_off(&self) {
        for moving in self.take_put_off() {
            if let Err(Control::Give(moving)) = self.control(Control::Give(Box::new(moving))) {
                self.put_off(*moving);
            }
        }
    }

    /// Whether it is closed: it was abandoned, or could not be opened.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Notes what the thread is about to call the plugin for.
    pub(super) fn begin(&self, work: Work) {
        *self.work() = Some(work);
    }

    /// Takes it back.
    pub(super) fn end(&self) -> Option<Work> {
        self.work().take()
    }

    /// What the thread works on.
    pub(super) fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().expect("no holder of the work panics")
    }

    fn controls(&self) -> MutexGuard<'_, VecDeque<Control>> {
        self.controls.lock().expect("no holder of the controls panics")
    }

    fn over(&self) -> MutexGuard<'_, bool> {
        self.over.lock().expect("no holder of the end panics")
    }

    fn carry_out(self: &Arc<Self>, control: Control, instance: &mut ShardInstance, env: &Env) {
        match control {
            Control::Connect(call) => call.run(self, instance, env),
            Control::Give(moving) => handover::give(self, *moving, instance, env),
            Control::Take(carried) => handover::take(self, *carried, instance, env),
            Control::Forget(topic) => handover::forget(self, &topic, instance, env),
            Control::Sample(sampling) => sample::take(self, &sampling, instance),
            Control::Stored(stored) => {
                stored.go_on(env);
                self.give_put_off();
            }
            Control::Wake(woken) => durable::wake(self, *woken, instance, env),
            #[cfg(feature = "cluster")]
            Control::Depart(departing) => departing.write(self, instance, env),
            #[cfg(feature = "cluster")]
            Control::Arrive(arriving) => arriving.read(self, instance, env),
        }
    }

    /// One batch of several topics, at most [`BATCH`] events; what does not fit goes back to the queue's front.
    pub(super) fn run_topics(self: &Arc<Self>, topics: Vec<Arc<Topic>>, instance: &mut ShardInstance, env: &Env) {
        let mut plan = Plan::default();
        let mut topics = topics.into_iter();
        for topic in topics.by_ref() {
            let room = BATCH.saturating_sub(plan.steps.len());
            if let Some(inputs) = topic.start(&self.queue, room) {
                plan.add(topic, inputs, env);
            }
            if plan.steps.len() >= BATCH {
                break;
            }
        }
        self.queue.put_back(topics);
        plan.run(self, instance, env);
    }
}

/// Runs until told to stop, or until it is abandoned. Returns the instance for its owner to close.
pub(crate) fn run(shard: &Arc<Shard>, mut instance: ShardInstance, env: &Env) -> ShardInstance {
    loop {
        match shard.queue.next(BATCH) {
            Next::Topics(topics) => {
                if let Some(homes) = env.hub.homes() {
                    homes.settle();
                }
                wake::together(PutOff::IoThreads, || shard.run_topics(topics, &mut instance, env));
            }
            Next::Call => {
                let control = shard.controls().pop_front();
                // If the shard was closed meanwhile, there is none left.
                if let Some(control) = control {
                    shard.carry_out(control, &mut instance, env);
                }
            }
            Next::Stop => return instance,
        }
    }
}
