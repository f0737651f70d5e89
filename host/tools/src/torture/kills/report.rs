//! What the kills have shown.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::book::Verdict;
use crate::numbers::{Percentiles, grouped, ms};

/// How many problems to keep in words.
const MAX_FINDINGS: usize = 20;

/// A row of the report: its name, and where its figure is.
type Row<T> = (&'static str, fn(&Kept) -> T);

/// What the kills have shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::torture) struct Kills {
    /// Whether the run meets all requirements.
    pub(in crate::torture) passed: bool,
    /// How often a server was killed.
    pub(super) kills: u64,
    /// How many of these kills met a server that was on its way back.
    pub(super) while_starting: u64,
    /// The random seed.
    pub(super) seed: u64,
    /// The number of clients.
    pub(super) clients: u32,
    /// The number of topics.
    pub(super) topics: usize,
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// Topics with `durability = "commit"`.
    pub(super) commit: Kept,
    /// Topics with `durability = "checkpoint"`.
    pub(super) checkpoint: Kept,
    /// How far behind these may be, in milliseconds, besides the time of a write.
    pub(super) checkpoint_ms: u64,
    /// The first problems, in words.
    pub(super) findings: Vec<String>,
}

/// What became of the entries of topics with one durability.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Kept {
    /// Entries that clients were told of: the answer to their event, or a broadcast of it.
    pub(super) acknowledged: u64,
    /// Entries that were there after a kill.
    pub(super) found: u64,
    /// Acknowledged ones that were not.
    pub(super) lost: u64,
    /// Ticks of timers that clients were told of, and that the state did not know.
    pub(super) ticks_lost: u64,
    /// Entries that were there twice, or that nobody put.
    pub(super) doubled: u64,
    /// How often older entries had changed.
    pub(super) differences: u64,
    /// How long before a kill the first entry that it lost was acknowledged, at most, in milliseconds.
    pub(super) behind_ms: f64,
    /// How often that was longer than allowed.
    pub(super) late: u64,
    /// From an event to its answer.
    pub(super) answers: Percentiles,
    /// From the start of a server until it listens.
    pub(super) listening: Percentiles,
    /// From the start of a server until the first client is in its topic.
    pub(super) first_join: Percentiles,
    /// From the start of a server until a client is in all topics.
    pub(super) all_joins: Percentiles,
}

impl Kept {
    /// Adds what a look at a topic has shown. `allowed`: how far it may be behind.
    pub(super) fn add(&mut self, verdict: Verdict, allowed: Duration) {
        self.acknowledged += verdict.told;
        self.found += verdict.found;
        self.lost += verdict.lost;
        self.ticks_lost += verdict.ticks_lost;
        self.doubled += verdict.doubled;
        self.differences += u64::from(verdict.differs);
        self.behind_ms = self.behind_ms.max(ms(verdict.behind));
        self.late += u64::from(verdict.behind > allowed);
    }
}

impl Kills {
    /// Notes a problem in words, unless there are enough already.
    pub(super) fn find(&mut self, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(what);
        }
    }

    /// Decides whether the run has passed: `commit` has lost nothing, `checkpoint` no more than it may, and nothing is doubled.
    pub(super) fn judged(mut self) -> Self {
        let Self { commit, checkpoint, .. } = &self;
        if commit.acknowledged == 0 || checkpoint.acknowledged == 0 {
            self.find("nothing was acknowledged before the kills, so they prove nothing".to_owned());
        }
        let Self { commit, checkpoint, .. } = &self;
        let wrong = [
            commit.lost,
            commit.ticks_lost,
            commit.doubled,
            commit.differences,
            checkpoint.late,
            checkpoint.doubled,
            checkpoint.differences,
        ];
        self.passed = wrong == [0; 7] && self.findings.is_empty();
        self
    }
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            while_starting,
            seed,
            clients,
            topics,
            seconds,
            checkpoint_ms,
            ..
        } = self;
        writeln!(
            f,
            "{kills} kills, {while_starting} of them while the server started; {clients} clients, {topics} topics, \
             {seconds:.0} s, seed {seed}\n"
        )?;
        let rows: [Row<u64>; 5] = [
            ("acknowledged", |kept| kept.acknowledged),
            ("found", |kept| kept.found),
            ("lost", |kept| kept.lost),
            ("doubled", |kept| kept.doubled),
            ("older ones changed", |kept| kept.differences),
        ];
        writeln!(f, "  {:<20}{:>12}{:>14}", "", "commit", "checkpoint")?;
        for (what, count) in rows {
            let [commit, checkpoint] = [&self.commit, &self.checkpoint].map(|kept| grouped(count(kept)));
            writeln!(f, "  {what:<20}{commit:>12}{checkpoint:>14}")?;
        }
        let (commit, checkpoint) = (&self.commit, &self.checkpoint);
        writeln!(
            f,
            "  {:<20}{:>12}{:>14}",
            "ticks lost",
            grouped(commit.ticks_lost),
            grouped(checkpoint.ticks_lost)
        )?;
        writeln!(
            f,
            "  {:<20}{:>12}{:>14}   {checkpoint_ms} ms and the time of a write are allowed",
            "behind",
            format!("{:.0} ms", commit.behind_ms),
            format!("{:.0} ms", checkpoint.behind_ms),
        )?;
        let times: [Row<Percentiles>; 4] = [
            ("event to answer", |kept| kept.answers),
            ("start to listening", |kept| kept.listening),
            ("start to first join", |kept| kept.first_join),
            ("start to all joins", |kept| kept.all_joins),
        ];
        for (what, times) in times {
            let [commit, checkpoint] = [commit, checkpoint].map(|kept| {
                let Percentiles { p50_ms, p99_ms, max_ms } = times(kept);
                format!("{p50_ms:.1} ms p50, {p99_ms:.1} ms p99, {max_ms:.1} ms max")
            });
            writeln!(f, "  {what:<20}{commit}; {checkpoint}")?;
        }
        writeln!(f)?;
        for finding in &self.findings {
            writeln!(f, "  {finding}")?;
        }
        if !self.findings.is_empty() {
            writeln!(f)?;
        }
        f.write_str(if self.passed { "passed" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut Kills)) -> bool {
        let mut kills = Kills::default();
        (kills.commit.acknowledged, kills.checkpoint.acknowledged) = (1, 1);
        change(&mut kills);
        kills.judged().passed
    }

    #[test]
    fn checkpoint_may_lose_what_is_young_and_commit_nothing() {
        let lost = |behind: u64| Verdict {
            lost: 1,
            behind: Duration::from_millis(behind),
            ..Verdict::default()
        };
        let allowed = Duration::from_millis(200);
        assert!(run(|kills| kills.checkpoint.add(lost(200), allowed)));
        assert!(!run(|kills| kills.checkpoint.add(lost(201), allowed)));
        assert!(!run(|kills| kills.commit.add(lost(0), allowed)));
    }

    #[test]
    fn a_run_without_answers_proves_nothing() {
        assert!(run(|_| {}));
        assert!(!run(|kills| kills.commit.acknowledged = 0));
    }
}
