//! The certificate: the result of a run, for people and for scripts.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::plan::Plan;
use super::tally::Tally;
use crate::numbers::{Percentiles, grouped, ms};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Certificate {
    /// Whether the run meets all requirements, see [`Certificate::judged`].
    pub(super) passed: bool,
    /// The number of clients: half of them use WebSocket, half long polling.
    pub(super) clients: usize,
    /// The number of topics.
    pub(super) topics: usize,
    /// The number of the plugin's shards.
    pub(super) shards: usize,
    /// The random seed.
    pub(super) seed: u64,
    /// How long clients pushed, in seconds.
    pub(super) seconds: f64,
    /// Events that clients pushed.
    pub(super) sent: i64,
    /// The same, per second.
    pub(super) sent_per_second: f64,
    /// Numbered messages that clients received: replies, pushes, broadcasts, ticks.
    pub(super) received: i64,
    /// Events and messages that did not arrive.
    pub(super) lost: i64,
    /// Messages that arrived more than once.
    pub(super) doubled: i64,
    /// Messages that arrived after later ones.
    pub(super) reordered: i64,
    /// Connections that ended during the run.
    pub(super) closed: i64,
    /// How often a topic's state differed from what a client expected.
    pub(super) differences: i64,
    /// How often a client compared a state.
    pub(super) audits: i64,
    /// Channels that ended without a panic. Their clients rejoined.
    pub(super) ended: i64,
    /// How often the plugin panicked.
    pub(super) panics: i64,
    /// Events without a reply because of a panic. They do not count as lost.
    pub(super) excused: i64,
    /// What the server did with the libraries.
    pub(super) reloads: Reloads,
    /// Events in flight during reloads.
    pub(super) in_flight: InFlight,
    /// How long reloads held topics.
    pub(super) pauses: Pauses,
    /// What reloads leave in memory.
    pub(super) memory: Memory,
    /// The first problems, in words.
    pub(super) findings: Vec<String>,
}

/// What the server did with the libraries.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Reloads {
    /// Good ones that came into service.
    pub(super) done: u64,
    /// Bad ones that the server rejected.
    pub(super) refused: u64,
    /// Bad ones that came into service and were rolled back.
    pub(super) rolled_back: u64,
    /// Libraries with any other outcome.
    pub(super) unexpected: u64,
    /// Topics that new code could not take over.
    pub(super) kept_topics: u64,
}

/// Events in flight during reloads. An event is in flight until its reply arrives.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct InFlight {
    /// The minimum over all reloads.
    pub(super) least: i64,
    /// The median of the minimum of each reload.
    pub(super) median: i64,
    /// The least number that each reload must have.
    pub(super) wanted: i64,
    /// The minimum of each reload, in order.
    pub(super) each: Vec<i64>,
    /// Events that waited in the mailboxes of held topics, in all reloads together.
    pub(super) held: u64,
}

/// How long reloads held topics.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Pauses {
    /// How many moves there were, of all topics together.
    pub(super) moves: usize,
    #[serde(flatten)]
    pub(super) held: Percentiles,
}

/// What reloads leave in memory.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Memory {
    /// How much resident memory each reload adds, in KiB, see [`super::memory::kib_per_reload`].
    pub(super) kib_per_reload: Option<f64>,
    /// How many libraries were replaced.
    pub(super) replaced: usize,
    /// How many of them are unmapped.
    pub(super) unmapped: usize,
}

impl Certificate {
    /// The plan and the counters. The caller fills in the rest.
    pub(super) fn new(plan: &Plan, tally: &Tally, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self {
            passed: false,
            clients: plan.clients,
            topics: plan.topics,
            shards: plan.shards,
            seed: plan.seed,
            seconds,
            sent: tally.sent.get(),
            sent_per_second: tally.sent.get() as f64 / seconds.max(0.001),
            received: tally.received.get(),
            lost: tally.lost.get(),
            doubled: tally.doubled.get(),
            reordered: tally.reordered.get(),
            closed: tally.closed.get(),
            differences: tally.differences.get(),
            audits: tally.audits.get(),
            ended: tally.ended.get(),
            panics: 0,
            excused: tally.excused.get(),
            reloads: Reloads::default(),
            in_flight: InFlight::default(),
            pauses: Pauses::default(),
            memory: Memory::default(),
            findings: tally.findings(),
        }
    }

