//! One topic of one plugin, and its mailbox.
//!
//! Other threads push inputs for the topic here. The mailbox puts the topic, once, on the run queue of its owner shard. During a
//! reload the mailbox is *held*: inputs stay in it, in order, until the new owner takes the topic over. So no input is lost,
//! doubled or reordered: there is one queue, and it never moves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bennu_plugin::abi::reason;
use bennu_wire::message::{self, Payload};
use bytestring::ByteString;

use super::charge::{Account, Charge, Totals};
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
    mailbox: Mutex<Mailbox>,
    record: Mutex<Record>,
    /// What the record keeps of its clients' messages, once it has kept some.
    account: OnceLock<Arc<Account>>,
    handled: AtomicU64,
}

/// What counts against the bounds of a mailbox, of inputs of one origin.
#[derive(Debug, Default)]
struct Load {
    /// Inputs in the queue.
    count: usize,
    /// Bytes of these, and of those that the owner is handling.
    bytes: usize,
    /// The latter alone.
    in_hand: usize,
}

/// What waits for a topic, and where it is handled.
#[derive(Debug)]
struct Mailbox {
    queue: VecDeque<Input>,
    clients: Load,
    plugins: Load,
    /// Of all topics of the plugin.
    totals: Arc<Totals>,
    state: State,
    owner: Owner,
}

/// The run queue of the shard that handles a topic.
pub(crate) type Owner = Arc<RunQueue>;

/// What happens with the mailbox at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: it is empty.
    Idle,
    /// The topic is on its owner's run queue.
    Scheduled,
    /// The owner is handling some of its inputs.
    Running,
    /// The topic moves to another owner; inputs wait.
    Held,
    /// The topic is gone from the directory; no more inputs come.
    Closed,
}

/// Why a mailbox did not take a client's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too much is waiting.
    Overloaded,
    /// The topic has ended.
    Closed,
}

