//! The process's signal handlers are the host's: what a plugin puts in their place is put back.
//!
//! [`remember`] notes what is there before the first library is loaded, and [`look`] compares. A handler for a signal that
//! nobody handled before stays; its library is noted ([`Owner::handled`]) and never unmapped, as another handler may have
//! kept its address to call it. [`guard`] keeps the signals that end the server from a plugin's handler.
//!
//! A timer whose signal nobody handles would end the process without a trace. For the signals that timers send, a handler of the
//! host's stands in: it ignores the timer and [`fired`] tells.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::code::{self, Owner};
use super::{ask, crash};
use crate::runtime::threads;

/// Signals that have a number of their own. Beyond are those of the C library.
const LAST: libc::c_int = 64;

/// What each signal did before plugins came; empty until then.
static BEFORE: Mutex<Vec<Disposition>> = Mutex::new(Vec::new());

struct Disposition {
    signal: libc::c_int,
    action: libc::sigaction,
    /// The host's handler only stands in for the system's default: anybody may have the signal.
    stands_in: bool,
}

/// Signals of timers whose handler was the host's, a bit each, until somebody asks.
static FIRED: AtomicU64 = AtomicU64::new(0);

/// A handler that was not there before.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// Such as `SIGTERM`.
    pub(crate) signal: String,
    /// Whose code it is; `None`: it was set to be ignored, or to what the system does by itself.
    pub(crate) owner: Option<&'static Owner>,
    /// The host's handler is back in its place.
    pub(crate) put_back: bool,
}

/// Notes the handlers of this moment as the host's. Only the first call counts.
pub(crate) fn remember() {
    let mut before = lock();
    if before.is_empty() {
        let actions = (1..=LAST).filter_map(|signal| Some((signal, read(signal)?)));
        before.extend(actions.map(|(signal, action)| Disposition::of(signal, action)));
    }
}

impl Disposition {
    fn of(signal: libc::c_int, action: libc::sigaction) -> Self {
        let is_free = action.sa_sigaction == libc::SIG_DFL && is_of_timers(signal);
        let stand_in = is_free.then(|| stand_in(signal)).flatten();
        Self {
            signal,
            action: stand_in.unwrap_or(action),
            stands_in: stand_in.is_some(),
        }
    }
}

/// Whether timers send it, and nothing else of the system does. The real-time signals below are the C library's.
fn is_of_timers(signal: libc::c_int) -> bool {
    const FIRST_REAL_TIME: libc::c_int = 34;
    let known = [
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ];
    known.contains(&signal) || signal >= FIRST_REAL_TIME
}

/// Handles a signal in the place of the system.
fn stand_in(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: the action is whole, and its handler has the signature that SA_SIGINFO asks for and is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_timer;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        (libc::sigaction(signal, &raw const action, ptr::null_mut()) == 0).then_some(action)
    }
}

/// Ignores a timer. A signal that somebody has sent does what it would do without this handler.
extern "C" fn on_timer(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// As the kernel marks signals of its own, such as those of interval timers.
    const OF_THE_KERNEL: libc::c_int = 0x80;
    // SAFETY: the kernel hands a valid pointer to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if matches!(code, libc::SI_TIMER | OF_THE_KERNEL) {
        FIRED.fetch_or(1_u64 << (signal - 1), Ordering::Relaxed);
        return;
    }
    if code == libc::SI_TKILL && signal == ask::SIGNAL {
        // SAFETY: the kernel's own.
        unsafe { ask::answer(context) };
        return;
    }
    // SAFETY: both are async-signal-safe; the signal waits until this returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Whether the host's handler that stands in for the system's default is there.
pub(super) fn is_stand_in(signal: libc::c_int) -> bool {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_timer;
    read(signal).is_some_and(|now| now.sa_sigaction == handler as libc::sighandler_t)
}

