//! The host's side of the boundary: calls a plugin's functions, and is called by it. All unsafe code of the test kit.
//!
//! Public for the tests of this crate only, which look at single effects.

#![allow(
    unsafe_code,
    reason = "the plugin lends raw pointers, which become slices and values here"
)]

use std::sync::Arc;

use abi_stable::library::{LibraryError, RawLibrary, lib_header_from_raw_library};
use abi_stable::prefix_type::WithMetadata;

pub use super::body::Body;
pub use super::outside::{Line, Outside, Said};
use crate::abi::{self, Bytes, Calls, CallsRef, Host, HostRef, ModuleRef, Record, Token, Writer, error, flag};
use crate::manifest::{self, Manifest};

/// The module of a library, its layout compared with ours. The library stays for as long as the process.
pub(super) fn module_of(library: RawLibrary) -> Result<ModuleRef, LibraryError> {
    let library: &'static RawLibrary = Box::leak(Box::new(library));
    // SAFETY: the library is never closed.
    unsafe { lib_header_from_raw_library(library) }?.check_layout()
}

/// The manifest at the beginning of `bytes`, if there are enough of them.
pub(super) fn manifest_at(bytes: &[u8]) -> Option<Manifest> {
    let bytes = bytes.get(..manifest::SIZE)?;
    // SAFETY: so many bytes are there, and any bytes are a manifest: it is plain numbers and arrays of bytes.
    Some(unsafe { bytes.as_ptr().cast::<Manifest>().read_unaligned() })
}

/// How long a plugin's threads may take to end.
const SHUTDOWN_MS: u32 = 5_000;

/// One thing that happens to a plugin.
#[derive(Clone, Copy, Default)]
pub struct Event<'a> {
    pub kind: u32,
    pub topic: u64,
    pub member: u64,
    pub token: u64,
    pub number: u64,
    pub name: &'a str,
    pub payload: &'a [u8],
    pub binary: bool,
    pub info: &'a str,
}

impl Event<'_> {
    fn lend(&self) -> abi::Event {
        abi::Event {
            kind: self.kind,
            flags: if self.binary { flag::BINARY } else { 0 },
            topic: self.topic,
            member: self.member,
            token: self.token,
            number: self.number,
            name: Bytes::lend(self.name.as_bytes()),
            payload: Bytes::lend(self.payload),
            info: Bytes::lend(self.info.as_bytes()),
        }
    }
}

/// One effect that a plugin asks for while it handles an event.
#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: u32,
    pub member: u64,
    pub token: u64,
    pub number: u64,
    pub name: String,
    pub topic: String,
    pub body: Body,
    /// Where the plugin has the payload.
    pub at: usize,
}

/// Answers a plugin while it handles events. Must not panic: the plugin stands in between.
pub trait Answers {
    /// A number, or one of [`error`].
    fn effect(&mut self, asked: Asked) -> i64;
    /// An effect of this kind cannot be read. The plugin gets `error`.
    fn unreadable(&mut self, kind: u32, error: i64);
    /// JSON, or one of [`error`].
    fn read(&mut self, what: u32, key: &str) -> Result<String, i64>;
    /// Event `index` is handled. Returns one of [`abi::go`].
    fn done(&mut self, index: usize, outcome: u32, message: String) -> u32;
}

/// A plugin that runs, with one shard.
pub struct Running {
    module: ModuleRef,
    plugin: *mut (),
    shard: *mut (),
    /// Where the plugin's pointer to its host leads: must outlive it.
    outside: Arc<Outside>,
}

impl Running {
    const HOST: Host = Host {
        complete,
        send,
        log,
        log_enabled,
        record,
        panicked,
    };
    abi_stable::staticref!(const HOST_META: WithMetadata<Host> = WithMetadata::new(Self::HOST));

    const CALLS: Calls = Calls { done, effect, read };
    abi_stable::staticref!(const CALLS_META: WithMetadata<Calls> = WithMetadata::new(Self::CALLS));

    /// Has the plugin check `settings`. The error is the plugin's.
    pub fn check(module: ModuleRef, settings: &str) -> Result<(), String> {
        // SAFETY: everything is lent for the call.
        called(|error| unsafe { module.check()(Bytes::lend(settings.as_bytes()), error) })
    }

