//! I/O threads: each owns its connections, from the handshake to the last byte, and its part of every subscription.
//!
//! A thread is a tokio runtime of its own. hyper serves HTTP on it; connections that became WebSockets stand in the
//! [`Core`]'s slab and are polled by it directly. All that comes from elsewhere comes through its [`Inbox`].
//! An I/O thread never waits for a shard, and never runs plugin code.

mod acceptor;
mod core;
mod http;
mod inbox;
mod stream;
mod subscriptions;
mod untaken;
mod writes;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use self::core::Core;
pub(crate) use self::core::encode;
pub use acceptor::Acceptor;
pub use inbox::{Entry, Inbox};
pub(crate) use stream::LazyStream;
pub use subscriptions::Subscriptions;

use crate::endpoint::Shared;

/// The token of the inbox's waker; connections count from 0.
const WAKER: mio::Token = mio::Token(usize::MAX);

/// An I/O thread that is not running yet. Its inbox takes entries already.
#[derive(Debug)]
pub struct Prepared {
    /// The way in.
    pub inbox: Arc<Inbox>,
    poll: mio::Poll,
}

/// Makes what an I/O thread needs; so many bytes may wait in its inbox.
///
/// # Errors
///
/// If the system gives no poll.
pub fn prepare(max_inbox_bytes: usize) -> io::Result<Prepared> {
    let poll = mio::Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    Ok(Prepared {
        inbox: Arc::new(Inbox::new(waker, max_inbox_bytes)),
        poll,
    })
}

impl Prepared {
    /// Starts the thread, the `index`th of its host.
    ///
    /// # Errors
    ///
    /// If the system gives no thread or no runtime.
    pub fn start(self, index: u8, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("io.{index}")).spawn(move || {
            let local = tokio::task::LocalSet::new();
            let ended = local.block_on(&runtime, async move {
                Core::new(index, self.inbox, self.poll, shared)?.run().await
            });
            if let Err(error) = ended {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    thread = index,
                    "an I/O thread has failed"
                );
            }
        })
    }
}
