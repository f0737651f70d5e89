//! What a plugin may ask of the host at any time, from any of its threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use abi_stable::prefix_type::WithMetadata;
use bennu_plugin::abi::{self, Bytes, HostRef, Token, error, flag};

use super::calls::{lent, text};

/// The host, as a generation sees it. Called from any thread, between `init` and `shutdown`.
pub(crate) trait HostCalls: Send + Sync {
    /// A promise is kept. Returns 0 or one of [`abi::error`].
    fn complete(&self, token: Token, binary: bool, status: &str, payload: &[u8]) -> i64;
    /// A message for `member` of `topic`, or for the topic (0). Returns 0 or one of [`abi::error`].
    fn send(&self, topic: u64, member: u64, binary: bool, name: &str, payload: &[u8]) -> i64;
    /// The most bytes that the plugin may lend at a time.
    fn most_bytes(&self) -> usize {
        isize::MAX as usize
    }
    /// Notes that `what` was refused with this error before it could be handed over.
    fn refused(&self, _what: &'static str, _error: i64) {}
    /// Writes a line to the log, for a plugin whose kit knows no fields. `level`: 1 error … 5 trace.
    fn log(&self, level: u32, target: &str, message: &str);
    /// Whether the log takes such lines.
    fn log_enabled(&self, level: u32, target: &str) -> bool;
    /// Writes a line to the log.
    fn record(&self, line: &Line<'_>);
    /// The calling thread panics at `place`; its stack is as it was.
    fn panicked(&self, message: &str, place: &str);
}

/// A line for the log; see [`abi::Record`].
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// 1 error … 5 trace.
    pub(crate) level: u32,
    /// The topic that it is about; 0: none.
    pub(crate) topic: u64,
    /// The member that it is about; 0: none.
    pub(crate) member: u64,
    /// The socket id of its client; empty if the plugin does not know it.
    pub(crate) socket: &'a str,
    /// The part of the plugin's code that it comes from.
    pub(crate) target: &'a str,
    /// Names and values; the field `message` is the text of the line.
    pub(crate) fields: Vec<(&'a str, Value<'a>)>,
}

/// The value of a field; see [`abi::value`](mod@abi::value).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// In quotes.
    Text(&'a str),
    /// Without.
    Written(&'a str),
    /// Yes or no.
    Bool(bool),
    /// With a sign.
    I64(i64),
    /// Without.
    U64(u64),
    /// With a fraction.
    F64(f64),
}

/// The name of a promised answer in messages about refusals.
pub(crate) const COMPLETE: &str = "answer";
/// The name of a message in messages about refusals.
pub(crate) const SEND: &str = "message to itself";
/// The name of a line of the log, and of a report of a panic, in messages about refusals.
const LINE: &str = "line of the log";

/// Fields that one line may have. More are left out.
const MOST_FIELDS: usize = 24;
/// Bytes that one text may have. The rest is cut off.
const MOST_TEXT: usize = 16 * 1024;

/// Stands between a generation and its [`HostCalls`], and outlives both.
///
/// A thread that the plugin failed to stop may call at any time after `shutdown`. It then finds this link empty. Its few bytes are
/// never freed.
pub(super) struct Link(RwLock<Option<Arc<dyn HostCalls>>>);

impl Link {
    pub(super) fn new(host: Arc<dyn HostCalls>) -> &'static Self {
        Box::leak(Box::new(Self(RwLock::new(Some(host)))))
    }

    /// The pointer that the plugin gets as `host_cx`.
    pub(super) fn cx(&'static self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    /// Releases the host. Later calls are answered with [`error::GONE`].
    pub(super) fn cut(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs the host's side without the lock, and so that it never unwinds into the plugin.
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

/// The functions that go with `init`.
pub(super) const HOST: HostRef = {
    const TABLE: &WithMetadata<abi::Host> = &WithMetadata::new(abi::Host {
        complete,
        send,
        log,
        log_enabled,
        record,
        panicked,
    });
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
                host.refused(COMPLETE, code);
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
                host.refused(SEND, code);
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
            (Err(code), _) | (_, Err(code)) => host.refused(LINE, code),
        }
        0
    });
}

unsafe extern "C" fn log_enabled(cx: *const (), level: u32, target: Bytes) -> u32 {
    // SAFETY: as in `complete`.
    let link = unsafe { link(cx) };
    let enabled = link.call(|host| {
        // SAFETY: lent by the plugin for this call.
        let target = unsafe { text(target, MOST_TEXT) };
        target.map_or(0, |target| host.log_enabled(level, target).into())
    });
    u32::from(enabled > 0)
}

unsafe extern "C" fn record(cx: *const (), record: *const abi::Record) -> i64 {
    // SAFETY: as in `complete`.
    let link = unsafe { link(cx) };
    link.call(|host| {
        // SAFETY: lent by the plugin for this call, with what it points to; null is none.
        match unsafe { record.as_ref().ok_or(error::INVALID).and_then(|record| line(record)) } {
            Ok(line) => {
                host.record(&line);
                0
            }
            Err(code) => {
                host.refused(LINE, code);
                code
            }
        }
    })
}

unsafe extern "C" fn panicked(cx: *const (), message: Bytes, place: Bytes) {
    // SAFETY: as in `complete`.
    let link = unsafe { link(cx) };
    link.call(|host| {
        // SAFETY: lent by the plugin for this call.
        match unsafe { (lent(message, isize::MAX as usize), lent(place, MOST_TEXT)) } {
            (Ok(message), Ok(place)) => {
                host.panicked(&String::from_utf8_lossy(message), &String::from_utf8_lossy(place));
            }
            (Err(code), _) | (_, Err(code)) => host.refused(LINE, code),
        }
        0
    });
}

/// Reads a line of the log, up to the limits.
///
/// # Safety
///
/// What it points to stays as it is for `'a`.
unsafe fn line<'a>(record: &abi::Record) -> Result<Line<'a>, i64> {
    // SAFETY: promised by the caller.
    let (target, socket) = unsafe { (text(record.target, MOST_TEXT)?, text(record.socket, MOST_TEXT)?) };
    if !record.fields.is_aligned() {
        return Err(error::INVALID);
    }
    let len = record.len.min(MOST_FIELDS);
    let fields = if len == 0 || record.fields.is_null() {
        &[]
    } else {
        // SAFETY: promised by the caller: as many fields as it says are there.
        unsafe { std::slice::from_raw_parts(record.fields, len) }
    };
    // SAFETY: promised by the caller.
    let fields = fields
        .iter()
        .map(|each| unsafe { field(each) })
        .collect::<Result<_, _>>()?;
    Ok(Line {
        level: record.level,
        topic: record.topic,
        member: record.member,
        socket,
        target,
        fields,
    })
}

/// Reads a field. A text that is too long is cut off.
///
/// # Safety
///
/// As [`line()`].
unsafe fn field<'a>(field: &abi::Field) -> Result<(&'a str, Value<'a>), i64> {
    // SAFETY: promised by the caller.
    let (name, bytes) = unsafe { (text(field.name, MOST_TEXT)?, lent(field.text, isize::MAX as usize)?) };
    let text = match str::from_utf8(&bytes[..bytes.len().min(MOST_TEXT)]) {
        Ok(text) => text,
        // The cut is within a character.
        Err(error) if bytes.len() > MOST_TEXT && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return Err(error::INVALID),
    };
    let value = match field.kind {
        abi::value::BOOL => Value::Bool(field.number != 0),
        abi::value::I64 => Value::I64(field.number.cast_signed()),
        abi::value::U64 => Value::U64(field.number),
        abi::value::F64 => Value::F64(f64::from_bits(field.number)),
        abi::value::WRITTEN => Value::Written(text),
        // A kind of a later version has a text, or none.
        _ => Value::Text(text),
    };
    Ok((name, value))
}