    /// Decides whether the run has passed: nothing lost or wrong, every outcome as expected, enough events in flight.
    pub(super) fn judged(mut self) -> Self {
        let zero = [
            self.lost,
            self.doubled,
            self.reordered,
            self.closed,
            self.differences,
            self.ended,
        ];
        // Without events in flight, nothing can be lost, and the run proves nothing.
        let InFlight { least, wanted, .. } = self.in_flight;
        if least < wanted {
            let finding = format!("only {least} events were in flight during a reload; there must be {wanted}");
            self.findings.push(finding);
        }
        self.passed = zero == [0; 6] && self.reloads.unexpected == 0 && least >= wanted;
        self
    }
}

impl Pauses {
    pub(super) fn of(held: &[Duration]) -> Self {
        Self {
            moves: held.len(),
            held: Percentiles::of(held.iter().copied().map(ms).collect()),
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            clients,
            topics,
            shards,
            seconds,
            seed,
            reloads,
            in_flight,
            pauses,
            memory,
            ..
        } = self;
        let half = clients / 2;
        writeln!(
            f,
            "{} clients ({} by WebSocket, {} by long polling), {} topics on {shards} shards, {seconds:.0} s, seed {seed}\n",
            grouped(*clients as i64),
            clients - half,
            half,
            grouped(*topics as i64),
        )?;
        let mut line = |what: &str, value: i64, note: &str| {
            let line = format!("  {what:<18}{:>12}   {note}", grouped(value));
            writeln!(f, "{}", line.trim_end())
        };
        line(
            "sent",
            self.sent,
            &format!("{} per second", grouped(self.sent_per_second.round() as i64)),
        )?;
        line(
            "received",
            self.received,
            "replies, pushes, broadcasts, ticks of timers",
        )?;
        line("lost", self.lost, "")?;
        line("doubled", self.doubled, "")?;
        line("reordered", self.reordered, "")?;
        line("sockets closed", self.closed, "")?;
        line("channels ended", self.ended, "without a panic")?;
        line(
            "state differences",
            self.differences,
            &format!("in {} comparisons", grouped(self.audits)),
        )?;
        if self.panics > 0 {
            let note = format!(
                "which left {} events without a reply, not counted as lost",
                grouped(self.excused)
            );
            line("panics", self.panics, &note)?;
        }
        line(
            "reloads",
            signed(reloads.done),
            &format!(
                "and {} rejected, {} rolled back, {} unexpected",
                reloads.refused, reloads.rolled_back, reloads.unexpected
            ),
        )?;
        line(
            "events in flight",
            in_flight.least,
            &format!(
                "at least during every reload, median {}; {} waited in held mailboxes",
                grouped(in_flight.median),
                grouped(signed(in_flight.held))
            ),
        )?;
        let Pauses { moves, held } = pauses;
        let Percentiles { p50_ms, p99_ms, max_ms } = held;
        line(
            "topics moved",
            *moves as i64,
            &format!("held for {p50_ms:.2} ms p50, {p99_ms:.2} ms p99, {max_ms:.2} ms max"),
        )?;
        let Memory {
            kib_per_reload,
            replaced,
            unmapped,
        } = memory;
        let memory = kib_per_reload.map(|kib| format!("; {kib:+.1} KiB of memory per reload"));
        let note = format!("of {replaced} replaced libraries{}", memory.unwrap_or_default());
        line("unmapped", *unmapped as i64, &note)?;
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

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_little_in_flight_proves_nothing() {
        let plan = Plan {
            clients: 2,
            topics: 1,
            shards: 1,
            rate: 1,
            reloads: 1,
            in_flight: 10,
            seed: 0,
        };
        for (least, passes) in [(9, false), (10, true)] {
            let mut certificate = Certificate::new(&plan, &Tally::default(), Duration::from_secs(1));
            certificate.in_flight.wanted = 10;
            certificate.in_flight.least = least;
            let certificate = certificate.judged();
            assert_eq!((certificate.passed, certificate.findings.is_empty()), (passes, passes));
        }
    }
}
