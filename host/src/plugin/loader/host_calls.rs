//! What a plugin may ask of the host at any time, from any of its threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use abi_stable::prefix_type::WithMetadata;
use bennu_plugin::abi::{self, Bytes, HostRef, Token, error, flag};

use super::calls::{lent, text};

/// The host, as a generation sees it. Called from any thread, between `init` and `shutdown`.
pub trait HostCalls: Send + Sync {
    /// A promise is kept. Returns 0 or one of [`abi::error`].
    fn complete(&self, token: Token, binary: bool, status: &str, payload: &[u8]) -> i64;
    /// A message for `member` of `topic`, or for the topic (0). Returns 0 or one of [`abi::error`].
    fn send(&self, topic: u64, member: u64, binary: bool, name: &str, payload: &[u8]) -> i64;
    /// How long something that the plugin lends may be.
    fn most_bytes(&self) -> usize {
        isize::MAX as usize
    }
    /// Notes that something was refused before it could be handed over.
    fn refused(&self) {}
    /// A line for the log. `level`: 1 error … 5 trace.
    fn log(&self, level: u32, target: &str, message: &str);
}

/// Stands between a generation and its [`HostCalls`], and outlives both.
///
/// A thread that the plugin failed to stop may call at any time after `shutdown`. It then finds this, empty: the few
/// bytes of it are never freed.
pub(super) struct Link(RwLock<Option<Arc<dyn HostCalls>>>);

impl Link {
    pub(super) fn new(host: Arc<dyn HostCalls>) -> &'static Self {
        Box::leak(Box::new(Self(RwLock::new(Some(host)))))
    }

    /// What the plugin gets as `host_cx`.
    pub(super) fn cx(&'static self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    /// Lets the host go; calls that come later are answered with [`error::GONE`].
    pub(super) fn cut(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs the host's side, so that it neither unwinds into the plugin nor holds the lock meanwhile.
    fn call(&self, run: impl FnOnce(&dyn HostCalls) -> i64) -> i64 {
        let host = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(host) = host else {
            return error::GONE;
        };
        catch_unwind(AssertUnwindSafe(|| run(&*host))).unwrap_or_else(|_| {
            tracing::error!("the host panicked in a call from a plugin");
            error::GONE
        })
    }
}

/// What goes with `init`.
pub(super) const HOST: HostRef = {
    const TABLE: &WithMetadata<abi::Host> = &WithMetadata::new(abi::Host { complete, send, log });
    HostRef(TABLE.static_as_prefix())
};

/// The link behind `cx`.
///
/// # Safety
///
/// `cx` is from [`Link::cx`].
unsafe fn link(cx: *const ()) -> &'static Link {
    // SAFETY: promised by the caller; links are never freed.
    unsafe { &*cx.cast::<Link>() }
}

unsafe extern "C" fn complete(cx: *const (), token: Token, flags: u32, status: Bytes, payload: Bytes) -> i64 {
    // SAFETY: the plugin hands back its `host_cx`.
    let link = unsafe { link(cx) };
    link.call(|host| {
        let most = host.most_bytes();
        // SAFETY: lent by the plugin for this call.
        match unsafe { (text(status, most), lent(payload, most)) } {
            (Ok(status), Ok(payload)) => host.complete(token, flags & flag::BINARY != 0, status, payload),
            (Err(code), _) | (_, Err(code)) => {
                host.refused();
                code
            }
        }
    })
}

unsafe extern "C" fn send(cx: *const (), topic: u64, member: u64, flags: u32, name: Bytes, payload: Bytes) -> i64 {
    // SAFETY: as in `complete`.
    let link = unsafe { link(cx) };
    link.call(|host| {
        let most = host.most_bytes();
        // SAFETY: lent by the plugin for this call.
        match unsafe { (text(name, most), lent(payload, most)) } {
            (Ok(name), Ok(payload)) => host.send(topic, member, flags & flag::BINARY != 0, name, payload),
            (Err(code), _) | (_, Err(code)) => {
                host.refused();
                code
            }
        }
    })
}

unsafe extern "C" fn log(cx: *const (), level: u32, target: Bytes, message: Bytes) {
    // SAFETY: as in `complete`.
    let link = unsafe { link(cx) };
    link.call(|host| {
        let most = host.most_bytes();
        // SAFETY: lent by the plugin for this call.
        match unsafe { (lent(target, most), lent(message, most)) } {
            (Ok(target), Ok(message)) => host.log(
                level,
                &String::from_utf8_lossy(target),
                &String::from_utf8_lossy(message),
            ),
            _ => host.refused(),
        }
        0
    });
}
