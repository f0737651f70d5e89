//! What crosses during one [`ShardInstance::handle`](super::ShardInstance::handle): events in, effects out.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::prefix_type::WithMetadata;
use bennu_plugin::abi::{self, Bytes, CallsRef, Writer, error, flag, go, outcome};

use super::text::said;
use crate::runtime::plugin::watchdog::Pulse;

/// One thing that happened; see [`abi::Event`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event<'a> {
    /// One of [`abi::event`].
    pub(crate) kind: u32,
    /// `payload` is binary, otherwise JSON.
    pub(crate) binary: bool,
    /// The host's number of the topic, or 0.
    pub(crate) topic: u64,
    /// The host's number of the member, or 0.
    pub(crate) member: u64,
    /// The serial of the promise that this answers.
    pub(crate) token: u64,
    /// By kind.
    pub(crate) number: u64,
    /// By kind.
    pub(crate) name: &'a str,
    /// By kind.
    pub(crate) payload: &'a [u8],
    /// JSON about the client, or nothing.
    pub(crate) info: &'a [u8],
}

impl Event<'_> {
    /// As the plugin reads it. The caller keeps `self` alive during the call.
    pub(super) fn lend(&self) -> abi::Event {
        abi::Event {
            kind: self.kind,
            flags: if self.binary { flag::BINARY } else { 0 },
            topic: self.topic,
            member: self.member,
            token: self.token,
            number: self.number,
            name: Bytes::lend(self.name.as_bytes()),
            payload: Bytes::lend(self.payload),
            info: Bytes::lend(self.info),
        }
    }
}

/// What the plugin asks for; see [`abi::Effect`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect<'a> {
    /// One of [`abi::effect`].
    pub(crate) kind: u32,
    /// `payload` is binary, otherwise JSON.
    pub(crate) binary: bool,
    /// Whom it concerns; 0: the topic.
    pub(crate) member: u64,
    /// The serial of an earlier promise, or 0.
    pub(crate) token: u64,
    /// By kind.
    pub(crate) number: u64,
    /// By kind.
    pub(crate) name: &'a str,
    /// By kind.
    pub(crate) payload: &'a [u8],
    /// Another topic, for a broadcast; otherwise empty.
    pub(crate) topic: &'a str,
}

/// How the handling of one event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well: commit its effects.
    Ok,
    /// The callback panicked: drop its effects.
    Panicked,
    /// The state could not be written or read.
    Failed,
    /// The plugin does not know this kind of event.
    Unknown,
}

impl Outcome {
    fn read(number: u32) -> Self {
        match number {
            outcome::OK => Self::Ok,
            outcome::PANICKED => Self::Panicked,
            outcome::UNKNOWN => Self::Unknown,
            // An outcome of a later version is no success either.
            _ => Self::Failed,
        }
    }
}

/// Whether the plugin goes on with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    /// With the next event.
    On,
    /// It returns now; the host hands over the rest again.
    Back,
}

/// What the host does for a plugin that handles a batch. Called on the shard's thread, one call at a time.
///
/// A panic in one of these ends the batch and goes on in [`ShardInstance::handle`](super::ShardInstance::handle).
pub(crate) trait Calls {
    /// Event `index` is handled. Called once for each event, in order.
    fn done(&mut self, index: usize, outcome: Outcome, message: &str) -> Go;
    /// The current event asks for this effect. Returns a number, 0 or one of [`abi::error`].
    fn effect(&mut self, effect: &Effect<'_>) -> i64;
    /// Notes that an effect of this kind was refused with `error` before it could be handed over. Returns the error.
    fn refuse(&mut self, _kind: u32, error: i64) -> i64 {
        error
    }
    /// The most bytes that the plugin may lend at a time.
    fn most_bytes(&self) -> usize {
        isize::MAX as usize
    }
    /// Appends what is asked for (one of [`abi::read`]) to `out`, which is empty. Returns 0 or one of [`abi::error`].
    fn read(&mut self, what: u32, key: &str, out: &mut Vec<u8>) -> i64;
}

/// What the plugin gets as `cx`: alive for one call of `handle`.
pub(super) struct Batch<'a> {
    calls: &'a mut dyn Calls,
    pulse: &'a Pulse,
    len: usize,
    /// The index of the event that the plugin handles.
    at: usize,
    /// The panic of the host's own side. After it, nothing is called any more.
    panic: Option<Box<dyn Any + Send>>,
    /// A buffer for reads, kept to be reused.
    scratch: Vec<u8>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(calls: &'a mut dyn Calls, pulse: &'a Pulse, len: usize, scratch: Vec<u8>) -> Self {
        Self {
            calls,
            pulse,
            len,
            at: 0,
            panic: None,
            scratch,
        }
    }

