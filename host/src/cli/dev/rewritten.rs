//! Tells files that builds write from those that somebody saves.
//!
//! A build script may write into its own package, and cargo then runs it for each build. What it writes has changed when the build
//! ends, and would start the next one, without end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

/// In how many builds in a row a file must have been written to count as one that builds write. Somebody may save one while it is
/// built, and once more.
const IN_A_ROW: u32 = 3;

/// What was written while one plugin was built.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// When the last build began and ended.
    last: Option<(SystemTime, SystemTime)>,
    /// In how many builds in a row each file was written, up to the last one.
    builds: BTreeMap<PathBuf, u32>,
}

impl Rewritten {
    /// Takes note of a build, and of what was written since it began. Returns the files that count as written by builds from now on.
    pub(super) fn built(
        &mut self,
        (began, ended): (SystemTime, SystemTime),
        written: &BTreeMap<PathBuf, SystemTime>,
    ) -> Vec<PathBuf> {
        let before = std::mem::take(&mut self.builds);
        for file in written.iter().filter(|(_, when)| **when <= ended).map(|(file, _)| file) {
            let count = before.get(file).copied().unwrap_or_default().saturating_add(1);
            self.builds.insert(file.clone(), count);
        }
        self.last = Some((began, ended));
        let now = self.builds.iter().filter(|(_, count)| **count == IN_A_ROW);
        now.map(|(file, _)| file.clone()).collect()
    }

    /// Whether nothing was written since the last build began, so that cargo, which compares times, finds nothing to compile.
    pub(super) fn is_all_older(&self, written_after: impl FnOnce(SystemTime) -> BTreeMap<PathBuf, SystemTime>) -> bool {
        self.last.is_some_and(|(began, _)| written_after(began).is_empty())
    }

    /// Whether all that has changed was written during the last build, and by it. `written_after` says which files were written after a
    /// time, and when.
    pub(super) fn is_own_doing(&self, written_after: impl FnOnce(SystemTime) -> BTreeMap<PathBuf, SystemTime>) -> bool {
        let is_known = |file: &PathBuf| self.builds.get(file).is_some_and(|count| *count >= IN_A_ROW);
        let Some((began, ended)) = self.last.filter(|_| self.builds.keys().any(is_known)) else {
            return false;
        };
        let written = written_after(began);
        !written.is_empty() && written.iter().all(|(file, when)| *when <= ended && is_known(file))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn files<const N: usize>(files: [(&str, u64); N]) -> BTreeMap<PathBuf, SystemTime> {
        files.map(|(file, second)| (file.into(), at(second))).into()
    }

    /// Three builds of five seconds each, which begin at 0, 10 and 20. Each writes `made` in its second second.
    fn after_three() -> Rewritten {
        let mut rewritten = Rewritten::default();
        for (began, told) in [(0, false), (10, false), (20, true)] {
            assert!(!rewritten.is_own_doing(|_| files([("made", began)])));
            let known = rewritten.built((at(began), at(began + 5)), &files([("made", began + 1)]));
            assert_eq!(known == [PathBuf::from("made")], told, "{began}");
        }
        rewritten
    }

    #[test]
    fn what_three_builds_in_a_row_have_written_starts_no_other() {
        let mut rewritten = after_three();
        assert!(rewritten.is_own_doing(|_| files([("made", 21)])));
        // That is told once.
        let known = rewritten.built((at(30), at(35)), &files([("made", 31)]));
        assert!(known.is_empty());
        assert!(rewritten.is_own_doing(|_| files([("made", 31)])));
    }

    #[test]
    fn what_is_saved_besides_or_after_the_build_is_a_change() {
        let rewritten = after_three();
        assert!(!rewritten.is_own_doing(|_| files([("made", 21), ("lib.rs", 22)])));
        assert!(!rewritten.is_own_doing(|_| files([("made", 26)])));
        // A file that was removed, for example.
        assert!(!rewritten.is_own_doing(|_| BTreeMap::new()));
    }

    #[test]
    fn a_build_that_does_not_write_a_file_takes_it_from_the_list() {
        let mut rewritten = after_three();
        rewritten.built((at(30), at(35)), &files([("made", 36)]));
        assert!(!rewritten.is_own_doing(|_| files([("made", 34)])));
    }
}
