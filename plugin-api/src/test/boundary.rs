//! The host's end of the boundary: calls a plugin's functions, and is called by it. All unsafe code of the test kit.
//!
//! A plugin runs on the thread of its test. What it says from other threads waits in [`Outside`] until the test looks.

#![allow(unsafe_code, reason = "raw pointers from the plugin become slices and values here")]

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use abi_stable::library::{LibraryError, RawLibrary, lib_header_from_raw_library};
use abi_stable::prefix_type::WithMetadata;

use super::body::Body;
use crate::abi::{
    self, Bytes, Calls, CallsRef, Field, Host, HostRef, ModuleRef, Record, Token, Writer, error, flag, go,
};
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
#[derive(Default)]
pub(super) struct Event<'a> {
    pub(super) kind: u32,
    pub(super) topic: u64,
    pub(super) member: u64,
    pub(super) token: u64,
    pub(super) number: u64,
    pub(super) name: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) binary: bool,
    pub(super) info: &'a str,
}

/// One thing that a plugin asks for while it handles an event.
pub(super) struct Asked {
    pub(super) kind: u32,
    pub(super) member: u64,
    pub(super) token: u64,
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) binary: bool,
    pub(super) payload: Vec<u8>,
}

/// Who answers a plugin while it handles an event. Must not panic: the plugin is in between.
pub(super) trait Answers {
    /// A number, or one of [`error`].
    fn effect(&mut self, asked: Asked) -> i64;
    /// JSON, or one of [`error`].
    fn read(&mut self, what: u32, key: &str) -> Result<String, i64>;
    /// The event is handled.
    fn done(&mut self, outcome: u32, message: String);
}

/// A plugin that runs, with one shard.
pub(super) struct Running {
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

    /// Has the plugin check `settings` and begin. The error is the plugin's.
    pub(super) fn start(module: ModuleRef, settings: &str, outside: &Arc<Outside>) -> Result<Self, String> {
        let lent = || Bytes::lend(settings.as_bytes());
        // SAFETY: everything is lent for the call.
        called(|error| unsafe { module.check()(lent(), error) })?;
        let (host, cx) = (HostRef(Self::HOST_META.as_prefix()), Arc::as_ptr(outside).cast());
        let (mut plugin, mut shard) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `cx` stays valid until `shutdown` has returned: `outside` goes after that.
        called(|error| unsafe { module.init()(host, cx, lent(), &raw mut plugin, error) })?;
        // SAFETY: `plugin` is from `init`.
        called(|error| unsafe { module.open()(plugin, 0, &raw mut shard, error) })?;
        Ok(Self {
            module,
            plugin,
            shard,
            outside: Arc::clone(outside),
        })
    }

