//! The one way into an I/O thread.
//!
//! Shards and other threads send everything for a connection through here. The thread handles it in the order of sending, across
//! all senders. So a reply arrives before the push that followed it, and the old generation's messages before the new one's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::entry::Entry;
use crate::runtime::delivery::{Delivery, Outlet};
use crate::runtime::wake::{self, Sleeper};

/// The entries that wait for one I/O thread.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// How many bytes may wait. Beyond it, senders wait for the thread; the thread never waits for them.
    limit: usize,
    waker: mio::Waker,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    /// The sum of their weights.
    bytes: usize,
    /// The thread sleeps, or is about to.
    asleep: bool,
    /// The thread has ended: entries for it are dropped.
    closed: bool,
}

impl Inbox {
    /// An inbox for `limit` bytes, or one larger message. It wakes the poll of `waker`.
    #[must_use]
    pub(crate) fn new(waker: mio::Waker, limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            room: Condvar::new(),
            limit,
            waker,
        }
    }

    /// Adds an entry. Waits while the inbox is full. For shards and other threads that may wait.
    pub(crate) fn push(self: &Arc<Self>, entry: Entry) {
        let mut waiting = self.waiting();
        while waiting.bytes >= self.limit && !waiting.closed {
            drop(waiting);
            wake::now();
            waiting = self.waiting();
            if waiting.bytes >= self.limit && !waiting.closed {
                waiting = self.room.wait(waiting).expect("no holder of the inbox panics");
            }
        }
        self.add(waiting, entry);
    }

    /// Adds an entry without waiting. For I/O threads: they have at most a few requests per connection.
    pub(crate) fn push_now(self: &Arc<Self>, entry: Entry) {
        self.add(self.waiting(), entry);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the inbox panics")
    }

    fn add(self: &Arc<Self>, mut waiting: MutexGuard<'_, Waiting>, entry: Entry) {
        if waiting.closed {
            // Without the lock: whoever waits for an answer is woken by this.
            drop(waiting);
            return drop(entry);
        }
        waiting.bytes += entry.weight();
        waiting.entries.push(entry);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            wake::soon(self);
        }
    }

    /// Takes all entries. `into` is empty and leaves its memory here.
    pub(crate) fn take(&self, into: &mut Vec<Entry>) {
        let mut waiting = self.waiting();
        let was_full = std::mem::take(&mut waiting.bytes) >= self.limit;
        std::mem::swap(&mut waiting.entries, into);
        drop(waiting);
        if was_full {
            self.room.notify_all();
        }
    }
}

impl Inbox {
    /// The thread is about to sleep: the next sender has to wake it. `false` if an entry waits already.
    #[must_use]
    pub(crate) fn doze(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.asleep = waiting.entries.is_empty();
        waiting.asleep
    }

    /// The thread is awake.
    pub(crate) fn rise(&self) {
        self.waiting().asleep = false;
    }

    /// The thread has ended. What waits is dropped, and so is what still comes; nobody waits for room any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.bytes = 0;
        let entries = std::mem::take(&mut waiting.entries);
        drop(waiting);
        self.room.notify_all();
        drop(entries);
    }
}

impl Sleeper for Inbox {
    const IS_SHARD: bool = false;

    fn wake(&self) {
        if std::mem::take(&mut self.waiting().asleep)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot wake an I/O thread");
        }
    }
}

impl Outlet for Arc<Inbox> {
    fn deliver(&self, delivery: Delivery) {
        self.push(Entry::Deliver(delivery));
    }

    fn hurry(&self) {
        Sleeper::wake(&**self);
    }
}

#[cfg(test)]
mod tests {
    use bennu_wire::message::Payload;

    use super::*;
    use crate::runtime::delivery::Broadcast;

    fn broadcast(bytes: usize) -> Entry {
        Entry::Deliver(Delivery::Broadcast(Arc::new(Broadcast {
            topic: "room:1".into(),
            event: "news".into(),
            payload: Payload::Json(vec![b' '; bytes].into()),
            except: None,
            intercepted_by: Vec::new(),
            reach: None,
        })))
    }

    #[test]
    fn senders_wait_while_more_bytes_are_there_than_may_and_one_message_always_fits() {
        const LIMIT: usize = 10_000;
        const COUNT: usize = 100;
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let inbox = Arc::new(Inbox::new(waker, LIMIT));
        let sender = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || (0..COUNT).for_each(|_| inbox.push(broadcast(4_000))))
        };
        let (mut taken, mut entries) = (0, Vec::new());
        while taken < COUNT {
            // The sender goes on until it has to wait.
            while inbox.waiting().bytes < LIMIT && !sender.is_finished() {
                std::thread::yield_now();
            }
            inbox.take(&mut entries);
            assert!(entries.len() <= 3, "{} messages of 4,000 bytes at once", entries.len());
            taken += entries.drain(..).count();
        }
        sender.join().expect("no panic");
        inbox.push(broadcast(2 * LIMIT));
        inbox.take(&mut entries);
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_ended() {
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let inbox = Arc::new(Inbox::new(waker, 1_000));
        inbox.push(broadcast(4_000));
        let sender = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || inbox.push(broadcast(4_000)))
        };
        let (asked, mut answer) = tokio::sync::mpsc::unbounded_channel();
        inbox.push_now(Entry::Drain(1, asked.clone()));
        inbox.close();
        sender.join().expect("it does not wait");
        inbox.push_now(Entry::Drain(1, asked));
        assert!(answer.blocking_recv().is_none(), "nobody is left who could answer");
    }
}
