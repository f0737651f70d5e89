//! How a transport gets to the I/O thread that is going to own it, and to that thread's attention from then on.

use std::fmt;
use std::io;
use std::sync::Arc;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::Transport;
use crate::config::Limits;
use crate::io::{Entry, Inbox};

/// A transport on its way to its thread, which it never leaves again.
pub trait Newcomer: fmt::Debug + Send {
    /// As [`Transport::name`]: what the connect handler is told.
    fn name(&self) -> &'static str;

    /// Becomes a transport, on its thread. `door` is how that one hears of what has arrived. Must not block.
    ///
    /// # Errors
    ///
    /// If the system does not allow it. The client is then dropped, and the log says why.
    fn enter(self: Box<Self>, door: &Door<'_>) -> io::Result<Box<dyn Transport>>;
}

/// What an I/O thread has for a transport that comes to it. [`Transport::receive`] and [`Transport::flush`] are called
/// when what was given to [`Door::watch`] is ready, as it may be from the beginning, or when [`Door::bell`] has rung.
#[derive(Debug)]
pub struct Door<'a> {
    /// Of messages, and of what may wait for a client.
    pub limits: &'a Limits,
    pub(crate) registry: &'a Registry,
    pub(crate) inbox: &'a Arc<Inbox>,
    pub(crate) slot: usize,
}

impl Door<'_> {
    /// Has the thread poll a descriptor for as long as it is open. Edges are told, not levels.
    ///
    /// # Errors
    ///
    /// If it cannot be polled.
    pub fn watch(&self, source: &mut impl Source) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(source, Token(self.slot), both)
    }

    /// For a transport without a descriptor.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell {
            inbox: Arc::clone(self.inbox),
            slot: self.slot,
        }
    }
}

/// Calls the I/O thread that owns a transport, from any thread.
#[derive(Clone, Debug)]
pub struct Bell {
    inbox: Arc<Inbox>,
    slot: usize,
}

impl Bell {
    /// Says that something may have arrived, or that there is room for more. To ring for nothing does no harm, also when the
    /// transport is gone. Does not wait: whoever rings for each message has a bound for those of its own.
    pub fn ring(&self) {
        self.inbox.push_now(Entry::Ready(self.slot));
    }
}
