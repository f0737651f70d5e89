//! What a run has shown, for people and for programs.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::plan::Plan;
use super::tally::Tally;

/// What a run has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Whether every count that must be 0 is 0, and every library did what it should.
    pub passed: bool,
    /// Clients, half of them by WebSocket, half by long polling.
    pub clients: usize,
    /// Their topics.
    pub topics: usize,
    /// The shards of the plugin.
    pub shards: usize,
    /// What the run was made from.
    pub seed: u64,
    /// How long numbers were put, in seconds.
    pub seconds: f64,
    /// Numbers that clients put.
    pub sent: i64,
    /// The same, in a second.
    pub sent_per_second: f64,
    /// Replies, notes, broadcasts and ticks that came.
    pub received: i64,
    /// What did not come.
    pub lost: i64,
    /// What came more than once.
    pub doubled: i64,
    /// What came behind its followers.
    pub reordered: i64,
    /// Connections that ended.
    pub closed: i64,
    /// States that are not what all that came makes of them.
    pub differences: i64,
    /// How often a state was compared.
    pub audits: i64,
    /// Channels that ended without a panic, though their clients joined again.
    pub ended: i64,
    /// Callbacks that panicked.
    pub panics: i64,
    /// Numbers that such a panic has swallowed, itself or by ending their channel.
    pub excused: i64,
    /// What became of the libraries.
    pub reloads: Reloads,
    /// Numbers without an answer while topics moved: the least of each reload.
    pub in_flight: InFlight,
    /// How long topics were held.
    pub pauses: Pauses,
    /// What reloads leave behind.
    pub memory: Memory,
    /// The first things that were not as they must be, in words.
    pub findings: Vec<String>,
}

/// What became of the libraries.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloads {
    /// Came into service.
    pub done: u64,
    /// Were refused, as they should be.
    pub refused: u64,
    /// Came into service and were taken out again, as they should be.
    pub rolled_back: u64,
    /// Were refused, taken or rolled back where they should not.
    pub unexpected: u64,
    /// Topics that could not be carried over.
    pub kept_topics: u64,
}

/// Numbers without an answer while topics moved.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InFlight {
    /// In the reload with the fewest.
    pub least: i64,
    /// In half of the reloads there were no more.
    pub median: i64,
    /// So many were to be, in each.
    pub wanted: i64,
    /// In each reload, in their order.
    pub each: Vec<i64>,
    /// Events that waited in held mailboxes, in all reloads together.
    pub held: u64,
}

/// How long topics were held.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pauses {
    /// How often one was.
    pub moves: usize,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// What reloads leave behind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident memory that each reload adds, in KiB: how much the least of them grows, in the second half of all. `None` where they are
    /// too few to tell it from what is allocated once.
    pub kib_per_reload: Option<f64>,
    /// Libraries that were replaced.
    pub replaced: usize,
    /// Those of them that have no code in memory.
    pub unmapped: usize,
}

impl Certificate {
    /// What was planned and counted; what else there is to say is added.
    #[must_use]
    pub fn new(plan: &Plan, tally: &Tally, took: Duration) -> Self {
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

    /// Looks whether all is as it must be.
    #[must_use]
    pub fn judged(mut self) -> Self {
        let zero = [
            self.lost,
            self.doubled,
            self.reordered,
            self.closed,
            self.differences,
            self.ended,
        ];
        // Where nothing is on its way, nothing can be lost.
        let InFlight { least, wanted, .. } = self.in_flight;
        if least < wanted {
            let finding = format!("only {least} events were in flight at a reload, {wanted} were to be");
            self.findings.push(finding);
        }
        self.passed = zero == [0; 6] && self.reloads.unexpected == 0 && least >= wanted;
        self
    }
}

impl Pauses {
    /// Of all times that topics were held.
    #[must_use]
    pub fn of(mut held: Vec<Duration>) -> Self {
        held.sort_unstable();
        let ms = |part| quantile(&held, part).map_or(0.0, |held| held.as_secs_f64() * 1000.0);
        Self {
            moves: held.len(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: ms(1.0),
        }
    }
}

/// The value that so large a part of all is not above. They are sorted.
#[must_use]
pub fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let at = (part * sorted.len() as f64).ceil() as usize;
    Some(sorted[at.saturating_sub(1).min(last)])
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
            &format!("{} a second", grouped(self.sent_per_second.round() as i64)),
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
            let note = format!("which swallowed {} numbers, counted apart", grouped(self.excused));
            line("panics", self.panics, &note)?;
        }
        line(
            "reloads",
            signed(reloads.done),
            &format!(
                "and {} refused, {} rolled back, {} not as they should",
                reloads.refused, reloads.rolled_back, reloads.unexpected
            ),
        )?;
        line(
            "events in flight",
            in_flight.least,
            &format!(
                "at the reload with the fewest, {} in the median; {} waited in held mailboxes",
                grouped(in_flight.median),
                grouped(signed(in_flight.held))
            ),
        )?;
        let Pauses {
            moves,
            p50_ms,
            p99_ms,
            max_ms,
        } = pauses;
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
        let memory = kib_per_reload.map(|kib| format!("; {kib:+.1} KiB of memory a reload"));
        let note = format!("of {replaced} libraries{}", memory.unwrap_or_default());
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

/// `1234567` as `1,234,567`.
#[must_use]
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    if value < 0 {
        text.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        write!(text, "{digit}").expect("text grows");
    }
    text
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

    #[test]
    fn thousands_are_grouped() {
        for (value, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(grouped(value), expected);
        }
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u32> = (1..=100).collect();
        for (part, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&values, part), Some(expected), "{part}");
        }
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
