//! The unsafe half of a plugin: the functions behind [`Module`], and safe wrappers for what the host lends.
//!
//! Nothing here knows what a channel does: pointers become slices, and [`Shard`] does the rest.

#![allow(
    unsafe_code,
    reason = "raw pointers from the host become slices and values here, and nowhere else"
)]

use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::prefix_type::WithMetadata;

use crate::abi::{self, Bytes, CallsRef, HostRef, Module, ModuleRef, Token, Writer, error, flag, go, outcome};
use crate::channel::{Channel, Old, read_member, read_shared};
use crate::connect::Connect;
use crate::log::{self, Place};
use crate::panics::{catch, drop_caught, install_hook, remove_hook};
use crate::payload::Payload;
use crate::plugin::{Plugin, read_settings};
use crate::remote::{Later, Seen, Threads};
use crate::settings::{NoSchema, Schema};
use crate::shard::{Fault, Shard};
use crate::tasks::Tasks;

/// How long async work that a failed `init` had begun may take to end.
const INIT_DEADLINE: Duration = Duration::from_secs(1);

/// The [`Module`] of a plugin that serves channels `C` and connects by `G`.
#[doc(hidden)]
pub struct Entry<C, G, P, S = NoSchema>(PhantomData<(C, G, P, S)>);

impl<C: Channel<P>, G: Connect<P>, P: Plugin, S: Schema> Entry<C, G, P, S> {
    const MODULE: Module = Module {
        check: check::<P>,
        init: init::<P>,
        open: open::<C, G, P>,
        handle: handle::<C, G, P>,
        close: close::<C, G, P>,
        shutdown: shutdown::<P>,
        try_restore: try_restore::<C, P>,
        schema: schema::<S>,
    };

    abi_stable::staticref!(const WITH_METADATA: WithMetadata<Module> = WithMetadata::new(Self::MODULE));

    /// What the host gets to call.
    pub const ROOT: ModuleRef = ModuleRef(Self::WITH_METADATA.as_prefix());

    /// What stands in the library under the name that abi_stable looks for.
    #[must_use]
    pub const fn header() -> LibHeader {
        // SAFETY: `constructor` returns a `ModuleRef`, erased by `__call_root_module_loader`.
        unsafe { LibHeader::from_constructor::<ModuleRef>(Self::constructor, CheckTypeLayout::Yes) }
    }

    extern "C" fn constructor() -> RootModuleResult {
        __call_root_module_loader(|| Self::ROOT)
    }
}

/// What `init` makes: one a generation.
pub(crate) struct Generation<P> {
    pub(crate) plugin: P,
    pub(crate) host: Arc<HostHandle>,
    pub(crate) threads: Threads,
    pub(crate) tasks: Tasks,
}

unsafe extern "C" fn check<P: Plugin>(settings: Bytes, error: Writer) -> u32 {
    // SAFETY: the host lends `settings` for this call.
    let json = unsafe { settings.as_slice() };
    let result = catch(|| match read_settings::<P>(json) {
        Ok(settings) => {
            drop(settings);
            Ok(())
        }
        Err(error) => Err(error),
    });
    let refused = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(refused)) => refused,
        Err(panic) => crate::wire::SettingsError {
            path: String::new(),
            message: format!("check panicked: {panic}"),
        },
    };
    write(error, &serde_json::to_string(&refused).unwrap_or(refused.message))
}

unsafe extern "C" fn schema<S: Schema>(out: Writer) -> u32 {
    let Ok(Some(json)) = catch(S::json) else { return 1 };
    write(out, &json);
    0
}

unsafe extern "C" fn try_restore<C: Channel<P>, P: Plugin>(
    kind: u32,
    version: u32,
    state: Bytes,
    error: Writer,
) -> u32 {
    // SAFETY: the host lends `state` for this call.
    let state = unsafe { state.as_slice() };
    let read = catch(|| match kind {
        abi::event::RESTORE => read_shared::<C, P>(version, Old::new(state)).map(drop),
        _ => read_member::<C, P>(version, Old::new(state)).map(drop),
    });
    match read {
        Ok(Ok(())) => 0,
        Ok(Err(refused)) => write(error, &refused.to_string()),
        Err(panic) => write(error, &format!("reading it panicked: {panic}")),
    }
}

