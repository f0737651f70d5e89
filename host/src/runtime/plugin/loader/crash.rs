//! What is written down when the process crashes: in which plugin, and what that was called for.
//!
//! Each thread that calls plugins keeps in a thread-local where it is; nothing is written before a fatal signal comes, or the
//! plugin ends the process. The handlers then append one line to a file that was opened before, say the same on standard
//! error, and hand on to whatever was there before them. [`plugin::crash`](crate::runtime::plugin::crash) reads the file at the next start.
//!
//! Only async-signal-safe calls here from [`on_signal`] downwards: no allocation, no lock.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering, compiler_fence};

use bennu_plugin::abi::{self, event};

/// Longer names are cut.
const MAX_NAME: usize = 64;

/// Where a thread is.
#[derive(Clone, Copy)]
enum Place {
    /// In no plugin.
    Host,
    /// In a function of the contract that is called so.
    Call(&'static str),
    /// In `handle`, with these events; the number says which of them is at hand.
    Events(*const abi::Event, usize, *const usize),
}

thread_local! {
    // Without destructors and made at compile time: reading them in a signal handler is reading memory.
    static PLACE: Cell<Place> = const { Cell::new(Place::Host) };
    static PLUGIN: Cell<Name> = const { Cell::new(Name::EMPTY) };
    static HASH: Cell<Name> = const { Cell::new(Name::EMPTY) };
}

#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Name {
    const EMPTY: Self = Self {
        bytes: [0; MAX_NAME],
        len: 0,
    };

