//! The C functions that a plugin exports: one [`Module`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::prefix_type::WithMetadata;

use super::{Calls, Generation, HostHandle, Incoming};
use crate::abi::{self, Bytes, CallsRef, HostRef, Module, ModuleRef, Writer, go};
use crate::channel::{Channel, try_first, try_member, try_shared};
use crate::connect::Connect;
use crate::log;
use crate::panics::{catch, drop_caught, install_hook, remove_hook};
use crate::plugin::{Plugin, read_settings};
use crate::remote::{Seen, Threads};
use crate::settings::{NoSchema, Schema};
use crate::shard::{Fault, Shard};
use crate::tasks::Tasks;
use crate::wire::SettingsError;

/// How long async work may take to end after `init` failed.
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

    /// The module that the host calls.
    pub const ROOT: ModuleRef = ModuleRef(Self::WITH_METADATA.as_prefix());

    /// The static that abi_stable looks for in the library.
    #[must_use]
    pub const fn header() -> LibHeader {
        // SAFETY: `constructor` returns a `ModuleRef`, erased by `__call_root_module_loader`.
        unsafe { LibHeader::from_constructor::<ModuleRef>(Self::constructor, CheckTypeLayout::Yes) }
    }

    extern "C" fn constructor() -> RootModuleResult {
        __call_root_module_loader(|| Self::ROOT)
    }
}

unsafe extern "C" fn check<P: Plugin>(settings: Bytes, error: Writer) -> u32 {
    // SAFETY: the host lends `settings` for this call.
    let json = unsafe { settings.as_slice() };
    let refused = match catch(|| read_settings::<P>(json).map(drop)) {
        Ok(Ok(())) => return 0,
        Ok(Err(refused)) => refused,
        Err(panic) => SettingsError {
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
        abi::event::RESTORE if state.is_empty() => try_first::<C, P>(),
        abi::event::RESTORE => try_shared::<C, P>(version, state),
        _ => try_member::<C, P>(version, state),
    });
    match read {
        Ok(Ok(())) => 0,
        Ok(Err(refused)) => write(error, &refused.to_string()),
        Err(panic) => write(error, &format!("panicked while reading it: {panic}")),
    }
}

unsafe extern "C" fn init<P: Plugin>(
    host: HostRef,
    host_cx: *const (),
    settings: Bytes,
    plugin: *mut *mut (),
    error: Writer,
) -> u32 {
    let host = Arc::new(HostHandle::new(host, host_cx));
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
    match made.unwrap_or_else(|panic| Err(format!("init panicked: {panic}"))) {
        Ok(value) => {
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
        Err(refused) => {
            tasks.end(INIT_DEADLINE);
            let_go(&host);
            write(error, &refused)
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
    let calls = Calls::new(calls, cx);
    shard.lend(Some(calls));
    for (index, event) in events.iter().enumerate() {
        // SAFETY: what an event points to is lent for this call, which outlives the view.
        let event = unsafe { Incoming::view(event) };
        let (result, promises) = Seen::during(|| catch(|| shard.handle(&event)));
        let result = result.unwrap_or_else(|panic| Err(Fault::Panicked(panic)));
        // A promise in written state is noted when the next generation reads it.
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
            tracing::error!(panic = fault.message(), "panicked while closing a shard");
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
    // The plugin's value first: authors end their threads when it is dropped.
    let dropped = tasks.inside(|| drop_caught(plugin));
    if let Err(panic) = &dropped {
        tracing::error!(panic, "panicked while dropping the plugin");
    }
    let ended = threads.join_all(deadline) & tasks.end(deadline.saturating_sub(start.elapsed()));
    let_go(&host);
    u32::from(dropped.is_err() || !ended)
}

/// After this nothing in this library calls the host.
fn let_go(host: &Arc<HostHandle>) {
    host.close();
    log::detach(host);
    remove_hook();
}

/// Writes `text` for the host. Returns 1: something went wrong.
fn write(out: Writer, text: &str) -> u32 {
    // SAFETY: the host lends `out` for the call that this is in.
    unsafe { (out.write)(out.cx, Bytes::lend(text.as_bytes())) };
    1
}
