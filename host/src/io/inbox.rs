//! The one way into an I/O thread.
//!
//! Whatever shards and other threads have for a connection goes through here, and is done in the order in which it was
//! sent, whoever sent it. That is what keeps a reply before the push that followed it, and the old generation's messages
//! before the new one's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytestring::ByteString;

use crate::channel::Notice;
use crate::endpoint::Routing;
use crate::id::MemberId;
use crate::message::{Payload, Ref};
use crate::pubsub::Broadcast;
use crate::socket::NewSocket;
use crate::transport::Newcomer;
use crate::transport::longpoll::{PollRequest, PublishRequest, SessionOpened};
use crate::wake::{self, Sleeper};

/// Something for an I/O thread to do.
#[derive(Debug)]
pub enum Entry {
    /// A join is accepted: subscribe, then reply.
    Joined {
        /// Whose.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// A join is refused.
    Refused {
        /// Whose.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// Answers a message.
    Reply {
        /// Whose.
        member: MemberId,
        /// What it repeats.
        msg_ref: Ref,
        /// `ok`, `error`, or what the plugin likes.
        status: ByteString,
        /// The response.
        payload: Payload,
    },
    /// Answers a message whose channel is gone.
    Orphan {
        /// Whose it was.
        member: MemberId,
        /// Of the channel.
        topic: ByteString,
        /// As a leave had it.
        join_ref: Ref,
        /// What it repeats.
        msg_ref: Ref,
        /// `error` for an event: unmatched topic. `ok` for a leave.
        status: &'static str,
    },
    /// To one client.
    Push {
        /// Whose.
        member: MemberId,
        /// The event.
        event: ByteString,
        /// What it says.
        payload: Payload,
    },
    /// To all subscribers of a topic.
    Broadcast(Arc<Broadcast>),
    /// A channel has ended: tell its client, and let nothing more in.
    Ended {
        /// Whose.
        member: MemberId,
        /// `phx_close` or `phx_error`.
        notice: Notice,
    },
    /// Nothing more comes from it.
    Gone {
        /// Who.
        member: MemberId,
    },
    /// A new connection, and where it comes from.
    Accept(std::net::TcpStream, std::net::SocketAddr),
    /// A client that may connect: a new WebSocket, or whatever else carries its messages.
    Adopt(Box<dyn Newcomer>, NewSocket),
    /// The transport in this slot may have more to receive, or room to send.
    Ready(usize),
    /// A new long-poll session.
    OpenSession(NewSocket, tokio::sync::oneshot::Sender<SessionOpened>),
    /// A poll of one.
    Poll(PollRequest),
    /// Messages for one.
    Publish(PublishRequest),
    /// Other routes. Says when they are taken up.
    Routing(Arc<Routing>, std::sync::mpsc::Sender<()>),
    /// Close that many connections, for a shutdown. Says how many are left.
    Drain(usize, tokio::sync::mpsc::UnboundedSender<usize>),
    /// End the thread.
    Stop,
}

impl Entry {
    /// What it takes of the inbox, in bytes: its own, and those of the message that it brings.
    fn weight(&self) -> usize {
        let message = match self {
            Self::Joined { reply, .. } | Self::Refused { reply, .. } => reply.bytes().len(),
            Self::Reply { payload, .. } | Self::Push { payload, .. } => payload.bytes().len(),
            Self::Broadcast(broadcast) => broadcast.payload.bytes().len(),
            _ => 0,
        };
        size_of::<Self>() + message
    }
}

/// What waits for one I/O thread.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// Bytes that may wait. Beyond, senders wait for the thread: it never waits for them.
    limit: usize,
    waker: mio::Waker,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    /// What they weigh.
    bytes: usize,
    /// The thread sleeps, or is about to.
    asleep: bool,
}

impl Inbox {
    /// An inbox for `limit` bytes, or one message that is larger, that wakes the poll which `waker` belongs to.
    #[must_use]
    pub fn new(waker: mio::Waker, limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            room: Condvar::new(),
            limit,
            waker,
        }
    }

    /// Adds an entry. Waits while the inbox is full: for shards and other threads that may wait.
    pub fn push(self: &Arc<Self>, entry: Entry) {
        let mut waiting = self.waiting();
        while waiting.bytes >= self.limit {
            drop(waiting);
            wake::now();
            waiting = self.waiting();
            if waiting.bytes >= self.limit {
                waiting = self.room.wait(waiting).expect("no holder of the inbox panics");
            }
        }
        self.add(waiting, entry);
    }

    /// Adds an entry without ever waiting: for I/O threads, whose requests are bounded by their connections.
    pub fn push_now(self: &Arc<Self>, entry: Entry) {
        self.add(self.waiting(), entry);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the inbox panics")
    }

    fn add(self: &Arc<Self>, mut waiting: MutexGuard<'_, Waiting>, entry: Entry) {
        waiting.bytes += entry.weight();
        waiting.entries.push(entry);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            wake::soon(self);
        }
    }

    /// Takes all that waits. `into` is empty and gives its memory.
    pub fn take(&self, into: &mut Vec<Entry>) {
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
    /// The thread is about to sleep: whoever has something for it has to wake it. `false` if something waits already.
    #[must_use]
    pub fn doze(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.asleep = waiting.entries.is_empty();
        waiting.asleep
    }

    /// The thread is awake.
    pub fn rise(&self) {
        self.waiting().asleep = false;
    }
}

impl Sleeper for Inbox {
    const IS_SHARD: bool = false;

    fn wake(&self) {
        if std::mem::take(&mut self.waiting().asleep)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an I/O thread cannot be woken"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broadcast(bytes: usize) -> Entry {
        Entry::Broadcast(Arc::new(Broadcast {
            topic: "room:1".into(),
            event: "news".into(),
            payload: Payload::Json(vec![b' '; bytes].into()),
            except: None,
            intercepted_by: Vec::new(),
        }))
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
            // As long as the sender does not wait, it goes on.
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
}
