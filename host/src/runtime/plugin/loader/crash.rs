//! Records which plugin crashed the process, and what it was called for.
//!
//! Each thread that calls plugins keeps in a thread-local where it is. On a thread that a plugin has started itself, the stack
//! tells whose code it runs ([`super::code`] finds it). Nothing is written before a fatal signal comes, or a plugin calls `exit`.
//! The handlers then append one line to a file that is already open, print the same to standard error, and pass the signal on to
//! the handler before them. [`plugin::crash`](crate::runtime::plugin::crash) reads the file at the next start.
//!
//! From [`on_signal`] down there are only async-signal-safe calls: no allocation, no lock.

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

use super::code::{self, Owner};

/// What a plugin runs that the host has not called.
const OWN_THREAD: &str = "a thread of its own";

/// Longer names are cut.
const MAX_NAME: usize = 64;

/// What a thread is doing.
#[derive(Clone, Copy)]
enum Place {
    /// The host's own work.
    Host,
    /// It has called this function of the contract.
    Call(&'static str),
    /// It has called `handle` with these events; the number is the index of the current one.
    Events(*const abi::Event, usize, *const usize),
}

thread_local! {
    // Without destructors and made at compile time: reading them in a signal handler is reading memory.
    static PLACE: Cell<Place> = const { Cell::new(Place::Host) };
    static PLUGIN: Cell<Name> = const { Cell::new(Name::EMPTY) };
    static HASH: Cell<Name> = const { Cell::new(Name::EMPTY) };
}

/// A text that a signal handler can read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Name {
    const EMPTY: Self = Self {
        bytes: [0; MAX_NAME],
        len: 0,
    };

