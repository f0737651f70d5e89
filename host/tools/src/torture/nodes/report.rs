//! The certificate of a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::plan::Kind;
use super::world::{Record, World};
use crate::numbers::{Percentiles, grouped, ms};

/// What a cluster has gone through, and what that has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::torture) struct Nodes {
    /// Whether the run meets all requirements, see [`Nodes::judged`].
    pub(in crate::torture) passed: bool,
    /// The number of nodes.
    pub(super) nodes: usize,
    /// The number of clients: half of them use WebSocket, half long polling.
    pub(super) clients: usize,
    /// The number of topics.
    pub(super) topics: usize,
    /// The lease of the nodes, in milliseconds.
    pub(super) lease_ms: f64,
    /// How long a client may be without an answer, in milliseconds: twice the lease.
    pub(super) most_silent_ms: f64,
    /// The random seed.
    pub(super) seed: u64,
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// Events that clients pushed.
    pub(super) sent: i64,
    /// Events that were answered.
    pub(super) answered: i64,
    /// Events that were answered with an error, and not handled.
    pub(super) refused: i64,
    /// Events whose channel or connection ended before an answer.
    pub(super) unanswered: i64,
    /// Numbered messages that clients received: replies, pushes, broadcasts, ticks.
    pub(super) received: i64,
    /// Messages that did not arrive between a join and the end of that channel, and answers.
    pub(super) lost: i64,
    /// Messages that arrived more than once, and events that were handled more than once.
    pub(super) doubled: i64,
    /// Messages that arrived after later ones.
    pub(super) reordered: i64,
    /// Connections that ended although their node did not.
    pub(super) closed: i64,
    /// Connections that a node closed as it stopped.
    pub(super) drained: i64,
    /// How often a state, or an answer, was not what it must be.
    pub(super) differences: i64,
    /// How often clients compared a state.
    pub(super) audits: i64,
    /// How often state was gone that clients were told of, of topics whose home was not lost.
    pub(super) undone: i64,
    /// How often a home went on that had lost the topic.
    pub(super) outlived: i64,
    /// Topics that were found empty because their home was lost.
    pub(super) begun_anew: u64,
    /// Joins that were refused, and tried again.
    pub(super) joins_refused: i64,
    /// How often channels ended, by reason.
    pub(super) reasons: BTreeMap<String, u64>,
    /// What each kind of round has shown.
    pub(super) rounds: Vec<Rounds>,
    /// The first problems, in words.
    pub(super) findings: Vec<String>,
}

/// What the rounds of a kind have shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rounds {
    /// What happened.
    pub(super) what: &'static str,
    /// How often.
    pub(super) rounds: u64,
    /// Channels that ended.
    pub(super) ended: u64,
    /// Topics that were found empty.
    pub(super) begun_anew: u64,
    /// How long clients were without an answer because a node or the broker was not there.
    pub(super) silent: Silence,
    /// The same, because their topic had moved.
    pub(super) moved: Silence,
}

/// How long clients were without an answer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Silence {
    /// How often.
    pub(super) count: usize,
    #[serde(flatten)]
    pub(super) times: Percentiles,
}

impl Silence {
    fn of(times: Vec<f64>) -> Self {
        Self {
            count: times.len(),
            times: Percentiles::of(times),
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50_ms, max_ms, .. } = self.times;
        match self.count {
            0 => Ok(()),
            _ => write!(f, "{p50_ms:.0} ms p50, {max_ms:.0} ms max"),
        }
    }
}

impl Nodes {
    pub(super) fn new(world: &World, took: Duration) -> Self {
        let (plan, tally, counts) = (&world.plan, &world.tally, &world.counts);
        let records = world.records();
        let rounds = |(kind, record): (Kind, Record)| Rounds {
            what: kind.words(),
            rounds: record.rounds,
            ended: record.ended,
            begun_anew: record.begun_anew,
            silent: Silence::of(record.silent_ms),
            moved: Silence::of(record.moved_ms),
        };
        let report = Self {
            passed: false,
            nodes: plan.nodes,
            clients: plan.clients,
            topics: plan.topics,
            lease_ms: ms(plan.lease),
            most_silent_ms: ms(plan.most_silent()),
            seed: plan.seed,
            seconds: took.as_secs_f64(),
            sent: tally.sent.get(),
            answered: counts.answered.get(),
            refused: counts.refused.get(),
            unanswered: counts.unanswered.get(),
            received: tally.received.get(),
            lost: tally.lost.get(),
            doubled: tally.doubled.get(),
            reordered: tally.reordered.get(),
            closed: tally.closed.get(),
            drained: counts.drained.get(),
            differences: tally.differences.get(),
            audits: tally.audits.get(),
            undone: counts.undone.get(),
            outlived: counts.outlived.get(),
            begun_anew: records.iter().map(|(_, record)| record.begun_anew).sum(),
            joins_refused: counts.joins_refused.get(),
            reasons: world.reasons(),
            rounds: records
                .into_iter()
                .map(rounds)
                .filter(|rounds| rounds.rounds > 0)
                .collect(),
            findings: tally.findings(),
        };
        report.judged()
    }

