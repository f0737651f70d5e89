//! One call of `handle`: its events, and the functions to call during it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::{self, Bytes, CallsRef, Writer, flag, outcome};
use crate::payload::Payload;
use crate::remote::Seen;
use crate::shard::Fault;

/// Whether the host knows spans. An older one logs what it does not know: it is asked once.
static KNOWS_SPANS: AtomicBool = AtomicBool::new(true);

/// An [`abi::Event`], its pointers turned into slices.
pub(crate) struct Incoming<'a> {
    pub(crate) kind: u32,
    pub(crate) topic: u64,
    pub(crate) member: u64,
    pub(crate) number: u64,
    pub(crate) name: &'a str,
    pub(crate) payload: Payload<'a>,
    pub(crate) info: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// # Safety
    ///
    /// What `event` points to can be read for `'a`.
    pub(super) unsafe fn view(event: &abi::Event) -> Self {
        // SAFETY: promised by the caller.
        let (name, payload, info) = unsafe { (event.name.as_slice(), event.payload.as_slice(), event.info.as_slice()) };
        Self {
            kind: event.kind,
            topic: event.topic,
            member: event.member,
            number: event.number,
            name: str::from_utf8(name).unwrap_or_default(),
            payload: Payload::of_event(payload, event.flags & flag::BINARY != 0),
            info,
        }
    }

    /// The name of the callback that runs for it.
    pub(crate) fn callback(&self) -> &'static str {
        abi::callback_name(self.kind, self.topic, self.member)
    }
}

/// An [`abi::Effect`], before its slices become pointers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effect<'a> {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) member: u64,
    pub(crate) token: u64,
    pub(crate) number: u64,
    pub(crate) name: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) topic: &'a str,
}

/// The host's functions for one call of `handle`. Not used after it: [`Shard::lend`](crate::shard::Shard::lend) takes them back.
#[derive(Clone, Copy)]
pub(crate) struct Calls {
    calls: CallsRef,
    cx: *mut (),
}

impl Calls {
    /// `cx` is what the host passed with `calls`.
    pub(super) fn new(calls: CallsRef, cx: *mut ()) -> Self {
        Self { calls, cx }
    }

    pub(crate) fn effect(self, effect: &Effect<'_>) -> i64 {
        let effect = abi::Effect {
            kind: effect.kind,
            flags: effect.flags,
            member: effect.member,
            token: effect.token,
            number: effect.number,
            name: Bytes::lend(effect.name),
            payload: Bytes::lend(effect.payload),
            topic: Bytes::lend(effect.topic.as_bytes()),
        };
        // SAFETY: within `handle`, on its thread; the host reads `effect` during the call only.
        unsafe { self.calls.effect()(self.cx, &raw const effect) }
    }

    /// Tells the host which generation answers for a promise from now on.
    pub(super) fn tell(self, promise: Seen) {
        let (kind, token) = match promise {
            Seen::Read(token) => (abi::effect::PROMISE_READ, token),
            Seen::Written(token) => (abi::effect::PROMISE_WRITTEN, token),
        };
        // An older host answers `UNKNOWN`: it does not tell promises apart.
        self.effect(&Effect {
            kind,
            token,
            ..Effect::default()
        });
    }

    /// Reads one of [`abi::read`] as JSON. The error is one of [`abi::error`].
    pub(crate) fn read(self, what: u32, key: &str) -> Result<Vec<u8>, i64> {
        unsafe extern "C" fn append(cx: *mut (), bytes: Bytes) {
            // SAFETY: `cx` is the `out` below, `bytes` is lent for this call.
            unsafe { (*cx.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) };
        }
        let mut out = Vec::new();
        let writer = Writer {
            cx: (&raw mut out).cast(),
            write: append,
        };
        // SAFETY: within `handle`, on its thread; the host uses `writer` during the call only.
        match unsafe { self.calls.read()(self.cx, what, Bytes::lend(key.as_bytes()), writer) } {
            0.. => Ok(out),
            error => Err(error),
        }
    }

    /// Begins a span of the current event. `None`: there is none to end.
    pub(crate) fn span_begin(self, name: &str) -> Option<i64> {
        if !KNOWS_SPANS.load(Ordering::Relaxed) {
            return None;
        }
        let span = self.effect(&Effect {
            kind: abi::effect::SPAN_BEGIN,
            name: name.as_bytes(),
            ..Effect::default()
        });
        if span == abi::error::UNKNOWN {
            KNOWS_SPANS.store(false, Ordering::Relaxed);
        }
        (span > 0).then_some(span)
    }

    /// Ends a span of the current event.
    pub(crate) fn span_end(self, span: i64) {
        self.effect(&Effect {
            kind: abi::effect::SPAN_END,
            number: span.cast_unsigned(),
            ..Effect::default()
        });
    }

    pub(super) fn done(self, index: usize, result: &Result<(), Fault>) -> u32 {
        let (outcome, message) = match result {
            Ok(()) => (outcome::OK, ""),
            Err(Fault::Panicked(message)) => (outcome::PANICKED, message.as_str()),
            Err(Fault::Failed(message)) => (outcome::FAILED, message.as_str()),
            Err(Fault::Unknown) => (outcome::UNKNOWN, ""),
        };
        // SAFETY: within `handle`, on its thread.
        unsafe { self.calls.done()(self.cx, index, outcome, Bytes::lend(message.as_bytes())) }
    }
}

pub(crate) fn flags_of(payload: Payload<'_>) -> u32 {
    if payload.is_binary() { flag::BINARY } else { 0 }
}