    /// Where the index of the event that the plugin handles is kept.
    pub(super) fn at(&self) -> *const usize {
        &raw const self.at
    }

    /// How many events were handled, the buffer to reuse, and the panic that ended the batch.
    pub(super) fn end(self) -> (usize, Vec<u8>, Option<Box<dyn Any + Send>>) {
        (self.at, self.scratch, self.panic)
    }

    /// Runs the host's side so that it never unwinds into the plugin. Does not run it for an abandoned shard.
    /// `next`: the call completes an event.
    fn guard<T>(&mut self, next: bool, otherwise: T, run: impl FnOnce(&mut dyn Calls) -> T) -> T {
        if self.panic.is_some() || self.pulse.call().is_err() {
            return otherwise;
        }
        // After a panic, only the panic itself is used.
        let answer = catch_unwind(AssertUnwindSafe(|| run(self.calls)));
        self.pulse.give_back(next);
        answer.unwrap_or_else(|panic| {
            self.panic = Some(panic);
            otherwise
        })
    }

    fn done(&mut self, index: usize, outcome: u32, message: &[u8]) -> Go {
        // Out of order: the plugin's bookkeeping is broken, and `handle` shows it by returning too few events.
        if index != self.at || index >= self.len {
            return Go::Back;
        }
        self.at += 1;
        let outcome = Outcome::read(outcome);
        // Success has no message, and most events succeed.
        if message.is_empty() {
            return self.guard(true, Go::Back, |calls| calls.done(index, outcome, ""));
        }
        let message = String::from_utf8_lossy(message);
        self.guard(true, Go::Back, |calls| calls.done(index, outcome, &said(&message)))
    }

    fn effect(&mut self, effect: &abi::Effect) -> i64 {
        let most = self.calls.most_bytes();
        // SAFETY: lent by the plugin for this call, all three.
        let read = unsafe {
            (
                text(effect.name, most),
                lent(effect.payload, most),
                text(effect.topic, most),
            )
        };
        let (name, payload, topic) = match read {
            (Ok(name), Ok(payload), Ok(topic)) => (name, payload, topic),
            (Err(code), ..) | (_, Err(code), _) | (.., Err(code)) => {
                return self.guard(false, error::GONE, |calls| calls.refuse(effect.kind, code));
            }
        };
        let effect = Effect {
            kind: effect.kind,
            binary: effect.flags & flag::BINARY != 0,
            member: effect.member,
            token: effect.token,
            number: effect.number,
            name,
            payload,
            topic,
        };
        self.guard(false, error::GONE, |calls| calls.effect(&effect))
    }
}

/// The bytes that a plugin lends. Rejects what is certainly wrong: a null pointer, and a length that no slice can have.
///
/// # Safety
///
/// If there are `len` bytes at `ptr`, they stay as they are for `'a`.
pub(super) unsafe fn lent<'a>(bytes: Bytes, most: usize) -> Result<&'a [u8], i64> {
    if bytes.len > 0 && bytes.ptr.is_null() {
        return Err(error::INVALID);
    }
    if bytes.len > most.min(isize::MAX as usize) {
        return Err(error::LIMIT);
    }
    // SAFETY: promised by the caller, and no length that a slice cannot have.
    Ok(unsafe { bytes.as_slice() })
}