    /// Decides whether the run has passed: nothing was lost silently or wrong, and topics answered again within two leases.
    fn judged(mut self) -> Self {
        let silences = self.rounds.iter().flat_map(|rounds| [rounds.silent, rounds.moved]);
        let is_slow = silences
            .into_iter()
            .any(|silence| silence.times.max_ms > self.most_silent_ms);
        if self.answered == 0 || self.reasons.is_empty() {
            let nothing = "no channel ended, or no event was answered, so this proves nothing";
            self.findings.push(nothing.to_owned());
        }
        let wrong = [
            self.lost,
            self.doubled,
            self.reordered,
            self.closed,
            self.differences,
            self.undone,
            self.outlived,
        ];
        self.passed = wrong == [0; 7] && !is_slow && self.findings.is_empty();
        self
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, long_polling) = (self.clients, self.clients / 2);
        writeln!(
            f,
            "{} nodes, {} clients ({} by WebSocket, {} by long polling), {} topics, lease {:.0} ms, {:.0} s, seed {}\n",
            self.nodes,
            grouped(clients as i64),
            clients - long_polling,
            long_polling,
            grouped(self.topics as i64),
            self.lease_ms,
            self.seconds,
            self.seed
        )?;
        let mut line = |what: &str, value: i64, note: &str| {
            let line = format!("  {what:<18}{:>12}   {note}", grouped(value));
            writeln!(f, "{}", line.trim_end())
        };
        let per_second = self.sent as f64 / self.seconds.max(0.001);
        line(
            "sent",
            self.sent,
            &format!("{} per second", grouped(per_second.round() as i64)),
        )?;
        line("answered", self.answered, "")?;
        line("refused", self.refused, "answered with an error, and not handled")?;
        line(
            "unanswered",
            self.unanswered,
            "because their channel or connection ended",
        )?;
        line(
            "received",
            self.received,
            "replies, pushes, broadcasts, ticks of timers",
        )?;
        line(
            "lost",
            self.lost,
            "silently: between a join and the end of that channel",
        )?;
        line("doubled", self.doubled, "")?;
        line("reordered", self.reordered, "")?;
        line(
            "sockets closed",
            self.closed,
            &format!("and {} by nodes that stopped", grouped(self.drained)),
        )?;
        line(
            "state differences",
            self.differences,
            &format!("in {} comparisons", grouped(self.audits)),
        )?;
        line("undone", self.undone, "of topics whose home was not lost")?;
        line("outlived", self.outlived, "answers of homes that had lost the topic")?;
        let reasons: Vec<String> = { self.reasons.iter() }
            .map(|(reason, count)| format!("{} {reason}", grouped(i128::from(*count))))
            .collect();
        let ended: u64 = self.reasons.values().sum();
        line(
            "channels ended",
            i64::try_from(ended).unwrap_or(i64::MAX),
            &reasons.join(", "),
        )?;
        writeln!(
            f,
            "\n  {:<24}{:>8}{:>16}{:>13}   {:<24}   silent, moved",
            "", "rounds", "channels ended", "begun anew", "silent"
        )?;
        for rounds in &self.rounds {
            let Rounds {
                what,
                rounds,
                ended,
                begun_anew,
                silent,
                moved,
                ..
            } = rounds;
            let (ended, begun_anew) = (grouped(i128::from(*ended)), grouped(i128::from(*begun_anew)));
            let [silent, moved] = [silent, moved].map(Silence::to_string);
            let line = format!("  {what:<24}{rounds:>8}{ended:>16}{begun_anew:>13}   {silent:<24}   {moved}");
            writeln!(f, "{}", line.trim_end())?;
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

    fn passes(change: impl FnOnce(&mut Nodes)) -> bool {
        let silent = Silence::of(vec![9_000.0]);
        let killed = Rounds {
            what: Kind::Killed.words(),
            rounds: 1,
            ended: 1,
            begun_anew: 1,
            silent,
            moved: Silence::default(),
        };
        let mut report = Nodes {
            most_silent_ms: 10_000.0,
            answered: 1,
            reasons: BTreeMap::from([("node lost".to_owned(), 1)]),
            rounds: vec![killed],
            ..Nodes::default()
        };
        change(&mut report);
        report.judged().passed
    }

    #[test]
    fn topics_answer_again_within_two_leases() {
        assert!(passes(|_| {}));
        assert!(!passes(|report| report.rounds[0].silent = Silence::of(vec![10_001.0])));
    }

    #[test]
    fn a_run_in_which_nothing_happens_proves_nothing() {
        assert!(!passes(|report| report.reasons.clear()));
        assert!(!passes(|report| report.answered = 0));
    }

    #[test]
    fn whatever_is_wrong_fails_it() {
        let wrongs: [fn(&mut Nodes); 7] = [
            |report| report.lost = 1,
            |report| report.doubled = 1,
            |report| report.reordered = 1,
            |report| report.closed = 1,
            |report| report.differences = 1,
            |report| report.undone = 1,
            |report| report.outlived = 1,
        ];
        assert!(wrongs.into_iter().all(|wrong| !passes(wrong)));
    }
}