unsafe extern "C" fn init<P: Plugin>(
    host: HostRef,
    host_cx: *const (),
    settings: Bytes,
    plugin: *mut *mut (),
    error: Writer,
) -> u32 {
    let host = Arc::new(HostHandle {
        host,
        cx: host_cx,
        open: RwLock::new(true),
    });
    log::attach(&host);
    install_hook(&host);
    // SAFETY: the host lends `settings` for this call.
    let json = unsafe { settings.as_slice() };
    let tasks = Tasks::default();
    let made = catch(|| {
        let settings = read_settings::<P>(json).map_err(|error| match error.path.as_str() {
            "" => error.message,
            path => format!("settings.{path}: {}", error.message),
        })?;
        tasks.during_init(|| P::init(settings))
    });
    match made {
        Ok(Ok(value)) => {
            let generation = Arc::new(Generation {
                plugin: value,
                host: Arc::clone(&host),
                threads: Threads::default(),
                tasks,
            });
            // SAFETY: the host lends a place for one pointer.
            unsafe { *plugin = Arc::into_raw(generation).cast_mut().cast() };
            0
        }
        Ok(Err(message)) => {
            tasks.end(INIT_DEADLINE);
            let_go(&host);
            write(error, &message)
        }
        Err(panic) => {
            tasks.end(INIT_DEADLINE);
            let_go(&host);
            write(error, &format!("init panicked: {panic}"))
        }
    }
}

unsafe extern "C" fn open<C: Channel<P>, G: Connect<P>, P: Plugin>(
    plugin: *mut (),
    _index: u32,
    shard: *mut *mut (),
    error: Writer,
) -> u32 {
    let generation: *const Generation<P> = plugin.cast();
    // SAFETY: `init` made the pointer of an `Arc` that `shutdown` takes back, after every shard is closed. The count
    // grows by the one that is made here.
    let generation = unsafe {
        Arc::increment_strong_count(generation);
        Arc::from_raw(generation)
    };
    match catch(move || Box::new(Shard::<C, G, P>::new(generation))) {
        Ok(made) => {
            // SAFETY: the host lends a place for one pointer.
            unsafe { *shard = Box::into_raw(made).cast() };
            0
        }
        Err(panic) => write(error, &panic),
    }
}

unsafe extern "C" fn handle<C: Channel<P>, G: Connect<P>, P: Plugin>(
    shard: *mut (),
    events: *const abi::Event,
    len: usize,
    calls: CallsRef,
    cx: *mut (),
) {
    if len == 0 {
        return;
    }
    // SAFETY: `open` made it, and the host uses it from one thread at a time.
    let shard = unsafe { &mut *shard.cast::<Shard<C, G, P>>() };
    // SAFETY: the host lends `len` events for this call.
    let events = unsafe { std::slice::from_raw_parts(events, len) };
    let calls = Calls { calls, cx };
    shard.lend(Some(calls));
    for (index, event) in events.iter().enumerate() {
        // SAFETY: what an event points to is lent for this call, which outlives the view.
        let event = unsafe { Incoming::view(event) };
        let (result, promises) = Seen::during(|| catch(|| shard.handle(&event)));
        let result = result.unwrap_or_else(|panic| Err(Fault::Panicked(panic)));
        // State is written to be read, which is noticed there.
        if event.kind != abi::event::SNAPSHOT {
            promises.into_iter().for_each(|promise| calls.tell(promise));
        }
        if calls.done(index, &result) == go::BACK {
            break;
        }
    }
    shard.lend(None);
}

