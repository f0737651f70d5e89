//! How a transport gets to the I/O thread that is going to own it, and to that thread's attention from then on.

use std::fmt;
use std::io;
use std::sync::Arc;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::Transport;
use crate::config::Limits;

/// A transport on its way to its thread, which it never leaves again.
pub trait PendingConnection: fmt::Debug + Send {
    /// As [`Transport::name`]: what the connect handler is told.
    fn name(&self) -> &'static str;

    /// Becomes a transport, on its thread. By `registration` the thread hears of what has arrived. Must not block.
    ///
    /// # Errors
    ///
    /// If the system does not allow it. The client is then dropped, and the log says why.
    fn register(self: Box<Self>, registration: &Registration<'_>) -> io::Result<Box<dyn Transport>>;
}

/// What an I/O thread has for a transport that comes to it. [`Transport::receive`] and [`Transport::flush`] are called
/// when what was given to [`Registration::watch`] is ready, as it may be from the beginning, or when its [`Waker`] was called.
pub struct Registration<'a> {
    /// Of messages, and of what may wait for a client.
    pub(crate) limits: &'a Limits,
    registry: &'a Registry,
    slot: usize,
    wake: &'a (dyn Fn(usize) -> Waker + 'a),
}

impl<'a> Registration<'a> {
    /// For the transport that gets this slot.
    pub(in crate::server) fn new(
        limits: &'a Limits,
        registry: &'a Registry,
        slot: usize,
        wake: &'a (dyn Fn(usize) -> Waker + 'a),
    ) -> Self {
        Self {
            limits,
            registry,
            slot,
            wake,
        }
    }

    /// The largest message that clients may send, in bytes.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        self.limits.max_message_bytes
    }

    /// What may wait for one client, in bytes. Beyond, [`Transport::send`] is to refuse.
    #[must_use]
    pub fn max_outbound_bytes(&self) -> usize {
        self.limits.max_outbound_bytes
    }

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
    pub fn waker(&self) -> Waker {
        (self.wake)(self.slot)
    }
}

/// Calls the I/O thread that owns a transport, from any thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// One that does this.
    pub(in crate::server) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Says that something may have arrived, or that there is room for more. A call for nothing does no harm, also when the
    /// transport is gone. Does not wait: whoever calls for each message has a bound for those of its own.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl fmt::Debug for Registration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
