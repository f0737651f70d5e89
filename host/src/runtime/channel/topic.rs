//! One topic of one plugin, and its mailbox.
//!
//! Whoever has something for a topic pushes it here; the mailbox then puts the topic, once, on the run queue of the
//! shard that owns it. During a reload the mailbox is *held*: inputs stay in it, in order, until the new owner takes
//! them up. That is all there is to losing, doubling or reordering nothing: there is one queue, and it never moves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bennu_plugin::abi::reason;
use bennu_wire::message::{self, Payload};
use bytestring::ByteString;

use super::run_queue::RunQueue;
use super::{Input, Notice, Origin, Record};
use crate::runtime::id::MemberId;

/// One topic of one plugin.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Its name.
    pub(crate) name: ByteString,
    /// Its number in the ABI: the same in all generations.
    pub(crate) number: u64,
    bounds: Bounds,
    mailbox: Mutex<Mailbox>,
    record: Mutex<Record>,
    handled: AtomicU64,
}

/// How much may wait for one topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Events and joins of clients.
    pub(crate) events: usize,
    /// Their payloads, in bytes.
    pub(crate) bytes: usize,
    /// The same for all topics of the plugin together.
    pub(crate) total_bytes: usize,
    /// Messages of plugins: intercepted broadcasts, messages to itself, kept promises.
    pub(crate) messages: usize,
}

/// What waits for one topic, and counts against its bounds.
#[derive(Debug)]
struct Load {
    events: usize,
    bytes: usize,
    messages: usize,
    /// Bytes of all topics of the plugin.
    total_bytes: Arc<AtomicUsize>,
}

/// What waits for a topic, and where it is handled.
#[derive(Debug)]
struct Mailbox {
    queue: VecDeque<Input>,
    /// What in `queue` counts against the bounds.
    load: Load,
    state: State,
    owner: Owner,
}

/// The run queue of the shard that handles a topic.
pub(crate) type Owner = Arc<RunQueue>;

/// Who is busy with the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody: it is empty.
    Idle,
    /// The topic stands on its owner's run queue.
    Scheduled,
    /// Its owner is handling some of it.
    Running,
    /// It moves to another owner; what comes waits.
    Held,
    /// It is gone from the directory; nothing comes any more.
    Closed,
}

/// Why a mailbox did not take a client's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait already.
    Overloaded,
    /// The topic is no more.
    Closed,
}

impl Topic {
    /// An empty topic whose events `owner` handles. What waits for it counts in `total_bytes`, too.
    #[must_use]
    pub(crate) fn new(
        name: ByteString,
        number: u64,
        bounds: Bounds,
        total_bytes: Arc<AtomicUsize>,
        owner: Owner,
    ) -> Self {
        let load = Load {
            events: 0,
            bytes: 0,
            messages: 0,
            total_bytes,
        };
        let mailbox = Mailbox {
            queue: VecDeque::new(),
            load,
            state: State::Idle,
            owner,
        };
        Self {
            name,
            number,
            bounds,
            mailbox: Mutex::new(mailbox),
            record: Mutex::default(),
            handled: AtomicU64::new(0),
        }
    }