    /// Has the plugin try to read state, as the host's probe does. The error is the plugin's.
    pub fn try_restore(module: ModuleRef, kind: u32, version: u32, state: &[u8]) -> Result<(), String> {
        let Some(try_restore) = module.try_restore() else {
            return Ok(());
        };
        // SAFETY: everything is lent for the call.
        called(|error| unsafe { try_restore(kind, version, Bytes::lend(state), error) })
    }

    /// Starts the plugin. The error is the plugin's.
    pub fn start(module: ModuleRef, settings: &str, outside: &Arc<Outside>) -> Result<Self, String> {
        let (host, cx) = (HostRef(Self::HOST_META.as_prefix()), Arc::as_ptr(outside).cast());
        let (mut plugin, mut shard) = (std::ptr::null_mut(), std::ptr::null_mut());
        let settings = Bytes::lend(settings.as_bytes());
        // SAFETY: `cx` stays valid until `shutdown` has returned: `outside` goes after that.
        called(|error| unsafe { module.init()(host, cx, settings, &raw mut plugin, error) })?;
        // SAFETY: `plugin` is from `init`.
        called(|error| unsafe { module.open()(plugin, 0, &raw mut shard, error) })?;
        Ok(Self {
            module,
            plugin,
            shard,
            outside: Arc::clone(outside),
        })
    }

