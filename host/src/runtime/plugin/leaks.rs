//! Measures how much memory and how many open files each reload of a plugin leaves behind.
//!
//! What statics of a library hold is not freed when the library is unloaded. Nobody can count it, but the process grows by it at each
//! reload. Clients make it grow too, so the least of the last few reloads counts. Sockets are not among the files: most are clients'.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::{fs, io};

/// Reloads that are looked at.
const RECENT: usize = 3;
/// Reloads that say something: the first ones grow what stays as large.
const LEAST: usize = 2;

/// How an amount has changed with the reloads so far.
#[derive(Debug, Default)]
struct Reloads {
    /// The amount after the last one of any plugin.
    last: Option<u64>,
    /// By how much the last ones have made it grow, by plugin.
    growth: BTreeMap<String, VecDeque<u64>>,
}

static MEMORY: Mutex<Reloads> = Mutex::new(Reloads::none());
static FILES: Mutex<Reloads> = Mutex::new(Reloads::none());

/// What stays at each reload, once enough reloads have shown it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaks {
    /// Memory, in bytes.
    pub(super) bytes: Option<u64>,
    /// Open files, pipes and the like.
    pub(super) files: Option<u64>,
}

/// Notes that a reload of `plugin` has ended, its old library gone or left.
pub(super) fn after_reload(plugin: &str) -> Leaks {
    let note = |reloads: &Mutex<Reloads>, now| reloads.lock().expect("no holder panics").note(plugin, now);
    Leaks {
        bytes: memory().and_then(|now| note(&MEMORY, now)),
        files: files().ok().and_then(|now| note(&FILES, now)),
    }
}

impl Reloads {
    const fn none() -> Self {
        Self {
            last: None,
            growth: BTreeMap::new(),
        }
    }

    fn note(&mut self, plugin: &str, now: u64) -> Option<u64> {
        let before = self.last.replace(now)?;
        let growth = self.growth.entry(plugin.to_owned()).or_default();
        growth.push_back(now.saturating_sub(before));
        if growth.len() > RECENT {
            growth.pop_front();
        }
        if growth.len() < LEAST {
            return None;
        }
        growth.iter().min().copied()
    }
}

/// Memory of the process that is no file's, in bytes.
fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Descriptors of the process that are no sockets.
fn files() -> io::Result<u64> {
    let mut files = 0;
    for descriptor in fs::read_dir("/proc/self/fd")? {
        // It may have been closed just now.
        let file = fs::read_link(descriptor?.path());
        files += u64::from(file.is_ok_and(|file| !file.to_string_lossy().starts_with("socket:")));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory: &[u64], expected: Option<u64>) {
        let mut reloads = Reloads::default();
        let said = memory.iter().fold(None, |_, now| reloads.note("room", *now));
        assert_eq!(said, expected, "{memory:?}");
    }

    #[test]
    fn what_stays_at_each_reload_is_said_and_one_growth_is_not() {
        check(&[100, 120], None);
        check(&[100, 120, 140], Some(20));
        check(&[100, 120, 120, 120], Some(0));
        check(&[100, 120, 140, 100], Some(0));
        check(&[0, 0, 20, 50, 90], Some(20));
    }

    #[test]
    fn each_plugins_reloads_are_its_own() {
        let mut reloads = Reloads::default();
        for (plugin, now) in [
            ("room", 100),
            ("echo", 100),
            ("room", 120),
            ("echo", 120),
            ("room", 140),
        ] {
            reloads.note(plugin, now);
        }
        assert_eq!(reloads.note("echo", 140), Some(0));
        assert_eq!(reloads.note("room", 160), Some(20));
    }

    #[test]
    fn this_process_has_some_memory_and_files() {
        assert!(memory().unwrap() > 0);
        assert!(files().unwrap() > 0);
    }
}