impl Topic {
    /// An empty topic that `owner` handles. What waits for it also counts in the `totals` of its plugin, which bound it.
    #[must_use]
    pub(crate) fn new(name: ByteString, number: u64, totals: Arc<Totals>, owner: Owner) -> Self {
        let mailbox = Mailbox {
            queue: VecDeque::new(),
            clients: Load::default(),
            plugins: Load::default(),
            totals,
            state: State::Idle,
            owner,
        };
        Self {
            name,
            number,
            mailbox: Mutex::new(mailbox),
            record: Mutex::default(),
            account: OnceLock::new(),
            handled: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` that the record keeps of a client's message, until the charge is dropped.
    #[must_use]
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        let account = || Arc::new(Account::new(Arc::clone(&self.mailbox().totals)));
        self.account.get_or_init(account).charge(bytes)
    }

    /// Counts an event that the plugin has handled and that may have changed its state.
    pub(crate) fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// How many events the plugin has handled, in all its generations.
    #[must_use]
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// So many had been handled before it was stored.
    pub(crate) fn set_handled(&self, handled: u64) {
        self.handled.store(handled, Ordering::Relaxed);
    }

    /// Ends the topic for good, and its members with it.
    pub(crate) fn forget(self: &Arc<Self>) {
        self.record().forgotten = true;
        self.owe(Input::EndAll {
            reason: reason::NORMAL,
            notice: Notice::Close(None),
        });
    }

    /// Whether its owner handles some of its inputs, or waits until what they have changed is stored.
    #[must_use]
    pub(crate) fn is_running(&self) -> bool {
        self.mailbox().state == State::Running
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("no holder of the mailbox panics")
    }

    /// The host's record of the topic. The lock is held for moments only, never across a call into the plugin.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no holder of the record panics")
    }

    /// Adds one input and schedules the topic.
    ///
    /// # Errors
    ///
    /// If too much of its origin is waiting, or if the topic is closed.
    pub(crate) fn push(self: &Arc<Self>, input: Input) -> Result<(), Refused> {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return Err(Refused::Closed);
        }
        let origin = input.origin();
        if !self.has_room(&mailbox, origin) {
            return Err(Refused::Overloaded);
        }
        mailbox.add(input, origin);
        self.schedule(mailbox);
        Ok(())
    }

    /// Adds an input that the host itself owes the topic. It is never refused; a closed topic drops it.
    pub(crate) fn owe(self: &Arc<Self>, input: Input) {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return;
        }
        let origin = input.origin();
        mailbox.add(input, origin);
        self.schedule(mailbox);
    }

    /// Hands a broadcast to the plugin if the code that serves the topic at this moment intercepts it. If the plugin is too far
    /// behind to take it, the topic ends, because its members would miss the broadcast without knowing.
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
        let origin = input.origin();
        if self.has_room(&mailbox, origin) {
            mailbox.add(input, origin);
        } else if !matches!(mailbox.queue.back(), Some(Input::EndAll { .. })) {
            let input = Input::EndAll {
                reason: reason::OVERLOADED,
                notice: Notice::Error(message::reason::OVERLOADED),
            };
            mailbox.add(input, Origin::Host);
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

    fn has_room(&self, mailbox: &Mailbox, origin: Origin) -> bool {
        let totals = &mailbox.totals;
        let bounds = totals.bounds();
        let (bytes, load, kept, total, most, most_bytes) = match origin {
            Origin::Client(bytes) => {
                let kept = self.account.get().map_or(0, |account| account.bytes());
                let most = (bounds.events, bounds.bytes);
                (bytes, &mailbox.clients, kept, &totals.clients, most.0, most.1)
            }
            Origin::Plugin(bytes) => {
                let most = (bounds.messages, bounds.message_bytes);
                (bytes, &mailbox.plugins, 0, &totals.plugins, most.0, most.1)
            }
            Origin::Host => return true,
        };
        let total = total.load(Ordering::Relaxed);
        // One may always wait for a topic, however large, or the topic could never handle it.
        let fits = load.count == 0 || load.bytes + kept + bytes <= most_bytes;
        // Likewise one for all topics together. And a topic for which nothing waits is not locked out by others.
        let fits_total = total == 0 || total + bytes <= bounds.total_bytes;
        let has_share = load.bytes == 0 && bytes <= bounds.share_bytes;
        load.count < most && fits && (fits_total || has_share)
    }

    /// The owner starts to handle the topic: it takes up to `most` inputs. `None` if the topic is held or has moved since it was
    /// scheduled.
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
        taken.iter().for_each(|input| mailbox.take(input));
        Some(taken)
    }

    /// The owner has handled the inputs that it took, except for `rest`, which goes back to the front.
    pub(crate) fn finish(self: &Arc<Self>, rest: impl DoubleEndedIterator<Item = Input>) {
        let mut mailbox = self.mailbox();
        mailbox.settle();
        for input in rest.rev() {
            mailbox.add_first(input);
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

    /// Ends a hold: from now on `owner` handles the topic. The inputs in `first` go before those that have waited. Returns how
    /// many have waited.
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
            mailbox.add_first(input);
        }
        if !mailbox.queue.is_empty() {
            self.schedule(mailbox);
        }
        waited
    }

    /// Closes the topic for good if `owner`, which will never run again, handles it. Returns the inputs that have waited. A topic
    /// that is held stays, because it is on its way to another owner, unless `held` says that it never left. Called under the
    /// directory's lock, as [`Topic::close`] is.
    pub(crate) fn abandon(&self, owner: &Owner, held: bool) -> Option<VecDeque<Input>> {
        let mut mailbox = self.mailbox();
        let stays = mailbox.state == State::Closed || (mailbox.state == State::Held && !held);
        if stays || !Arc::ptr_eq(&mailbox.owner, owner) {
            return None;
        }
        mailbox.state = State::Closed;
        mailbox.owner.leave();
        let waited = std::mem::take(&mut mailbox.queue);
        waited.iter().for_each(|input| mailbox.take(input));
        mailbox.settle();
        Some(waited)
    }

    /// Another node is the topic's home now. All members end before the topic handles anything else. Returns what clients, backends
    /// and plugins had sent and the topic does not handle any more.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    pub(crate) fn supersede(self: &Arc<Self>, notice: Notice) -> Vec<Input> {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return Vec::new();
        }
        let all = std::mem::take(&mut mailbox.queue);
        let (mut owed, mut dropped) = (VecDeque::new(), Vec::new());
        for input in all {
            match input.origin() {
                Origin::Host => owed.push_back(input),
                _ => dropped.push(input),
            }
        }
        dropped.iter().for_each(|input| mailbox.take(input));
        if mailbox.state != State::Running {
            mailbox.settle();
        }
        mailbox.queue = owed;
        mailbox.add_first(Input::EndAll {
            reason: reason::SHUTDOWN,
            notice,
        });
        self.schedule(mailbox);
        dropped
    }

    /// The run queue of the shard that handles it now.
    #[must_use]
    pub(crate) fn owner(&self) -> Owner {
        Arc::clone(&self.mailbox().owner)
    }

    /// Closes the topic for good, unless an input is waiting. Called under the directory's lock, so that no thread can find the
    /// topic between this check and its removal.
    pub(crate) fn close(&self) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.state == State::Closed {
            return true;
        }
        // They are about its life until now.
        mailbox.queue.retain(|input| !input.is_reminder());
        if !mailbox.queue.is_empty() {
            return false;
        }
        mailbox.state = State::Closed;
        mailbox.owner.leave();
        true
    }
}

impl Mailbox {
    fn add(&mut self, input: Input, origin: Origin) {
        self.count(origin);
        self.queue.push_back(input);
    }

    fn add_first(&mut self, input: Input) {
        self.count(input.origin());
        self.queue.push_front(input);
    }

    fn count(&mut self, origin: Origin) {
        match origin {
            Origin::Client(bytes) => self.clients.add(bytes, &self.totals.clients),
            Origin::Plugin(bytes) => self.plugins.add(bytes, &self.totals.plugins),
            Origin::Host => {}
        }
    }

    /// The owner takes an input out of the queue. Its bytes count until the owner has [settled](Self::settle).
    fn take(&mut self, input: &Input) {
        match input.origin() {
            Origin::Client(bytes) => self.clients.take(bytes),
            Origin::Plugin(bytes) => self.plugins.take(bytes),
            Origin::Host => {}
        }
    }

    /// The owner has no input in hand any more.
    fn settle(&mut self) {
        self.clients.settle(&self.totals.clients);
        self.plugins.settle(&self.totals.plugins);
    }
}

impl Load {
    fn add(&mut self, bytes: usize, total: &AtomicUsize) {
        self.count += 1;
        self.bytes += bytes;
        total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&mut self, bytes: usize) {
        self.count -= 1;
        self.in_hand += bytes;
    }

    fn settle(&mut self, total: &AtomicUsize) {
        let handled = std::mem::take(&mut self.in_hand);
        if handled > 0 {
            self.bytes -= handled;
            total.fetch_sub(handled, Ordering::Relaxed);
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.totals.clients.fetch_sub(self.clients.bytes, Ordering::Relaxed);
        self.totals.plugins.fetch_sub(self.plugins.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "topic_tests.rs"]
mod tests;
