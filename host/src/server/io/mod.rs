//! I/O threads: each owns its connections, from the handshake to the last byte, and its part of every subscription.
//!
//! Each thread has a tokio runtime. hyper serves HTTP on it; connections that became WebSockets are in the [`Core`]'s slab, which
//! polls them directly. Other threads reach it only through its [`Inbox`]. An I/O thread never waits for a shard, and never runs
//! plugin code.

mod acceptor;
mod content_length;
mod core;
mod entry;
mod http;
mod http_stream;
mod inbox;
mod inboxes;
mod listing;
mod stream;
mod subscriptions;
mod writes;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;

pub(crate) use acceptor::{Accepted, Acceptor, Door};
pub(crate) use entry::{Connection, Described, Entry, Rerouted, SessionRequest};
pub(crate) use http::{Bounds, Client, serve};
pub(crate) use http_stream::HttpStream;
pub(crate) use inbox::Inbox;
pub(crate) use inboxes::Inboxes;
pub(crate) use listing::{ListRequest, Listed, OpenConnection};
use stream::LazyStream;
pub(crate) use subscriptions::Subscriptions;

use self::core::Core;
use crate::runtime::threads;
use crate::server::state::State;

/// The token of the inbox's waker; connections count from 0.
const WAKER: mio::Token = mio::Token(usize::MAX);

/// An I/O thread that does not run yet. Its inbox takes entries already.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The way in.
    pub(crate) inbox: Arc<Inbox>,
    poll: mio::Poll,
}

/// Makes what an I/O thread needs. `max_inbox_bytes` may wait in its inbox.
///
/// # Errors
///
/// If the system gives no poll.
pub(crate) fn prepare(max_inbox_bytes: usize) -> io::Result<Prepared> {
    let poll = mio::Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    Ok(Prepared {
        inbox: Arc::new(Inbox::new(waker, max_inbox_bytes)),
        poll,
    })
}

impl Prepared {
    /// Starts I/O thread `index`, with the router that answers its HTTP requests.
    ///
    /// # Errors
    ///
    /// If the system gives no thread or no runtime.
    pub(crate) fn start(self, index: u8, state: Arc<State>, app: Router) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        threads::try_spawn(name(index), move || {
            // Dropped last, also in a panic: nobody may wait for a thread that has ended.
            let _closes = Closes(Arc::clone(&self.inbox));
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                Core::new(index, self.inbox, self.poll, state, app)?.run().await
            })
        })
    }
}

/// The name of I/O thread `index`.
fn name(index: u8) -> String {
    format!("io.{index}")
}

/// Closes the inbox of a thread that ends.
struct Closes(Arc<Inbox>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}
