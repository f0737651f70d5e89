//! Asks a thread that computes whose code it runs.
//!
//! Of a thread that waits in a system call the system tells where its stack is, of one that computes it does not. So the thread is
//! sent a signal whose handler is the host's, and looks itself.

use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::code::Owner;
use super::crash;

/// The signal that asks: of those that nobody uses, and whose handler stands in for the system's default.
pub(super) const SIGNAL: libc::c_int = 63;
/// A thread answers when the system lets it run again: soon, unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// One question at a time.
static ASKING: Mutex<()> = Mutex::new(());
/// The thread that is asked; 0: none.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// What it runs. Null: nothing of a plugin's.
static ANSWER: AtomicPtr<Owner> = AtomicPtr::new(ptr::null_mut());

/// Whose code a thread of this process runs, or returns to: `Some(None)` if no plugin's, `None` if it does not answer.
pub(crate) fn whose_code(thread: u32) -> Option<Option<&'static Owner>> {
    let _asking = ASKING.lock().expect("no holder panics");
    if !super::signals::is_stand_in(SIGNAL) || blocks(thread) {
        return None;
    }
    ANSWER.store(ptr::null_mut(), Ordering::Relaxed);
    ASKED.store(thread, Ordering::Release);
    // SAFETY: only sends a signal that this process handles.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) } == 0;
    if !sent {
        // It has ended.
        ASKED.store(0, Ordering::Release);
        return Some(None);
    }
    let since = Instant::now();
    while ASKED.load(Ordering::Acquire) == thread {
        if since.elapsed() >= PATIENCE {
            // It may still get the signal, and then answers to nobody.
            ASKED.store(0, Ordering::Release);
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: null, or from `answer`, which got a reference that lasts for ever.
    Some(unsafe { ANSWER.load(Ordering::Relaxed).as_ref() })
}

/// Whether a thread blocks the signal.
fn blocks(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << (SIGNAL - 1)) != 0)
}

/// In the signal's handler: answers, if this thread is asked. Async-signal-safe.
///
/// # Safety
///
/// `context` is what the kernel gives a handler.
pub(super) unsafe fn answer(context: *mut libc::c_void) {
    // SAFETY: takes nothing, and always succeeds.
    let this = unsafe { libc::syscall(libc::SYS_gettid) };
    if u32::try_from(this) != Ok(ASKED.load(Ordering::Acquire)) {
        return;
    }
    // SAFETY: promised by the caller.
    let owner = unsafe { crash::owner_in(context) };
    let owner = owner.map_or(ptr::null_mut(), |owner| ptr::from_ref(owner).cast_mut());
    ANSWER.store(owner, Ordering::Relaxed);
    ASKED.store(0, Ordering::Release);
}
