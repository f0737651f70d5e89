//! Catches panics on the plugin's side. None may reach the host: it could not catch them.
//!
//! The hook notes message and place, and lets the host take a backtrace. It takes none itself: symbolising one maps the library's
//! file, and that mapping would outlive the library.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Once};

use crate::glue::HostHandle;

thread_local! {
    /// The number of [`catch`] calls on this thread's stack.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What the hook noted about the last panic.
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`. The error is the message of a panic; the caller decides about what `work` left half done.
pub(crate) fn catch<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        let message = NOTED.take().unwrap_or_else(|| text_of(payload.as_ref()).to_owned());
        drop_quietly(payload);
        message
    })
}

/// Drops `value`. The error is the message of a panic in its `Drop`.
pub(crate) fn drop_caught<T>(value: T) -> Result<(), String> {
    catch(move || drop(value))
}

/// Whether the process is a test's: see [`share_hook`].
static SHARED: Once = Once::new();

/// Installs the hook of a test, once for the process. It notes the panics that are caught here, and leaves others to the hook
/// before it.
pub(crate) fn share_hook() {
    SHARED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match DEPTH.get() {
            0 => before(info),
            _ => NOTED.set(Some(describe(info))),
        }));
    });
}

/// Installs the hook. It notes panics for [`catch`], and logs those that nothing catches.
pub(crate) fn install_hook(host: &Arc<HostHandle>) {
    if SHARED.is_completed() {
        return;
    }
    let host = Arc::clone(host);
    panic::set_hook(Box::new(move |info| {
        let message = describe(info);
        let place = info.location().map(ToString::to_string);
        host.panicked(&message, &place.unwrap_or_default());
        if DEPTH.get() > 0 {
            NOTED.set(Some(message));
        } else {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed");
            tracing::error!(thread = name, panic = message, "a thread panicked");
        }
    }));
}

/// Removes the hook, and with it the host's handle.
pub(crate) fn remove_hook() {
    if !SHARED.is_completed() {
        drop(panic::take_hook());
    }
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let text = text_of(info.payload());
    match info.location() {
        Some(place) => format!("{text} ({place})"),
        None => text.to_owned(),
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panicked without a message")
}

/// The payload of a panic may be anything, even a value whose drop panics.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(again) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(again);
    }
    NOTED.take();
}