/// The signals of timers that fired since the last call and that nobody handled.
pub(crate) fn fired() -> Vec<String> {
    let fired = FIRED.swap(0, Ordering::Relaxed);
    let signals = (1..=LAST).filter(|signal| fired & (1_u64 << (signal - 1)) != 0);
    signals.map(name).collect()
}

/// Finds the handlers that are not the host's any more, and puts back those that it had. Returns what is new since the last look.
pub(crate) fn look() -> Vec<Changed> {
    let mut changed = Vec::new();
    // A crash has set its signals to what was before the host.
    if crash::has_begun() {
        return changed;
    }
    for before in lock().iter_mut() {
        let Some(now) = read(before.signal) else { continue };
        if now.sa_sigaction == before.action.sa_sigaction {
            continue;
        }
        let owner = code::owner_of(now.sa_sigaction);
        let is_plain = matches!(now.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
        if owner.is_none() && !is_plain {
            // A handler of the program that has the server inside.
            before.action = now;
            continue;
        }
        let put_back = before.action.sa_sigaction != libc::SIG_DFL && !before.stands_in;
        if put_back || before.stands_in && now.sa_sigaction == libc::SIG_DFL {
            // SAFETY: the action is what the system said before.
            unsafe { libc::sigaction(before.signal, &raw const before.action, ptr::null_mut()) };
        }
        if !put_back && owner.is_none() {
            continue;
        }
        let is_new = owner.is_none_or(|owner| owner.handles(before.signal));
        if is_new {
            let signal = name(before.signal);
            changed.push(Changed {
                signal,
                owner,
                put_back,
            });
        }
    }
    changed
}

/// What it is called.
pub(crate) fn name(signal: libc::c_int) -> String {
    let known = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    let found = known.iter().find(|(number, _)| *number == signal);
    found.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// Has a thread of the host's own take SIGTERM, SIGINT and SIGHUP, and hand them to the host's handlers. Call it before other
/// threads are started: they must not take them.
///
/// # Errors
///
/// If the system gives no thread.
pub(crate) fn guard() -> io::Result<()> {
    let mut guarded = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is made by the first call, and whole then.
    let guarded = unsafe {
        libc::sigemptyset(guarded.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(guarded.as_mut_ptr(), signal);
        }
        guarded.assume_init()
    };
    mask(libc::SIG_BLOCK, &guarded);
    threads::spawn("signals", move || take(&guarded)).map(drop)
}

fn take(guarded: &libc::sigset_t) -> ! {
    loop {
        let mut signal = 0;
        // SAFETY: both are there during the call.
        if unsafe { libc::sigwait(guarded, &raw mut signal) } != 0 {
            continue;
        }
        for changed in look() {
            changed.say();
        }
        mask(libc::SIG_UNBLOCK, guarded);
        // SAFETY: it goes to this thread, where it is handled before the call returns.
        unsafe { libc::raise(signal) };
        mask(libc::SIG_BLOCK, guarded);
    }
}

fn mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: the set is whole; the mask is this thread's own.
    unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) };
}

impl Changed {
    /// Says it in the log.
    pub(crate) fn say(&self) {
        let Self {
            signal,
            owner,
            put_back,
        } = self;
        let plugin = owner.map(|owner| &*owner.plugin);
        let generation = owner.map(|owner| owner.generation);
        if *put_back {
            tracing::error!(
                plugin,
                generation,
                signal,
                "a plugin replaced a signal handler of the server. Bennu has restored it. Do not handle this signal in the plugin"
            );
        } else {
            tracing::warn!(
                plugin,
                generation,
                signal,
                "a plugin handles a signal: its library stays in memory when it is replaced"
            );
        }
    }
}

/// What a signal does now; `None`: nobody may know.
fn read(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: all bits zero are an action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only asks; the answer is written where it succeeds.
    (unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } == 0).then_some(action)
}

fn lock() -> MutexGuard<'static, Vec<Disposition>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
