//! What shards, the API and other threads have for other nodes, until the cluster's thread takes it.
//!
//! For a shard, all other nodes together are one more [`Outlet`]. It is bounded: who sends more waits, as at the inbox of an I/O
//! thread. The cluster's own thread never waits here, as nobody else would make room.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bennu_wire::message::Payload;
use bytestring::ByteString;
use tokio::sync::Notify;

use crate::runtime::channel::{Caller, Create};
use crate::runtime::delivery::{Delivery, Outlet};
use crate::runtime::reach::Reach;
use crate::runtime::wake::{self, Sleeper};

/// What is to be sent to other nodes.
#[derive(Debug)]
pub(super) enum Out {
    /// Something that a topic here has for members of other nodes.
    Deliver(Delivery),
    /// A topic that lives elsewhere shall publish.
    Publish {
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        reach: Option<Reach>,
    },
    /// A message for a topic that lives elsewhere.
    Info {
        topic: ByteString,
        name: ByteString,
        payload: Payload,
    },
    /// A question for a topic that lives elsewhere.
    Call {
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        create: Create,
        caller: Caller,
    },
    /// Nobody with this socket id may connect for a while.
    Refuse { socket_id: ByteString, wait: Duration },
}

/// The queue to the cluster's thread.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// How many bytes may wait here and in links.
    limit: usize,
    /// Wakes the thread.
    notify: Arc<Notify>,
    /// The thread that takes from here.
    thread: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct Waiting {
    out: Vec<Out>,
    /// Bytes of these.
    bytes: usize,
    /// Bytes that wait in links.
    in_links: usize,
    asleep: bool,
    closed: bool,
}

impl Outbox {
    /// An empty one, whose thread is woken by `notify`.
    #[must_use]
    pub(super) fn new(limit: usize, notify: Arc<Notify>) -> Self {
        Self {
            waiting: Mutex::default(),
            room: Condvar::new(),
            limit,
            notify,
            thread: OnceLock::new(),
        }
    }

    /// The calling thread takes from here, from now on.
    pub(super) fn belongs_here(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the outbox panics")
    }

    /// Adds something. Waits while too much waits already.
    pub(super) fn push(self: &Arc<Self>, out: Out) {
        let mut waiting = self.waiting();
        let is_full = |waiting: &Waiting| waiting.bytes + waiting.in_links >= self.limit && !waiting.closed;
        while is_full(&waiting) && self.thread.get() != Some(&thread::current().id()) {
            drop(waiting);
            wake::now();
            waiting = self.waiting();
            if is_full(&waiting) {
                waiting = self.room.wait(waiting).expect("no holder of the outbox panics");
            }
        }
        if waiting.closed {
            // Without the lock: whoever waits for an answer is woken by this.
            drop(waiting);
            return drop(out);
        }
        waiting.bytes += out.bytes();
        waiting.out.push(out);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            wake::soon(self);
        }
    }

    /// Takes everything. If there is nothing, the thread is woken by what comes next.
    pub(super) fn take(&self) -> Vec<Out> {
        let mut waiting = self.waiting();
        let was_full = waiting.bytes + waiting.in_links >= self.limit;
        waiting.bytes = 0;
        let out = std::mem::take(&mut waiting.out);
        waiting.asleep = out.is_empty();
        drop(waiting);
        if was_full {
            self.room.notify_all();
        }
        out
    }

    /// So many bytes wait in links now.
    pub(super) fn set_in_links(&self, bytes: usize) {
        let mut waiting = self.waiting();
        let was_full = waiting.bytes + waiting.in_links >= self.limit;
        waiting.in_links = bytes;
        drop(waiting);
        if was_full {
            self.room.notify_all();
        }
    }

    /// The thread has ended: what waits is dropped, and so is what still comes.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let out = std::mem::take(&mut waiting.out);
        drop(waiting);
        self.room.notify_all();
        drop(out);
    }
}

impl Out {
    fn bytes(&self) -> usize {
        let message = match self {
            Self::Deliver(delivery) => delivery.message_bytes(),
            Self::Publish {
                topic, event, payload, ..
            }
            | Self::Call {
                topic, event, payload, ..
            } => topic.len() + event.len() + payload.bytes().len(),
            Self::Info { topic, name, payload } => topic.len() + name.len() + payload.bytes().len(),
            Self::Refuse { socket_id, .. } => socket_id.len(),
        };
        size_of::<Self>() + message
    }
}

impl Sleeper for Outbox {
    const IS_SHARD: bool = false;

    fn wake(&self) {
        if std::mem::take(&mut self.waiting().asleep) {
            self.notify.notify_one();
        }
    }
}

impl Outlet for Arc<Outbox> {
    fn deliver(&self, delivery: Delivery) {
        self.push(Out::Deliver(delivery));
    }

    fn hurry(&self) {
        Sleeper::wake(&**self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse() -> Out {
        Out::Refuse {
            socket_id: "a".into(),
            wait: Duration::ZERO,
        }
    }

    #[test]
    fn senders_wait_for_room_here_and_in_links_and_the_thread_itself_never_does() {
        let outbox = Arc::new(Outbox::new(1_000, Arc::default()));
        outbox.belongs_here();
        outbox.set_in_links(5_000);
        outbox.push(refuse());
        let sender = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || outbox.push(refuse()))
        };
        assert_eq!(outbox.take().len(), 1);
        assert!(!sender.is_finished(), "the links are full");
        outbox.set_in_links(0);
        sender.join().expect("it has room");
        assert_eq!(outbox.take().len(), 1);
        outbox.set_in_links(5_000);
        let sender = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || outbox.push(refuse()))
        };
        outbox.close();
        sender.join().expect("nobody waits for a thread that has ended");
        assert!(outbox.take().is_empty());
    }
}
