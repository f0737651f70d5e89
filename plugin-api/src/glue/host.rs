//! The host's functions for any thread: [`HostHandle`].

use std::sync::{PoisonError, RwLock};

use super::flags_of;
use crate::abi::{self, Bytes, HostRef, Token, error};
use crate::log::{self, Place};
use crate::payload::Payload;
use crate::remote::Later;

/// The host's functions for any thread, until the generation is shut down.
pub(crate) struct HostHandle {
    host: HostRef,
    cx: *const (),
    /// Each call holds it for reading, so that `close` waits for the last one.
    open: RwLock<bool>,
}

// SAFETY: the host's functions may be called on any thread with this `cx`, as `abi::Host` says.
unsafe impl Send for HostHandle {}
// SAFETY: as above.
unsafe impl Sync for HostHandle {}

impl HostHandle {
    /// `cx` is what the host passed with `host`.
    pub(super) fn new(host: HostRef, cx: *const ()) -> Self {
        let open = RwLock::new(true);
        Self { host, cx, open }
    }

    pub(crate) fn complete(&self, later: &Later, status: &str, payload: Payload<'_>) -> i64 {
        let token = Token {
            topic: later.topic,
            serial: later.serial,
        };
        let (status, bytes) = (Bytes::lend(status.as_bytes()), Bytes::lend(payload.bytes()));
        // SAFETY: before `shutdown` returned; the host copies during the call.
        self.call(|host, cx| unsafe { host.complete()(cx, token, flags_of(payload), status, bytes) })
    }

    pub(crate) fn send(&self, topic: u64, member: u64, name: &str, payload: Payload<'_>) -> i64 {
        let (name, bytes) = (Bytes::lend(name.as_bytes()), Bytes::lend(payload.bytes()));
        // SAFETY: before `shutdown` returned; the host copies during the call.
        self.call(|host, cx| unsafe { host.send()(cx, topic, member, flags_of(payload), name, bytes) })
    }

    /// Whether the log takes lines of this level and target.
    pub(crate) fn log_enabled(&self, level: u32, target: &str) -> bool {
        let target = Bytes::lend(target.as_bytes());
        self.call(|host, cx| match host.log_enabled() {
            // SAFETY: before `shutdown` returned; the host reads during the call.
            Some(enabled) => unsafe { enabled(cx, level, target) }.into(),
            // An older host filters the lines that it gets.
            None => 1,
        }) > 0
    }

    /// Writes a line to the host's log.
    pub(crate) fn record(&self, level: u32, target: &str, place: &Place, fields: &[log::Field]) {
        let target = Bytes::lend(target.as_bytes());
        self.call(|host, cx| {
            let Some(record) = host.record() else {
                let text = log::as_text(fields);
                // SAFETY: before `shutdown` returned; the host copies during the call.
                unsafe { host.log()(cx, level, target, Bytes::lend(text.as_bytes())) };
                return 0;
            };
            let fields: Vec<_> = fields.iter().map(lend_field).collect();
            let line = abi::Record {
                level,
                len: fields.len(),
                fields: fields.as_ptr(),
                topic: place.topic,
                member: place.member,
                socket: Bytes::lend(place.socket.as_deref().unwrap_or_default().as_bytes()),
                target,
            };
            // SAFETY: before `shutdown` returned; the host reads `line` and what it lends during the call only.
            unsafe { record(cx, &raw const line) }
        });
    }

    /// Tells the host that this thread panics, so that it can take a backtrace.
    pub(crate) fn panicked(&self, message: &str, place: &str) {
        let (message, place) = (Bytes::lend(message.as_bytes()), Bytes::lend(place.as_bytes()));
        self.call(|host, cx| {
            if let Some(panicked) = host.panicked() {
                // SAFETY: before `shutdown` returned; the host copies during the call.
                unsafe { panicked(cx, message, place) };
            }
            0
        });
    }

    fn call(&self, call: impl FnOnce(HostRef, *const ()) -> i64) -> i64 {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if *open { call(self.host, self.cx) } else { error::GONE }
    }

    /// After this no call reaches the host.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

fn lend_field(field: &log::Field) -> abi::Field {
    use log::Value;
    let (kind, number, text) = match &field.value {
        Value::Text(text) => (abi::value::TEXT, 0, text.as_str()),
        Value::Written(text) => (abi::value::WRITTEN, 0, text.as_str()),
        Value::Bool(value) => (abi::value::BOOL, (*value).into(), ""),
        Value::I64(value) => (abi::value::I64, value.cast_unsigned(), ""),
        Value::U64(value) => (abi::value::U64, *value, ""),
        Value::F64(value) => (abi::value::F64, value.to_bits(), ""),
    };
    abi::Field {
        kind,
        number,
        name: Bytes::lend(field.name.as_bytes()),
        text: Bytes::lend(text.as_bytes()),
    }
}