    /// Has the plugin handle one event.
    pub(super) fn handle(&self, event: &Event<'_>, answers: &mut dyn Answers) {
        let event = abi::Event {
            kind: event.kind,
            flags: if event.binary { flag::BINARY } else { 0 },
            topic: event.topic,
            member: event.member,
            token: event.token,
            number: event.number,
            name: Bytes::lend(event.name.as_bytes()),
            payload: Bytes::lend(event.payload),
            info: Bytes::lend(event.info.as_bytes()),
        };
        let mut answers = answers;
        CURRENT.set(Arc::downgrade(&self.outside));
        let (calls, cx) = (CallsRef(Self::CALLS_META.as_prefix()), (&raw mut answers).cast());
        // SAFETY: `shard` is from `open` and used on this thread alone; everything is lent for the call.
        unsafe { self.module.handle()(self.shard, &raw const event, 1, calls, cx) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: from `open` and `init`, given back once.
        unsafe {
            self.module.close()(self.shard);
            self.module.shutdown()(self.plugin, SHUTDOWN_MS);
        }
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

unsafe extern "C" fn done(cx: *mut (), _: usize, outcome: u32, message: Bytes) -> u32 {
    // SAFETY: `cx` is that of the call of `handle` which this is in.
    let answers = unsafe { &mut *cx.cast::<&mut dyn Answers>() };
    answers.done(outcome, text(message));
    go::ON
}

unsafe extern "C" fn effect(cx: *mut (), effect: *const abi::Effect) -> i64 {
    // SAFETY: as in `done`; the effect is lent for this call.
    let (answers, effect) = unsafe { (&mut *cx.cast::<&mut dyn Answers>(), *effect) };
    let Body { binary, bytes } = body(effect.flags, effect.payload);
    answers.effect(Asked {
        kind: effect.kind,
        member: effect.member,
        token: effect.token,
        number: effect.number,
        name: text(effect.name),
        topic: text(effect.topic),
        binary,
        payload: bytes,
    })
}

unsafe extern "C" fn read(cx: *mut (), what: u32, key: Bytes, out: Writer) -> i64 {
    // SAFETY: as in `done`.
    let answers = unsafe { &mut *cx.cast::<&mut dyn Answers>() };
    match answers.read(what, &text(key)) {
        Ok(json) => {
            // SAFETY: `out` is lent for this call.
            unsafe { (out.write)(out.cx, Bytes::lend(json.as_bytes())) };
            0
        }
        Err(error) => error,
    }
}

thread_local! {
    /// The test that runs on this thread.
    static CURRENT: RefCell<Weak<Outside>> = const { RefCell::new(Weak::new()) };
}

/// What a plugin said outside of any event, on whichever thread.
pub(super) enum Said {
    Complete {
        serial: u64,
        status: String,
        body: Body,
    },
    Send {
        topic: u64,
        member: u64,
        name: String,
        body: Body,
    },
}

/// Where it waits for the test.
#[derive(Default)]
pub(super) struct Outside {
    said: Mutex<Vec<Said>>,
    news: Condvar,
    log: Mutex<Vec<String>>,
}

impl Outside {
    pub(super) fn take(&self) -> Vec<Said> {
        std::mem::take(&mut *locked(&self.said))
    }

    /// Waits until there is something to take, `most` at the longest.
    pub(super) fn wait(&self, most: Duration) {
        let waited = self
            .news
            .wait_timeout_while(locked(&self.said), most, |said| said.is_empty());
        drop(waited);
    }

    /// What is in the log.
    pub(super) fn log(&self) -> Vec<String> {
        locked(&self.log).clone()
    }

    pub(super) fn note(&self, line: String) {
        locked(&self.log).push(line);
    }

    /// Notes a line in the log of the test that runs on this thread. Code of this crate has one subscriber for all tests of the
    /// process: its lines may come by way of another test's host.
    fn note_here(&self, line: String) {
        match CURRENT.with_borrow(Weak::upgrade) {
            Some(current) => current.note(line),
            None => self.note(line),
        }
    }

    fn say(&self, said: Said) -> i64 {
        locked(&self.said).push(said);
        self.news.notify_all();
        0
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    outside.say(Said::Complete {
        serial: token.serial,
        status: text(status),
        body: body(flags, payload),
    })
}

unsafe extern "C" fn send(cx: *const (), topic: u64, member: u64, flags: u32, name: Bytes, payload: Bytes) -> i64 {
    // SAFETY: as above.
    let outside = unsafe { outside(cx) };
    if topic == 0 {
        return error::GONE;
    }
    outside.say(Said::Send {
        topic,
        member,
        name: text(name),
        body: body(flags, payload),
    })
}

unsafe extern "C" fn log(cx: *const (), level: u32, _: Bytes, message: Bytes) {
    // SAFETY: as above.
    unsafe { outside(cx) }.note_here(format!("{} {}", level_name(level), text(message)));
}

unsafe extern "C" fn log_enabled(_: *const (), _: u32, _: Bytes) -> u32 {
    1
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
    let mut line = level_name(record.level).to_owned();
    for field in fields {
        line.push(' ');
        line.push_str(&shown(field));
    }
    outside.note_here(line);
    0
}

/// The event says so when it is done: there is nothing to do yet.
unsafe extern "C" fn panicked(_: *const (), _: Bytes, _: Bytes) {}

fn shown(field: &Field) -> String {
    let value = match field.kind {
        abi::value::BOOL => (field.number != 0).to_string(),
        abi::value::I64 => field.number.cast_signed().to_string(),
        abi::value::U64 => field.number.to_string(),
        abi::value::F64 => f64::from_bits(field.number).to_string(),
        _ => text(field.text),
    };
    match text(field.name).as_str() {
        "message" => value,
        name => format!("{name}={value}"),
    }
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

fn text(bytes: Bytes) -> String {
    // SAFETY: lent for the call that this is in.
    String::from_utf8_lossy(unsafe { bytes.as_slice() }).into_owned()
}
