//! How a transport comes to the I/O thread that will own it, and how it calls that thread from then on.

use std::fmt;
use std::io;
use std::sync::Arc;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::Transport;
use crate::config::Limits;

/// A transport on its way to its thread. It never leaves that thread again.
pub trait PendingConnection: fmt::Debug + Send {
    /// As [`Transport::name`], for the connect handler.
    fn name(&self) -> &'static str;

    /// Becomes a transport, on its thread. With `registration` it arranges how the thread hears of arrived bytes. Must not block.
    ///
    /// # Errors
    ///
    /// If the system does not allow it. The client is then dropped, and the log says why.
    fn register(self: Box<Self>, registration: &Registration<'_>) -> io::Result<Box<dyn Transport>>;
}

/// What an I/O thread offers to a transport that comes to it. The thread calls [`Transport::receive`] and [`Transport::flush`] when
/// the source given to [`Registration::watch`] is ready, which it may be from the beginning, or after a call of its [`Waker`].
pub struct Registration<'a> {
    /// The limits of the configuration.
    pub(crate) limits: &'a Limits,
    registry: &'a Registry,
    slot: usize,
    wake: &'a (dyn Fn(usize) -> Waker + 'a),
}

impl<'a> Registration<'a> {
    /// The registration of the transport in this slot.
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

    /// The memory that unsent messages of one client may take, in bytes. Beyond it, [`Transport::send`] has to refuse.
    #[must_use]
    pub fn max_outbound_bytes(&self) -> usize {
        self.limits.max_outbound_bytes
    }

    /// Has the thread poll a descriptor for as long as it is open. The poll is edge-triggered.
    ///
    /// # Errors
    ///
    /// If it cannot be polled.
    pub fn watch(&self, source: &mut impl Source) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(source, Token(self.slot), both)
    }

    /// The waker of this transport, if it has no descriptor.
    #[must_use]
    pub fn waker(&self) -> Waker {
        (self.wake)(self.slot)
    }
}

/// Calls the I/O thread that owns a transport, from any thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that does this.
    pub(in crate::server) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Says that bytes may have arrived, or that there is room for more. A needless call does no harm, even if the transport is
    /// gone. Does not wait: a caller that calls for each message must bound their number itself.
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