    pub(super) fn of(text: &str) -> Self {
        let mut bytes = [0; MAX_NAME];
        let len = text.len().min(MAX_NAME);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Notes whose code this thread runs from now on: the plugin's name, and the hash of its contents.
pub(in crate::runtime::plugin) fn attach(plugin: &str, hash: &str) {
    PLUGIN.set(Name::of(plugin));
    HASH.set(Name::of(hash));
}

/// Calls a function of the contract other than `handle`.
pub(super) fn during<T>(what: &'static str, call: impl FnOnce() -> T) -> T {
    let _left = Inside::new(Place::Call(what));
    call()
}

/// Notes a call of `handle` until the returned value is dropped, which `events` and `at` must outlive.
pub(super) fn handling(events: &[abi::Event], at: *const usize) -> Inside {
    Inside::new(Place::Events(events.as_ptr(), events.len(), at))
}

/// The callback that the host has called on this thread, if it has called one.
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

/// The name of this thread, of which the system keeps 15 bytes.
pub(in crate::runtime::plugin) fn name_of_thread() -> String {
    let name = thread_name();
    String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// What is known about the client `member`, if the current event on this thread is about it.
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

/// The signals of crashes: faults of memory and arithmetic, and aborts.
const SIGNALS: [(libc::c_int, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];

/// The file's descriptor, never closed. Negative before [`install`].
static FILE: AtomicI32 = AtomicI32::new(-1);
/// One line for a process is enough: whatever comes after it is a consequence.
static WRITTEN: AtomicBool = AtomicBool::new(false);
/// The handlers before these: the standard library's, which reports a stack overflow.
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

/// A signal of a crash has come: the handlers are no longer the host's.
pub(super) fn has_begun() -> bool {
    WRITTEN.load(Ordering::Acquire)
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid pointer to a handler with SA_SIGINFO.
    let sent = unsafe { (*info).si_code } == libc::SI_USER;
    if !sent {
        let name = SIGNALS.iter().find(|(number, _)| *number == signal);
        // SAFETY: as above.
        let (at, stack) = unsafe { registers(context) };
        write_line(name.map_or("a signal", |(_, name)| name), &Culprit::find(at, stack));
    }
    // The fault happens again when this returns, and the earlier handlers get it.
    for ((signal, _), before) in SIGNALS.iter().zip(&BEFORE) {
        if let Some(before) = before.get() {
            // SAFETY: it came from the same call.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
    if sent {
        // SAFETY: the signal is blocked until this returns.
        unsafe { libc::raise(signal) };
    }
}

/// A plugin that calls `exit` ends the host as surely. The host itself calls it only where no plugin's code is on the stack.
extern "C" fn on_exit() {
    let here = 0_u64;
    let culprit = Culprit::find(0, (&raw const here).addr());
    if culprit.names.is_some() {
        write_line("exit", &culprit);
    }
}

/// Where the thread was when its signal came, and where its stack ends.
///
/// # Safety
///
/// `context` is what the kernel gives a handler.
unsafe fn registers(context: *mut libc::c_void) -> (usize, usize) {
    // SAFETY: promised by the caller.
    let context = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let (at, stack) = (
        context.gregs[libc::REG_RIP as usize].cast_unsigned(),
        context.gregs[libc::REG_RSP as usize].cast_unsigned(),
    );
    #[cfg(target_arch = "aarch64")]
    let (at, stack) = (context.pc, context.sp);
    (at as usize, stack as usize)
}

/// Whose code a thread runs in the moment of `context`, or returns to. Async-signal-safe.
///
/// # Safety
///
/// `context` is what the kernel gives a handler.
pub(super) unsafe fn owner_in(context: *mut libc::c_void) -> Option<&'static Owner> {
    // SAFETY: promised by the caller.
    let (at, stack) = unsafe { registers(context) };
    code::owner_of(at).or_else(|| owner_on_stack(stack))
}

/// Who is to blame.
struct Culprit {
    place: Place,
    /// The plugin and the hash of its contents, if it was a plugin.
    names: Option<(Name, Name)>,
}

impl Culprit {
    /// The plugin that the host has called on this thread; otherwise the one whose code it runs, or returns to next.
    fn find(at: usize, stack: usize) -> Self {
        let place = PLACE.try_with(Cell::get).unwrap_or(Place::Host);
        if matches!(place, Place::Host) {
            let owner = code::owner_of(at).or_else(|| owner_on_stack(stack));
            let names = owner.map(|owner| owner.names);
            return Self { place, names };
        }
        let read = |name: &'static std::thread::LocalKey<Cell<Name>>| name.try_with(Cell::get).unwrap_or(Name::EMPTY);
        Self {
            place,
            names: Some((read(&PLUGIN), read(&HASH))),
        }
    }

    /// The author's name for the callback, and the name of the event, if there are any.
    fn called_for(&self) -> (Option<&'static str>, Option<&'static [u8]>) {
        match self.place {
            Place::Host if self.names.is_some() => (Some(OWN_THREAD), None),
            place => called_for(place),
        }
    }
}

/// The first address on the stack that lies in a library. Reads by a system call, which fails where nothing is mapped.
///
/// A thread of the host runs a plugin's code only while the host calls it. Otherwise what looks like that is left from an earlier
/// thread, whose stack it has.
fn owner_on_stack(stack: usize) -> Option<&'static Owner> {
    /// As far up as frames are looked for.
    const MOST: usize = 1 << 20;
    let is_called = !matches!(PLACE.try_with(Cell::get), Ok(Place::Host));
    if is_called || !is_of_the_host() {
        find_on_stack(stack, MOST, code::owner_of)
    } else {
        None
    }
}

/// Whether this thread was started with a function of this program. The C library keeps that function in what it keeps of a thread.
fn is_of_the_host() -> bool {
    /// As much of that as is looked at, in bytes.
    const KEPT: usize = 2304;
    unsafe extern "C" {
        /// Where the program begins, and where its code ends: linkers define both.
        static __executable_start: u8;
        static etext: u8;
    }
    let program = (&raw const __executable_start).addr()..(&raw const etext).addr();
    // SAFETY: it has no conditions.
    let kept = unsafe { libc::pthread_self() } as usize;
    let whose = |word: usize| match code::owner_of(word) {
        Some(_) => Some(false),
        None => program.contains(&word).then_some(true),
    };
    find_on_stack(kept, KEPT, whose) == Some(true)
}

/// The first of what `wanted` finds among `most` bytes of words from an address on.
fn find_on_stack<T>(stack: usize, most: usize, wanted: impl Fn(usize) -> Option<T>) -> Option<T> {
    /// Pages are a multiple of this, so that no read crosses the end of what is mapped.
    const CHUNK: usize = 1024;
    let mut words = [0_usize; CHUNK / size_of::<usize>()];
    let (mut from, end) = (stack & !(size_of::<usize>() - 1), stack.saturating_add(most));
    while from < end {
        let len = CHUNK - from % CHUNK;
        let local = libc::iovec {
            iov_base: words.as_mut_ptr().cast(),
            iov_len: len,
        };
        let remote = libc::iovec {
            iov_base: ptr::without_provenance_mut(from),
            iov_len: len,
        };
        // SAFETY: `len` is no more than the local buffer has; the system checks the other address itself.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        if read.cast_unsigned() != len {
            return None;
        }
        let found = words[..len / size_of::<usize>()].iter();
        if let Some(found) = found.copied().find_map(&wanted) {
            return Some(found);
        }
        from += len;
    }
    None
}

/// Leaves the line in the file, then prints it for whoever watches.
fn write_line(how: &str, culprit: &Culprit) {
    if WRITTEN.swap(true, Ordering::AcqRel) {
        return;
    }
    let is_noted = note(how, culprit);
    tell(how, culprit, is_noted);
}

/// `signal=… thread=… plugin=… hash=… entry=… event=…`, with tabs between; the last four where they are known. `false`: the file has
/// not taken it, as the disk is full or the file is gone.
fn note(how: &str, culprit: &Culprit) -> bool {
    let mut line = Line::to(FILE.load(Ordering::Acquire));
    line.field("signal", how.as_bytes());
    line.field("thread", &thread_name());
    if let Some((plugin, hash)) = &culprit.names {
        line.field("plugin", plugin.as_bytes());
        line.field("hash", hash.as_bytes());
    }
    // Written at once: reading on may fault once more.
    let is_noted = line.flush() && is_linked(line.file);
    let (entry, event) = culprit.called_for();
    if let Some(entry) = entry {
        line.field("entry", entry.as_bytes());
    }
    if let Some(event) = event {
        line.field("event", event);
    }
    line.end();
    is_noted
}

/// Whether a file still has a name. Async-signal-safe.
fn is_linked(file: libc::c_int) -> bool {
    // SAFETY: all zeros is a `stat`, which the call fills in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above; `fstat` is async-signal-safe.
    unsafe { libc::fstat(file, &raw mut stat) == 0 && stat.st_nlink > 0 }
}

/// The sentence on standard error is to be JSON, as the log is.
static JSON: AtomicBool = AtomicBool::new(false);

/// Whether the line about a crash is JSON.
pub(crate) fn write_json(is_json: bool) {
    JSON.store(is_json, Ordering::Release);
}

/// Prints a sentence to standard error, in one write. If nobody reads that, the crash does not wait for it.
fn tell(how: &str, culprit: &Culprit, is_noted: bool) {
    let Some((plugin, _)) = &culprit.names else { return };
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
    line.json = JSON.load(Ordering::Acquire);
    let quote: &[u8] = if line.json { b"\\\"" } else { b"\"" };
    line.add(if line.json {
        b"{\"level\":\"ERROR\",\"target\":\"bennu\",\"message\":\"plugin "
    } else {
        b"bennu: plugin "
    });
    line.show(plugin.as_bytes());
    line.add(b" crashed the server: ");
    line.add(how.as_bytes());
    let (entry, event) = culprit.called_for();
    if let Some(entry) = entry {
        line.add(b" in ");
        line.add(entry.as_bytes());
    }
    if let Some(event) = event {
        line.add(b" of ");
        line.add(quote);
        line.show(event);
        line.add(quote);
    }
    line.add(b" (thread ");
    line.show(&thread_name());
    line.add(if is_noted {
        b"). The next start puts this build in quarantine"
    } else {
        b"). This could not be noted in `state_dir`, so the next start loads this build again"
    });
    line.end();
}

/// The author's name for the callback, and the name of the event, if there are any.
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

/// The start of the event's name, if its kind has one.
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
    /// It is a JSON object: nothing in it may end a text.
    json: bool,
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn to(file: libc::c_int) -> Self {
        Self {
            file,
            json: false,
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

    /// Adds untrusted bytes. Unprintable ones become question marks; a zero ends the text.
    fn show(&mut self, value: &[u8]) {
        let value = value.iter().take(MAX_NAME).take_while(|byte| **byte != 0);
        for byte in value {
            let ends_text = self.json && matches!(byte, b'"' | b'\\');
            let is_shown = (byte.is_ascii_graphic() || *byte == b' ') && !ends_text;
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

    /// Whether all of it was written.
    fn flush(&mut self) -> bool {
        // SAFETY: the bytes are there.
        let written = unsafe { libc::write(self.file, self.bytes.as_ptr().cast(), self.len) };
        let is_whole = usize::try_from(written) == Ok(self.len);
        self.len = 0;
        is_whole
    }

    fn end(mut self) {
        let end: &[u8] = if self.json { b"\"}\n" } else { b"\n" };
        self.len = self.len.min(self.bytes.len() - end.len());
        self.add(end);
        self.flush();
    }
}

/// The author's name for the callback of an event.
fn callback(event: &abi::Event) -> &'static str {
    abi::callback_name(event.kind, event.topic, event.member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_the_host_has_started_is_known() {
        assert!(std::thread::spawn(is_of_the_host).join().unwrap());
    }
}