    /// Counts an event that the plugin has handled, of those that may change its state.
    pub(crate) fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// How many events the plugin has handled, in all its generations.
    #[must_use]
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("no holder of the mailbox panics")
    }

    /// The host's records of the topic. Held for moments only, never across a call into the plugin.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no holder of the record panics")
    }

    /// Adds one input and sees to it that the topic runs.
    ///
    /// # Errors
    ///
    /// If too much of its kind waits already, or if the topic is closed.
    pub(crate) fn push(self: &Arc<Self>, input: Input) -> Result<(), Refused> {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return Err(Refused::Closed);
        }
        if !mailbox.has_room(&input, &self.bounds) {
            return Err(Refused::Overloaded);
        }
        mailbox.add(input);
        self.schedule(mailbox);
        Ok(())
    }

    /// Adds an input that the host itself owes the topic: it is never refused. A closed topic is owed nothing.
    pub(crate) fn owe(self: &Arc<Self>, input: Input) {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return;
        }
        mailbox.add(input);
        self.schedule(mailbox);
    }

    /// Hands a broadcast to the plugin if the code that serves the topic at this moment intercepts it. A topic whose
    /// plugin is too far behind to take it ends: its members would miss it without knowing.
    pub(crate) fn intercept(self: &Arc<Self>, event: &ByteString, payload: &Payload, except: Option<MemberId>) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed || !mailbox.owner.intercepts(event) {
            return false;
        }
        let input = Input::Out {
            event: event.clone(),
            payload: payload.clone(),
            except,
        };
        if mailbox.has_room(&input, &self.bounds) {
            mailbox.add(input);
        } else if !matches!(mailbox.queue.back(), Some(Input::EndAll { .. })) {
            mailbox.add(Input::EndAll {
                reason: reason::OVERLOADED,
                notice: Notice::Error(message::reason::OVERLOADED),
            });
        }
        self.schedule(mailbox);
        true
    }

    fn schedule(self: &Arc<Self>, mut mailbox: MutexGuard<'_, Mailbox>) {
        if mailbox.state != State::Idle {
            return;
        }
        mailbox.state = State::Scheduled;
        let owner = Arc::clone(&mailbox.owner);
        drop(mailbox);
        owner.schedule(Arc::clone(self));
    }

    /// Its owner starts to handle it: takes up to `most` inputs. `None` if it is held or has moved since it was scheduled.
    pub(crate) fn start(&self, owner: &Owner, most: usize) -> Option<VecDeque<Input>> {
        let mut mailbox = self.mailbox();
        if mailbox.state != State::Scheduled || !Arc::ptr_eq(&mailbox.owner, owner) {
            return None;
        }
        mailbox.state = State::Running;
        let taken: VecDeque<Input> = if mailbox.queue.len() <= most {
            std::mem::take(&mut mailbox.queue)
        } else {
            mailbox.queue.drain(..most).collect()
        };
        taken.iter().for_each(|input| mailbox.load.subtract(input));
        Some(taken)
    }

    /// Its owner has handled what it took, but for `rest`, which goes back to the front.
    pub(crate) fn finish(self: &Arc<Self>, rest: impl DoubleEndedIterator<Item = Input>) {
        let mut mailbox = self.mailbox();
        for input in rest.rev() {
            mailbox.load.add(&input);
            mailbox.queue.push_front(input);
        }
        if mailbox.state != State::Running {
            return;
        }
        mailbox.state = State::Idle;
        if !mailbox.queue.is_empty() {
            self.schedule(mailbox);
        }
    }

    /// Holds the mailbox for a move away from `owner`. `false` if it is elsewhere, or closed.
    pub(crate) fn hold(&self, owner: &Owner) -> bool {
        let mut mailbox = self.mailbox();
        if !Arc::ptr_eq(&mailbox.owner, owner) || matches!(mailbox.state, State::Held | State::Closed | State::Running)
        {
            return false;
        }
        mailbox.state = State::Held;
        true
    }

    /// Ends a hold: from now on `owner` handles the topic. What is `first` goes before what has waited. Returns how much
    /// has.
    pub(crate) fn release(self: &Arc<Self>, owner: &Owner, first: Vec<Input>) -> usize {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return 0;
        }
        let waited = mailbox.queue.len();
        mailbox.owner.leave();
        owner.enter();
        mailbox.owner = Arc::clone(owner);
        mailbox.state = State::Idle;
        for input in first.into_iter().rev() {
            mailbox.load.add(&input);
            mailbox.queue.push_front(input);
        }
        if !mailbox.queue.is_empty() {
            self.schedule(mailbox);
        }
        waited
    }

    /// Closes the topic for good if `owner`, which will never run again, handles it. Returns what has waited. One that is
    /// held stays: it is on its way to another owner, unless `held` says that it never left. Called under the directory's
    /// lock, as [`Topic::close`].
    pub(crate) fn abandon(&self, owner: &Owner, held: bool) -> Option<VecDeque<Input>> {
        let mut mailbox = self.mailbox();
        let stays = mailbox.state == State::Closed || (mailbox.state == State::Held && !held);
        if stays || !Arc::ptr_eq(&mailbox.owner, owner) {
            return None;
        }
        mailbox.state = State::Closed;
        mailbox.owner.leave();
        let waited = std::mem::take(&mut mailbox.queue);
        waited.iter().for_each(|input| mailbox.load.subtract(input));
        Some(waited)
    }

    /// The shard that handles it now.
    #[must_use]
    pub(crate) fn owner(&self) -> Owner {
        Arc::clone(&self.mailbox().owner)
    }

    /// Closes the topic for good, unless something has come in for it. Called under the directory's lock, so that
    /// nobody can find it between the look and the removal.
    pub(crate) fn close(&self) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return true;
        }
        if !mailbox.queue.is_empty() {
            return false;
        }
        mailbox.state = State::Closed;
        mailbox.owner.leave();
        true
    }
}

impl Mailbox {
    fn has_room(&self, input: &Input, bounds: &Bounds) -> bool {
        match input.origin() {
            // One event may always wait, however large, or it could never be handled.
            Origin::Client(bytes) => {
                let has_room = || {
                    self.load.bytes + bytes <= bounds.bytes
                        && self.load.total_bytes.load(Ordering::Relaxed) + bytes <= bounds.total_bytes
                };
                self.load.events < bounds.events && (self.load.bytes == 0 || has_room())
            }
            Origin::Plugin => self.load.messages < bounds.messages,
            Origin::Host => true,
        }
    }

    fn add(&mut self, input: Input) {
        self.load.add(&input);
        self.queue.push_back(input);
    }
}

impl Load {
    fn add(&mut self, input: &Input) {
        match input.origin() {
            Origin::Client(bytes) => {
                self.events += 1;
                self.bytes += bytes;
                self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Origin::Plugin => self.messages += 1,
            Origin::Host => {}
        }
    }

    fn subtract(&mut self, input: &Input) {
        match input.origin() {
            Origin::Client(bytes) => {
                self.events -= 1;
                self.bytes -= bytes;
                self.total_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            Origin::Plugin => self.messages -= 1,
            Origin::Host => {}
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.total_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