    /// Has the plugin handle a batch of events.
    pub fn handle(&self, events: &[Event<'_>], answers: &mut dyn Answers) {
        let events: Vec<abi::Event> = events.iter().map(Event::lend).collect();
        let mut answers = answers;
        self.outside.enter();
        let (calls, cx) = (CallsRef(Self::CALLS_META.as_prefix()), (&raw mut answers).cast());
        // SAFETY: `shard` is from `open` and used on this thread alone; everything is lent for the call.
        unsafe { self.module.handle()(self.shard, events.as_ptr(), events.len(), calls, cx) };
    }

    /// Closes the shard and shuts the plugin down. Returns what both answer; zeros if that was done before.
    pub fn end(&mut self) -> (u32, u32) {
        if self.shard.is_null() {
            return (0, 0);
        }
        let shard = std::mem::replace(&mut self.shard, std::ptr::null_mut());
        // SAFETY: from `open` and `init`, given back once.
        unsafe {
            (
                self.module.close()(shard),
                self.module.shutdown()(self.plugin, SHUTDOWN_MS),
            )
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Does a call that writes what went wrong.
fn called(call: impl FnOnce(Writer) -> u32) -> Result<(), String> {
    unsafe extern "C" fn write(cx: *mut (), bytes: Bytes) {
        // SAFETY: `cx` is the `error` below, `bytes` is lent for this call.
        unsafe { (*cx.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) };
    }
    let mut error = Vec::new();
    match call(Writer {
        cx: (&raw mut error).cast(),
        write,
    }) {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&error).into_owned()),
    }
}

unsafe extern "C" fn done(cx: *mut (), index: usize, outcome: u32, message: Bytes) -> u32 {
    // SAFETY: `cx` is that of the call of `handle` which this is in.
    let answers = unsafe { &mut *cx.cast::<&mut dyn Answers>() };
    answers.done(index, outcome, lossy(message))
}

unsafe extern "C" fn effect(cx: *mut (), effect: *const abi::Effect) -> i64 {
    // SAFETY: as in `done`; the effect is lent for this call.
    let (answers, effect) = unsafe { (&mut *cx.cast::<&mut dyn Answers>(), *effect) };
    let (Some(name), Some(topic)) = (text(effect.name), text(effect.topic)) else {
        answers.unreadable(effect.kind, error::INVALID);
        return error::INVALID;
    };
    answers.effect(Asked {
        kind: effect.kind,
        member: effect.member,
        token: effect.token,
        number: effect.number,
        name,
        topic,
        body: body(effect.flags, effect.payload),
        at: effect.payload.ptr.addr(),
    })
}

unsafe extern "C" fn read(cx: *mut (), what: u32, key: Bytes, out: Writer) -> i64 {
    // SAFETY: as in `done`.
    let answers = unsafe { &mut *cx.cast::<&mut dyn Answers>() };
    let Some(key) = text(key) else {
        return error::INVALID;
    };
    match answers.read(what, &key) {
        Ok(json) => {
            // SAFETY: `out` is lent for this call.
            unsafe { (out.write)(out.cx, Bytes::lend(json.as_bytes())) };
            0
        }
        Err(error) => error,
    }
}

/// # Safety
///
/// `cx` is the one that `init` was given, and `shutdown` has not returned.
unsafe fn outside<'a>(cx: *const ()) -> &'a Outside {
    // SAFETY: `Running` keeps it until then.
    unsafe { &*cx.cast::<Outside>() }
}

unsafe extern "C" fn complete(cx: *const (), token: Token, flags: u32, status: Bytes, payload: Bytes) -> i64 {
    // SAFETY: called by the plugin, with what it was given.
    let outside = unsafe { outside(cx) };
    outside.complete(token, lossy(status), body(flags, payload))
}

unsafe extern "C" fn send(cx: *const (), topic: u64, member: u64, flags: u32, name: Bytes, payload: Bytes) -> i64 {
    // SAFETY: as above.
    let outside = unsafe { outside(cx) };
    outside.send(topic, member, lossy(name), body(flags, payload))
}

unsafe extern "C" fn log(cx: *const (), level: u32, target: Bytes, message: Bytes) {
    // SAFETY: as above.
    let outside = unsafe { outside(cx) };
    outside.write(Line {
        target: lossy(target),
        text: format!("{} {}", level_name(level), lossy(message)),
        ..Line::default()
    });
}

unsafe extern "C" fn log_enabled(cx: *const (), level: u32, target: Bytes) -> u32 {
    // SAFETY: as above.
    let outside = unsafe { outside(cx) };
    outside.wants(level, &lossy(target)).into()
}

unsafe extern "C" fn record(cx: *const (), record: *const Record) -> i64 {
    // SAFETY: as above; the record and its fields are lent for this call.
    let (outside, record, fields) = unsafe {
        let record = &*record;
        let fields = if record.len == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(record.fields, record.len)
        };
        (outside(cx), record, fields)
    };
    let mut text = level_name(record.level).to_owned();
    for field in fields {
        text.push(' ');
        text.push_str(&shown(field));
    }
    outside.write(Line {
        target: lossy(record.target),
        topic: record.topic,
        member: record.member,
        text,
    });
    0
}

/// There is nothing to do yet: the plugin reports the panic again when the event is done.
unsafe extern "C" fn panicked(_: *const (), _: Bytes, _: Bytes) {}

fn shown(field: &abi::Field) -> String {
    let (name, text) = (lossy(field.name), lossy(field.text));
    let value = match field.kind {
        _ if name == "message" => return text,
        abi::value::TEXT => format!("{text:?}"),
        abi::value::BOOL => (field.number != 0).to_string(),
        abi::value::I64 => field.number.cast_signed().to_string(),
        abi::value::U64 => field.number.to_string(),
        abi::value::F64 => f64::from_bits(field.number).to_string(),
        _ => text,
    };
    format!("{name}={value}")
}

fn level_name(level: u32) -> &'static str {
    match level {
        1 => "error",
        2 => "warn",
        3 => "info",
        4 => "debug",
        _ => "trace",
    }
}

fn body(flags: u32, payload: Bytes) -> Body {
    // SAFETY: lent for the call that this is in.
    let bytes = unsafe { payload.as_slice() }.to_vec();
    Body {
        binary: flags & flag::BINARY != 0,
        bytes,
    }
}

/// Text that the plugin lends; `None` if it is not UTF-8.
fn text(bytes: Bytes) -> Option<String> {
    // SAFETY: lent for the call that this is in.
    str::from_utf8(unsafe { bytes.as_slice() }).ok().map(ToOwned::to_owned)
}

fn lossy(bytes: Bytes) -> String {
    // SAFETY: lent for the call that this is in.
    String::from_utf8_lossy(unsafe { bytes.as_slice() }).into_owned()
}
