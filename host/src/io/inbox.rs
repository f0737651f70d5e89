//! The one way into an I/O thread.
//!
//! Whatever shards and other threads have for a connection goes through here, and is done in the order in which it was
//! sent, whoever sent it. That is what keeps a reply before the push that followed it, and the old generation's messages
//! before the new one's.

use std::sync::{Arc, Condvar, Mutex};

use bytestring::ByteString;

use crate::channel::Notice;
use crate::endpoint::Routing;
use crate::id::MemberId;
use crate::message::{Payload, Ref};
use crate::pubsub::Broadcast;
use crate::socket::NewSocket;
use crate::transport::longpoll::{PollRequest, PublishRequest, SessionOpened};
use crate::transport::websocket::Upgraded;

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
    /// A new connection.
    Accept(std::net::TcpStream),
    /// A connection that is a WebSocket now.
    Adopt(Box<(Upgraded, NewSocket)>),
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

/// What waits for one I/O thread.
#[derive(Debug)]
pub struct Inbox {
    entries: Mutex<Vec<Entry>>,
    room: Condvar,
    /// Entries that may wait. Beyond, senders wait for the thread: it never waits for them.
    limit: usize,
    waker: mio::Waker,
}

impl Inbox {
    /// An inbox for `limit` entries that wakes the poll which `waker` belongs to.
    #[must_use]
    pub fn new(waker: mio::Waker, limit: usize) -> Self {
        Self {
            entries: Mutex::default(),
            room: Condvar::new(),
            limit,
            waker,
        }
    }

    /// Adds an entry. Waits while the inbox is full: for shards and other threads that may wait.
    pub fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().expect("no holder of the inbox panics");
        while entries.len() >= self.limit {
            entries = self.room.wait(entries).expect("no holder of the inbox panics");
        }
        self.add(entries, entry);
    }

    /// Adds an entry without ever waiting: for I/O threads, whose requests are bounded by their connections.
    pub fn push_now(&self, entry: Entry) {
        self.add(self.entries.lock().expect("no holder of the inbox panics"), entry);
    }

    fn add(&self, mut entries: std::sync::MutexGuard<'_, Vec<Entry>>, entry: Entry) {
        let first = entries.is_empty();
        entries.push(entry);
        drop(entries);
        if first && let Err(error) = self.waker.wake() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an I/O thread cannot be woken"
            );
        }
    }

    /// Takes all that waits. `into` is empty and gives its memory.
    pub fn take(&self, into: &mut Vec<Entry>) {
        let mut entries = self.entries.lock().expect("no holder of the inbox panics");
        let was_full = entries.len() >= self.limit;
        std::mem::swap(&mut *entries, into);
        drop(entries);
        if was_full {
            self.room.notify_all();
        }
    }
}
