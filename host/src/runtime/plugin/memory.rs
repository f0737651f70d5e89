//! Measures how much memory each reload of a plugin leaves behind.
//!
//! What statics of a library hold is not freed when the library is unloaded. Nobody can count it, but the process grows by it at each
//! reload. Clients make it grow too, so the least of the last few reloads counts.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::sync::Mutex;

/// Reloads that are looked at.
const RECENT: usize = 3;
/// Reloads that say something: the first ones grow what stays as large.
const LEAST: usize = 2;

/// What is known of the reloads so far.
#[derive(Debug, Default)]
struct Reloads {
    /// The process's memory after the last one of any plugin, in bytes.
    last: Option<u64>,
    /// By how much the last ones have made it grow, by plugin.
    growth: BTreeMap<String, VecDeque<u64>>,
}

static RELOADS: Mutex<Reloads> = Mutex::new(Reloads {
    last: None,
    growth: BTreeMap::new(),
});

/// Notes that a reload of `plugin` has ended, its old library gone or left. Returns how many bytes stay at each reload, once enough
/// reloads have shown it.
pub(super) fn after_reload(plugin: &str) -> Option<u64> {
    let now = in_use()?;
    RELOADS.lock().expect("no holder panics").note(plugin, now)
}

impl Reloads {
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
fn in_use() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
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
    fn this_process_has_some_memory() {
        assert!(in_use().unwrap() > 0);
    }
}