unsafe extern "C" fn close<C: Channel<P>, G: Connect<P>, P: Plugin>(shard: *mut ()) -> u32 {
    // SAFETY: `open` made it, and the host gives it back once.
    let shard = unsafe { Box::from_raw(shard.cast::<Shard<C, G, P>>()) };
    match catch(move || shard.close()).unwrap_or_else(|panic| Err(Fault::Panicked(panic))) {
        Ok(()) => 0,
        Err(fault) => {
            tracing::error!(panic = fault.message(), "panicked while a shard was closed");
            1
        }
    }
}

unsafe extern "C" fn shutdown<P: Plugin>(plugin: *mut (), deadline_ms: u32) -> u32 {
    // SAFETY: `init` made it, and the host gives it back once.
    let generation = unsafe { Arc::from_raw(plugin.cast_const().cast::<Generation<P>>()) };
    let host = Arc::clone(&generation.host);
    let Some(Generation {
        plugin, threads, tasks, ..
    }) = Arc::into_inner(generation)
    else {
        // A shard is still open: nothing can be dropped.
        return 1;
    };
    let (start, deadline) = (Instant::now(), Duration::from_millis(deadline_ms.into()));
    // The plugin's value first: dropping it is how an author tells the threads to end.
    let dropped = tasks.inside(|| drop_caught(plugin));
    if let Err(panic) = &dropped {
        tracing::error!(panic, "panicked while the plugin was dropped");
    }
    let ended = threads.join_all(deadline) & tasks.end(deadline.saturating_sub(start.elapsed()));
    let_go(&host);
    u32::from(dropped.is_err() || !ended)
}

/// From here on nothing of this library calls the host.
fn let_go(host: &Arc<HostHandle>) {
    host.close();
    log::detach(host);
    remove_hook();
}

/// Hands `text` to the host, and says that something went wrong.
fn write(out: Writer, text: &str) -> u32 {
    // SAFETY: the host lends `out` for the call that this is in.
    unsafe { (out.write)(out.cx, Bytes::lend(text.as_bytes())) };
    1
}

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
    unsafe fn view(event: &abi::Event) -> Self {
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

/// The host's functions for one call of `handle`. Never used after it: [`Shard::lend`] takes them back.
#[derive(Clone, Copy)]
pub(crate) struct Calls {
    calls: CallsRef,
    cx: *mut (),
}

impl Calls {
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

    /// Tells who answers for a promise from now on.
    fn tell(self, promise: Seen) {
        let (kind, token) = match promise {
            Seen::Read(token) => (abi::effect::PROMISE_READ, token),
            Seen::Written(token) => (abi::effect::PROMISE_WRITTEN, token),
        };
        // A host that does not know this answers `UNKNOWN`: to it all promises are alike.
        self.effect(&Effect {
            kind,
            token,
            ..Effect::default()
        });
    }

    /// Reads one of [`abi::read`] as JSON; otherwise one of [`error`].
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

    fn done(self, index: usize, result: &Result<(), Fault>) -> u32 {
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

/// The host's functions for any thread, until the generation is shut down.
pub(crate) struct HostHandle {
    host: HostRef,
    cx: *const (),
    /// Held for reading during each call, so that `close` waits for the last one.
    open: RwLock<bool>,
}

// SAFETY: the host's functions may be called on any thread with this `cx`, as `abi::Host` says.
unsafe impl Send for HostHandle {}
// SAFETY: as above.
unsafe impl Sync for HostHandle {}

impl HostHandle {
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

    /// Whether anybody wants lines of this level from this part of the plugin's code.
    pub(crate) fn log_enabled(&self, level: u32, target: &str) -> bool {
        let target = Bytes::lend(target.as_bytes());
        self.call(|host, cx| match host.log_enabled() {
            // SAFETY: before `shutdown` returned; the host reads during the call.
            Some(enabled) => unsafe { enabled(cx, level, target) }.into(),
            // An older host filters what it gets.
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

    /// Has the host look where this thread is, as it panics.
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

    /// From here on the host is not called any more.
    fn close(&self) {
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

pub(crate) fn flags_of(payload: Payload<'_>) -> u32 {
    if payload.is_binary() { flag::BINARY } else { 0 }
}