/// The same for text.
///
/// # Safety
///
/// As [`lent`].
pub(super) unsafe fn text<'a>(bytes: Bytes, most: usize) -> Result<&'a str, i64> {
    // SAFETY: promised by the caller.
    let bytes = unsafe { lent(bytes, most) }?;
    str::from_utf8(bytes).map_err(|_| error::INVALID)
}

/// The functions that go with every batch.
pub(super) const CALLS: CallsRef = {
    const TABLE: &WithMetadata<abi::Calls> = &WithMetadata::new(abi::Calls { done, effect, read });
    CallsRef(TABLE.static_as_prefix())
};

/// The batch behind `cx`.
///
/// # Safety
///
/// `cx` is from the `handle` that runs on this thread, and no other reference to the batch is in use.
unsafe fn batch<'a>(cx: *mut ()) -> &'a mut Batch<'a> {
    // SAFETY: promised by the caller.
    unsafe { &mut *cx.cast::<Batch<'a>>() }
}

unsafe extern "C" fn done(cx: *mut (), index: usize, outcome: u32, message: Bytes) -> u32 {
    // SAFETY: the plugin hands back its `cx` during `handle`, on its thread; no call into it happens below.
    let batch = unsafe { batch(cx) };
    // SAFETY: lent by the plugin for this call.
    let message = unsafe { lent(message, batch.calls.most_bytes()) };
    match batch.done(index, outcome, message.unwrap_or_default()) {
        Go::On => go::ON,
        Go::Back => go::BACK,
    }
}

unsafe extern "C" fn effect(cx: *mut (), effect: *const abi::Effect) -> i64 {
    // SAFETY: as in `done`.
    let batch = unsafe { batch(cx) };
    // SAFETY: lent by the plugin for this call; null is none.
    match unsafe { effect.as_ref() } {
        Some(effect) => batch.effect(effect),
        None => error::INVALID,
    }
}

unsafe extern "C" fn read(cx: *mut (), what: u32, key: Bytes, out: Writer) -> i64 {
    // SAFETY: as in `done`; given back at once.
    let most = unsafe { batch(cx) }.calls.most_bytes();
    // SAFETY: lent by the plugin for this call.
    let key = match unsafe { text(key, most) } {
        Ok(key) => key,
        Err(code) => return code,
    };
    let (answer, bytes) = {
        // SAFETY: as in `done`; given back before the plugin is called below.
        let batch = unsafe { batch(cx) };
        let mut bytes = mem::take(&mut batch.scratch);
        bytes.clear();
        (
            batch.guard(false, error::GONE, |calls| calls.read(what, key, &mut bytes)),
            bytes,
        )
    };
    if answer >= 0 {
        // SAFETY: the plugin lent the writer for this call; it copies before it returns.
        unsafe { (out.write)(out.cx, Bytes::lend(&bytes)) };
    }
    // SAFETY: as above.
    unsafe { batch(cx) }.scratch = bytes;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_pointer_and_an_impossible_length_are_not_followed() {
        let null = Bytes {
            ptr: std::ptr::null(),
            len: 1,
        };
        let long = |len| Bytes {
            len,
            ..Bytes::lend(b"{}")
        };
        // SAFETY: those that are not refused lend what is there.
        unsafe {
            assert_eq!(lent(null, 100), Err(error::INVALID));
            assert_eq!(lent(Bytes { len: 0, ..null }, 100), Ok(&b""[..]));
            assert_eq!(lent(long(usize::MAX), usize::MAX), Err(error::LIMIT));
            assert_eq!(lent(long(101), 100), Err(error::LIMIT));
            assert_eq!(text(Bytes::lend(b"\xff"), 100), Err(error::INVALID));
            assert_eq!(text(long(2), 2), Ok("{}"));
        }
    }
}
