//! POSIX timers that start a thread in a library. Those that send a signal are its handler's matter.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::runtime::plugin::loader::{Owner, owner_of};

/// The C library's own signal, by which it starts a thread for a timer.
const STARTS_A_THREAD: u32 = 32;
/// What the C library keeps of such a timer; the function that it calls stands in it.
const KEPT: usize = 64;

/// A timer of this process.
pub(super) struct Timer {
    /// Numbers are not used again while the process lives.
    pub(super) id: u64,
    signal: u32,
    value: u64,
}

/// All of them. None where the system does not list them.
pub(super) fn all() -> Vec<Timer> {
    parse(&fs::read_to_string("/proc/self/timers").unwrap_or_default())
}

/// How many came after `before` and call the library of `owner`.
pub(super) fn of(before: &[u64], owner: &'static Owner) -> usize {
    let timers = all().into_iter();
    let new = timers.filter(|timer| timer.signal == STARTS_A_THREAD && !before.contains(&timer.id));
    new.filter(|timer| timer.calls(owner)).count()
}

impl Timer {
    fn calls(&self, owner: &'static Owner) -> bool {
        let mut kept = [0; KEPT];
        let read = File::open("/proc/self/mem").and_then(|memory| memory.read_exact_at(&mut kept, self.value));
        let words = kept.chunks_exact(8);
        let mut words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let is_owners = |word: u64| {
            let found = usize::try_from(word).ok().and_then(owner_of);
            found.is_some_and(|found| std::ptr::eq(found, owner))
        };
        read.is_err() || words.any(is_owners)
    }
}

/// Reads lines such as `ID: 0` and `signal: 14/0000000000000000`; others say nothing here.
fn parse(text: &str) -> Vec<Timer> {
    let mut timers: Vec<Timer> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match (name, timers.last_mut()) {
            ("ID", _) => timers.extend(value.parse().ok().map(|id| Timer {
                id,
                signal: 0,
                value: 0,
            })),
            ("signal", Some(timer)) => {
                let (signal, value) = value.split_once('/').unwrap_or((value, ""));
                timer.signal = signal.parse().unwrap_or_default();
                timer.value = u64::from_str_radix(value, 16).unwrap_or_default();
            }
            _ => {}
        }
    }
    timers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_with_their_signals() {
        let text = "ID: 0\nsignal: 14/0000000000000000\nnotify: signal/pid.7\nClockID: 1\n\
                    ID: 3\nsignal: 32/00007f0000001000\nnotify: signal/tid.9\nClockID: 1\n";
        let timers = parse(text);
        let read: Vec<_> = timers
            .iter()
            .map(|timer| (timer.id, timer.signal, timer.value))
            .collect();
        assert_eq!(read, [(0, 14, 0), (3, 32, 0x7f00_0000_1000)]);
        assert!(parse("").is_empty());
    }
}
