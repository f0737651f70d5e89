//! Where the code of loaded libraries lies in memory, so that an address tells whose it is.
//!
//! The table is read in signal handlers: it has a fixed size, no lock, and its owners are never freed (some 200 bytes for each
//! library that was ever loaded).

use std::ops::Range;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::crash::Name;
use super::objects::Object;

/// Pieces of code that the table has room for. What is loaded beyond is not known by its address.
const MOST_PIECES: usize = 1024;

/// A library that is or was loaded, as a crash or a signal handler of it is put down to.
#[derive(Debug)]
pub(crate) struct Owner {
    /// The plugin's name in the configuration.
    pub(crate) plugin: String,
    /// Which load of it; 0: none that serves.
    pub(crate) generation: u64,
    /// The same two as a signal handler can write them: the plugin's name, and the hash of its contents.
    pub(super) names: (Name, Name),
    /// The signals that it was ever seen to handle, a bit each.
    handled: AtomicU64,
}

impl Owner {
    /// An owner that stays for ever.
    pub(in crate::runtime::plugin) fn new(plugin: &str, generation: u64, hash: &str) -> &'static Self {
        Box::leak(Box::new(Self {
            plugin: plugin.to_owned(),
            generation,
            names: (Name::of(plugin), Name::of(hash)),
            handled: AtomicU64::new(0),
        }))
    }

    /// Notes that it handles a signal. `false`: that was known.
    pub(super) fn handles(&self, signal: libc::c_int) -> bool {
        let bit = 1_u64 << (signal - 1);
        self.handled.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// The signals that it was ever seen to handle.
    pub(crate) fn handled(&self) -> impl Iterator<Item = libc::c_int> {
        let handled = self.handled.load(Ordering::Acquire);
        (1..=64).filter(move |signal| handled & (1_u64 << (signal - 1)) != 0)
    }
}

/// A piece of code. It counts while it has an owner.
struct Piece {
    owner: AtomicPtr<Owner>,
    start: AtomicUsize,
    end: AtomicUsize,
}

static PIECES: [Piece; MOST_PIECES] = [const {
    Piece {
        owner: AtomicPtr::new(ptr::null_mut()),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
    }
}; MOST_PIECES];

/// None behind this one was ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Only one thread writes at a time.
static WRITING: Mutex<()> = Mutex::new(());

/// Notes that all code of `objects` is `owner`'s.
pub(super) fn add(owner: &'static Owner, objects: &[Object]) {
    let _writing = WRITING.lock().expect("no holder panics");
    let mut free = PIECES
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.owner.load(Ordering::Relaxed).is_null());
    for code in objects.iter().flat_map(|object| &object.code) {
        let Some((at, piece)) = free.next() else {
            tracing::warn!(
                plugin = owner.plugin,
                "too many libraries are loaded: Bennu may not be able to say which plugin caused a crash"
            );
            return;
        };
        piece.start.store(code.start, Ordering::Relaxed);
        piece.end.store(code.end, Ordering::Relaxed);
        piece.owner.store(ptr::from_ref(owner).cast_mut(), Ordering::Release);
        USED.fetch_max(at + 1, Ordering::Release);
    }
}

/// Nothing is `owner`'s any more.
pub(super) fn remove(owner: &'static Owner) {
    let _writing = WRITING.lock().expect("no holder panics");
    for piece in &PIECES {
        if ptr::eq(piece.owner.load(Ordering::Relaxed), owner) {
            piece.owner.store(ptr::null_mut(), Ordering::Release);
        }
    }
}

/// Whose code an address lies in, if it lies in a plugin's. Async-signal-safe.
pub(crate) fn owner_of(address: usize) -> Option<&'static Owner> {
    let used = &PIECES[..USED.load(Ordering::Acquire)];
    used.iter().find_map(|piece| {
        // SAFETY: null, or from `add`, which got a reference that lasts for ever.
        let owner = unsafe { piece.owner.load(Ordering::Acquire).as_ref() }?;
        piece.code().contains(&address).then_some(owner)
    })
}

impl Piece {
    fn code(&self) -> Range<usize> {
        self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)
    }
}
