//! Writes backtraces of panics in plugins to the log.
//!
//! The library file holds names and lines. Reading them on the thread that panics would take long, and would map the file once more,
//! for longer than the library lives. So that thread only records addresses, and a thread of the host reads the staged file. Each
//! place is shown once per generation.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{LazyLock, Mutex};

use addr2line::Loader;

use super::loader::{crash, stack};
use crate::runtime::threads;

/// Places of one generation that are shown. A plugin that panics in more places has said enough.
const MOST_PLACES: usize = 32;
/// Frames of the plugin that are shown.
const MOST_SHOWN: usize = 32;
/// Backtraces that may wait to be written. Further ones are left out.
const MOST_WAITING: usize = 64;

/// The panics of one generation.
#[derive(Debug)]
pub(super) struct Panics {
    plugin: String,
    generation: u64,
    library: PathBuf,
    shown: Mutex<HashSet<String>>,
}

/// A panic whose backtrace waits to be written.
struct Panicked {
    plugin: String,
    generation: u64,
    thread: String,
    panic: String,
    /// The staged file, open because its name may go meanwhile.
    library: File,
    addresses: Vec<u64>,
    /// The callback that the host had called, if it had.
    entry: Option<&'static str>,
}

impl Panics {
    /// For a generation that was loaded from `library`.
    pub(super) fn of(plugin: &str, generation: u64, library: &Path) -> Self {
        Self {
            plugin: plugin.to_owned(),
            generation,
            library: library.to_owned(),
            shown: Mutex::default(),
        }
    }

    /// Notes that the calling thread panics at `place` (file, line and column) with the message `panic`. Its stack is intact.
    pub(super) fn note(&self, panic: &str, place: &str) {
        let mut shown = self.shown.lock().expect("no holder panics");
        if shown.len() >= MOST_PLACES || !shown.insert(place.to_owned()) {
            return;
        }
        drop(shown);
        let Ok(library) = File::open(&self.library) else { return };
        let panicked = Panicked {
            plugin: self.plugin.clone(),
            generation: self.generation,
            thread: crash::name_of_thread(),
            panic: panic.to_owned(),
            library,
            addresses: stack::addresses(&self.library),
            entry: crash::entry_at_hand(),
        };
        static WRITER: LazyLock<SyncSender<Panicked>> = LazyLock::new(writer);
        // The thread that panics must not wait.
        let _ = WRITER.try_send(panicked);
    }
}

/// Starts the thread that writes backtraces until the process ends.
fn writer() -> SyncSender<Panicked> {
    let (sender, waiting) = mpsc::sync_channel::<Panicked>(MOST_WAITING);
    let write = move || waiting.into_iter().for_each(|panicked| panicked.write());
    if let Err(error) = threads::spawn("backtraces", write) {
        tracing::error!(%error, "no thread to write backtraces on");
    }
    sender
}

impl Panicked {
    fn write(&self) {
        let mut text = String::new();
        let frames = self.frames();
        for (number, frame) in frames.iter().take(MOST_SHOWN).enumerate() {
            let _ = write!(text, "\n{number:>4}: {frame}");
        }
        if frames.len() > MOST_SHOWN {
            let _ = write!(text, "\n      and {} more", frames.len() - MOST_SHOWN);
        }
        if let Some(entry) = self.entry {
            let _ = write!(text, "\n      called by the host: {entry}");
        }
        let Self {
            plugin,
            generation,
            thread,
            panic,
            ..
        } = self;
        tracing::error!(plugin, generation, thread, panic, backtrace = %text, "where it panicked");
    }

    /// Its frames in the plugin's own code and in the crates that it uses, the innermost first.
    fn frames(&self) -> Vec<String> {
        let loader = Loader::new(format!("/proc/self/fd/{}", self.library.as_raw_fd()));
        let loader = loader.inspect_err(|error| tracing::debug!(%error, "a library's lines cannot be read"));
        let frames = self.addresses.iter().flat_map(|address| match &loader {
            Ok(loader) => named(loader, *address),
            Err(_) => vec![Frame::unknown(*address)],
        });
        own(frames.collect()).into_iter().map(Frame::shown).collect()
    }
}