    fn of(text: &str) -> Self {
        let mut bytes = [0; MAX_NAME];
        let len = text.len().min(MAX_NAME);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Says whose code this thread runs from now on: the plugin's name, and the hash of its contents.
pub(in crate::runtime::plugin) fn attach(plugin: &str, hash: &str) {
    PLUGIN.set(Name::of(plugin));
    HASH.set(Name::of(hash));
}

/// Calls a function of the contract that is no `handle`.
pub(super) fn during<T>(what: &'static str, call: impl FnOnce() -> T) -> T {
    let _left = Inside::new(Place::Call(what));
    call()
}

/// For the length of a `handle`. `events` and `at` outlive what is returned.
pub(super) fn handling(events: &[abi::Event], at: *const usize) -> Inside {
    Inside::new(Place::Events(events.as_ptr(), events.len(), at))
}

/// What the host has called a plugin for on this thread, if it has.
pub(in crate::runtime::plugin) fn entry_at_hand() -> Option<&'static str> {
    match PLACE.get() {
        Place::Host => None,
        Place::Call(what) => Some(what),
        Place::Events(events, len, at) => {
            // SAFETY: `handling` promised that both outlive the call that this thread is in, and only this thread writes them.
            let at = unsafe { at.read_volatile() };
            // SAFETY: as above; it is within the events.
            (at < len).then(|| callback(unsafe { &*events.add(at) }))
        }
    }
}

/// What this thread is called, as far as the system keeps that: 15 bytes.
pub(in crate::runtime::plugin) fn name_of_thread() -> String {
    let name = thread_name();
    String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// What is known of the client `member` that the event at hand on this thread is about; `None` if there is no such event.
pub(in crate::runtime::plugin) fn info_at_hand(member: u64) -> Option<Vec<u8>> {
    let Place::Events(events, len, at) = PLACE.get() else {
        return None;
    };
    // SAFETY: `handling` promised that both outlive the call that this thread is in, and only this thread writes them.
    let at = unsafe { at.read_volatile() };
    if at >= len {
        return None;
    }
    // SAFETY: as above; it is within the events.
    let event = unsafe { &*events.add(at) };
    // SAFETY: the host's own, alive during the call.
    (event.member == member).then(|| unsafe { event.info.as_slice() }.to_vec())
}

/// The thread is in a plugin while this lives.
pub(super) struct Inside(Place);

impl Inside {
    fn new(place: Place) -> Self {
        let before = PLACE.replace(place);
        compiler_fence(Ordering::SeqCst);
        Self(before)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        PLACE.set(self.0);
    }
}

/// What a fault of memory, of arithmetic, or an abort raises.
const SIGNALS: [(libc::c_int, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];

/// The file's descriptor, never closed. Negative: there is none yet.
static FILE: AtomicI32 = AtomicI32::new(-1);
/// One line a process is enough: what follows are consequences.
static WRITTEN: AtomicBool = AtomicBool::new(false);
/// What was there before: the standard library's handler, which tells an overflow of the stack.
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// From now on a crash appends a line to `file`. Once a process.
///
/// # Errors
///
/// If the file cannot be opened, or the system refuses the handlers.
pub(in crate::runtime::plugin) fn install(file: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    if FILE
        .compare_exchange(-1, file.into_raw_fd(), Ordering::AcqRel, Ordering::Relaxed)
        .is_err()
    {
        return Ok(());
    }
    for ((signal, _), before) in SIGNALS.iter().zip(&BEFORE) {
        let mut old = MaybeUninit::uninit();
        // SAFETY: the action is whole, its handler has the signature that SA_SIGINFO asks for and is async-signal-safe;
        // `old` is written where the call succeeds, and only then read.
        let old = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(*signal, &raw const action, old.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            old.assume_init()
        };
        let _ = before.set(old);
    }
    // SAFETY: the function stays, as the program does.
    if unsafe { libc::atexit(on_exit) } != 0 {
        return Err(io::Error::other("no handler for the end of the process"));
    }
    Ok(())
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid pointer to a handler with SA_SIGINFO.
    let sent = unsafe { (*info).si_code } == libc::SI_USER;
    if !sent {
        let name = SIGNALS.iter().find(|(number, _)| *number == signal);
        write_line(name.map_or("a signal", |(_, name)| name));
    }
    // The fault happens again when this returns, and is then theirs; as is what they do about it.
    for ((signal, _), before) in SIGNALS.iter().zip(&BEFORE) {
        if let Some(before) = before.get() {
            // SAFETY: it came from the same call.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
    if sent {
        // SAFETY: it waits until this returns.
        unsafe { libc::raise(signal) };
    }
}

/// A plugin that calls `exit` ends the host as surely. The host itself never ends inside of one.
extern "C" fn on_exit() {
    if !matches!(PLACE.try_with(Cell::get), Ok(Place::Host) | Err(_)) {
        write_line("exit");
    }
}

/// Leaves the line in the file, then tells who watches.
fn write_line(how: &str) {
    if WRITTEN.swap(true, Ordering::AcqRel) {
        return;
    }
    let place = PLACE.try_with(Cell::get).unwrap_or(Place::Host);
    let plugin = PLUGIN.try_with(Cell::get).unwrap_or(Name::EMPTY);
    note(how, place, &plugin);
    if !matches!(place, Place::Host) {
        tell(how, place, &plugin);
    }
}

/// `signal=… thread=… plugin=… hash=… entry=… event=…`, with tabs between; the last four where they are known.
fn note(how: &str, place: Place, plugin: &Name) {
    let mut line = Line::to(FILE.load(Ordering::Acquire));
    line.field("signal", how.as_bytes());
    line.field("thread", &thread_name());
    // Written at once: reading on may fault once more.
    if !matches!(place, Place::Host) {
        line.field("plugin", plugin.as_bytes());
        let hash = HASH.try_with(Cell::get).unwrap_or(Name::EMPTY);
        line.field("hash", hash.as_bytes());
    }
    line.flush();
    let (entry, event) = called_for(place);
    if let Some(entry) = entry {
        line.field("entry", entry.as_bytes());
    }
    if let Some(event) = event {
        line.field("event", event);
    }
    line.end();
}

/// A sentence on standard error, which nobody writes to in pieces. If nobody reads that, the crash does not wait for it.
fn tell(how: &str, place: Place, plugin: &Name) {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: it is one entry, and the call is async-signal-safe. A pipe that takes anything takes more than one line.
    if unsafe { libc::poll(&raw mut stderr, 1, 0) } < 1 {
        return;
    }
    let mut line = Line::to(libc::STDERR_FILENO);
    line.add(b"bennu: plugin ");
    line.show(plugin.as_bytes());
    line.add(b" brings the host down: ");
    line.add(how.as_bytes());
    let (entry, event) = called_for(place);
    if let Some(entry) = entry {
        line.add(b" in ");
        line.add(entry.as_bytes());
    }
    if let Some(event) = event {
        line.add(b" of \"");
        line.show(event);
        line.add(b"\"");
    }
    line.add(b" (thread ");
    line.show(&thread_name());
    line.add(b"). The next start says so, and does not load this build again");
    line.end();
}

/// The author's name for what the plugin was called for, and the name of the event, as far as there are such.
fn called_for(place: Place) -> (Option<&'static str>, Option<&'static [u8]>) {
    match place {
        Place::Host => (None, None),
        Place::Call(what) => (Some(what), None),
        Place::Events(events, len, at) => {
            // SAFETY: `handling` promised that both outlive the call that this thread is in, and nobody else writes them.
            let at = unsafe { at.read_volatile() };
            if at >= len {
                return (None, None);
            }
            // SAFETY: as above; it is within the events. The thread does not leave the call any more.
            let event = unsafe { &*events.add(at) };
            (Some(callback(event)), name_of(event))
        }
    }
}

/// The start of the event's name, if one of its kind has one.
fn name_of(event: &'static abi::Event) -> Option<&'static [u8]> {
    let name = abi::Bytes {
        len: event.name.len.min(MAX_NAME),
        ..event.name
    };
    // SAFETY: the host's own name of the event, alive during the call that this thread does not leave any more.
    matches!(event.kind, event::IN | event::OUT | event::INFO).then(|| unsafe { name.as_slice() })
}

fn thread_name() -> [u8; 16] {
    let mut name = [0_u8; 16];
    // SAFETY: the call writes sixteen bytes at most.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// Text on the stack of a signal handler.
struct Line {
    file: libc::c_int,
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn to(file: libc::c_int) -> Self {
        Self {
            file,
            bytes: [0; 512],
            len: 0,
        }
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.add(name.as_bytes());
        self.add(b"=");
        self.show(value);
        self.add(b"\t");
    }

    /// Adds what may be anything. What is not printable becomes a question mark; a zero ends it.
    fn show(&mut self, value: &[u8]) {
        let value = value.iter().take(MAX_NAME).take_while(|byte| **byte != 0);
        for byte in value {
            let is_shown = byte.is_ascii_graphic() || *byte == b' ';
            self.add(&[if is_shown { *byte } else { b'?' }]);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.len < self.bytes.len() {
                self.bytes[self.len] = *byte;
                self.len += 1;
            }
        }
    }

    fn flush(&mut self) {
        // SAFETY: the bytes are there; what the call says of it changes nothing here.
        unsafe { libc::write(self.file, self.bytes.as_ptr().cast(), self.len) };
        self.len = 0;
    }

    fn end(mut self) {
        self.len = self.len.min(self.bytes.len() - 1);
        self.add(b"\n");
        self.flush();
    }
}

/// The name of the callback that an event calls.
fn callback(event: &abi::Event) -> &'static str {
    abi::callback_name(event.kind, event.topic, event.member)
}