/// One function on the stack.
#[derive(Debug, PartialEq)]
struct Frame {
    function: String,
    /// File and line, if the library was built with them.
    place: Option<String>,
}

impl Frame {
    fn unknown(address: u64) -> Self {
        Self {
            function: format!("{address:#x}, in code without a name"),
            place: None,
        }
    }

    fn shown(self) -> String {
        match self.place {
            Some(place) => format!("{} at {place}", self.function),
            None => self.function,
        }
    }

    /// Whether it belongs to the standard library or the kit.
    fn is_between(&self) -> bool {
        let by_place = self.place.as_ref().is_some_and(|place| place.starts_with("/rustc/"));
        let crates = ["std::", "core::", "alloc::", "__rustc::", "bennu_plugin::"];
        by_place || crates.iter().any(|name| self.function.starts_with(name))
    }
}

/// The functions at an address: several, if one was inlined into another.
fn named(loader: &Loader, address: u64) -> Vec<Frame> {
    // Line tables name only inlined functions; the symbol names the function around them.
    let symbol = || loader.find_symbol(address).map(demangled);
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let inlined = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let place = frame.location.and_then(|at| Some(format!("{}:{}", at.file?, at.line?)));
            if let Some(function) = inlined.map(|name| demangled(&name)).or_else(symbol) {
                found.push(Frame { function, place });
            }
        }
    }
    if found.is_empty() {
        let named = symbol().map(|function| Frame { function, place: None });
        found.push(named.unwrap_or_else(|| Frame::unknown(address)));
    }
    found
}

/// A name as in the source, without the hash at its end.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// The plugin's frames: without those of the panic itself, those from where it was caught, and those of the standard library and the
/// kit in between.
fn own(frames: Vec<Frame>) -> Vec<Frame> {
    let is_panic = |frame: &Frame| {
        let names = ["rust_begin_unwind", "begin_panic", "__rust_end_short_backtrace"];
        names.iter().any(|name| frame.function.contains(name))
    };
    let caught = |frame: &Frame| {
        let names = ["std::panicking::", "std::panic::", "__rust_try"];
        names.iter().any(|name| frame.function.starts_with(name))
    };
    let begin = frames.iter().rposition(is_panic).map_or(0, |at| at + 1);
    let behind = frames.into_iter().skip(begin);
    behind
        .take_while(|frame| !caught(frame))
        .filter(|frame| !frame.is_between())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, place: &str) -> Frame {
        Frame {
            function: function.to_owned(),
            place: (!place.is_empty()).then(|| place.to_owned()),
        }
    }

    #[test]
    fn only_the_plugins_own_frames_are_shown() {
        let frames = vec![
            frame("bennu_plugin::panics::install_hook::{closure#0}", "panics.rs:40"),
            frame(
                "std::panicking::panic_with_hook",
                "/rustc/1/library/std/src/panicking.rs:1",
            ),
            frame("std::sys::backtrace::__rust_end_short_backtrace", ""),
            frame("__rustc::rust_begin_unwind", ""),
            frame("core::panicking::panic_fmt", ""),
            frame("core::option::unwrap_failed", ""),
            frame("room::find", "/a/room/src/lib.rs:7"),
            frame(
                "<core::iter::Map<I, F> as core::iter::Iterator>::next",
                "/rustc/1/library/core/src/iter.rs:2",
            ),
            frame("room::Member::handle_in", "/a/room/src/lib.rs:3"),
            frame("std::panicking::catch_unwind::do_call", ""),
            frame("bennu_plugin::glue::handle", "glue.rs:1"),
        ];
        let shown: Vec<_> = own(frames).into_iter().map(Frame::shown).collect();
        let expected = [
            "room::find at /a/room/src/lib.rs:7",
            "room::Member::handle_in at /a/room/src/lib.rs:3",
        ];
        assert_eq!(shown, expected);
    }
}
