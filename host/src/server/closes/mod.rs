//! Why clients were closed, and why others were not let in: one log line each, counters, and the last of them for `/closes`.
//!
//! Holds no payload, no params, and no text of a client except its `Origin`.

mod close_reason;
mod meaning;
mod record;
mod refusal_reason;
mod wanted;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

pub(crate) use close_reason::CloseReason;
pub(crate) use meaning::{Meaning, meaning_of, meanings};
pub(crate) use record::{Closed, Outcome, Record, Refused, Traffic, unix_ms};
pub(crate) use refusal_reason::RefusalReason;
pub(crate) use wanted::{Peer, Wanted};

use crate::runtime::client_lines::{ClientLines, Source, client_line};

/// The labels of `bennu_closes_total`.
type CloseLabels = [(&'static str, &'static str); 2];
/// The label of `bennu_refused_total`.
type RefusalLabel = [(&'static str, &'static str); 1];

/// The closes and refusals of a server.
#[derive(Debug)]
pub(crate) struct Closes {
    kept: Mutex<Kept>,
    closed: Family<CloseLabels, Counter>,
    refused: Family<RefusalLabel, Counter>,
}

/// The last records, the oldest first; and how many there were, by outcome and reason.
#[derive(Debug)]
struct Kept {
    records: VecDeque<Record>,
    most: usize,
    counts: Counts,
}

/// How many clients were closed or refused since the start, by what happened (`closed` or `refused`) and the reason.
pub(crate) type Counts = BTreeMap<(&'static str, &'static str), u64>;

impl Closes {
    /// Nothing has happened yet. Keeps the last `most` records.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        let closes = Self {
            kept: Mutex::new(Kept {
                records: VecDeque::new(),
                most,
                counts: Counts::new(),
            }),
            closed: Family::default(),
            refused: Family::default(),
        };
        // A counter that begins with 1 would hide the first increase from `rate()`.
        for reason in CloseReason::ALL {
            drop(closes.closed.get_or_create(&close_labels(reason, Some(reason.code()))));
        }
        for reason in RefusalReason::ALL {
            drop(closes.refused.get_or_create(&[("reason", reason.name())]));
        }
        closes
    }

    /// Keeps so many records from now on.
    pub(crate) fn keep(&self, most: usize) {
        let mut kept = self.kept();
        kept.most = most;
        kept.make_room(0);
    }

    /// Notes a record: counts it, logs it as far as `lines` admits it, and keeps it.
    pub(crate) fn note(&self, record: Record, lines: &ClientLines) {
        match &record.outcome {
            Outcome::Closed(closed) => {
                self.closed
                    .get_or_create(&close_labels(closed.reason, closed.code))
                    .inc();
                log_closed(&record, closed, lines);
            }
            Outcome::Refused(refused) => {
                self.refused.get_or_create(&[("reason", refused.reason.name())]).inc();
                log_refused(&record, refused, lines);
            }
        }
        let mut kept = self.kept();
        *kept.counts.entry((record.what(), record.reason())).or_default() += 1;
        kept.make_room(1);
        if kept.most > 0 {
            kept.records.push_back(record);
        }
    }

    /// The newest records that `wanted` accepts, the newest first, `most` of them at most; and how many are kept in all.
    pub(crate) fn newest(&self, wanted: impl Fn(&Record) -> bool, most: usize) -> (Vec<Record>, usize) {
        let kept = self.kept();
        let found = kept.records.iter().rev().filter(|record| wanted(record));
        (found.take(most).cloned().collect(), kept.records.len())
    }

    /// How many there were since the start.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts {
        self.kept().counts.clone()
    }

    /// Closes by code and reason.
    #[must_use]
    pub(crate) fn closed(&self) -> Family<CloseLabels, Counter> {
        self.closed.clone()
    }

    /// Refusals by reason.
    #[must_use]
    pub(crate) fn refused(&self) -> Family<RefusalLabel, Counter> {
        self.refused.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // The records are whole wherever a holder could panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets the oldest records, so that `more` can follow.
    fn make_room(&mut self, more: usize) {
        while self.records.len() + more > self.most && self.records.pop_front().is_some() {}
    }
}

/// The labels have a bounded number of values, although a client may close with any of 2,000 codes of its own.
fn close_labels(reason: CloseReason, code: Option<u16>) -> CloseLabels {
    let code = match code {
        None => "none",
        Some(1000) => "1000",
        Some(1001) => "1001",
        Some(1002) => "1002",
        Some(1003) => "1003",
        Some(1005) => "1005",
        Some(1006) => "1006",
        Some(1007) => "1007",
        Some(1008) => "1008",
        Some(1009) => "1009",
        Some(1010) => "1010",
        Some(1011) => "1011",
        Some(1012) => "1012",
        Some(1013) => "1013",
        Some(3000) => "3000",
        Some(3001..=3999) => "3xxx",
        Some(4000..=4999) => "4xxx",
        Some(_) => "other",
    };
    [("code", code), ("reason", reason.name())]
}

fn log_closed(record: &Record, closed: &Closed, lines: &ClientLines) {
    let Traffic {
        messages_in,
        bytes_in,
        messages_out,
        bytes_out,
    } = closed.traffic;
    client_line!(
        INFO,
        lines,
        "closed",
        Source::of(record.peer.ip()),
        connection = record.connection,
        peer = %record.peer,
        mount = record.mount(),
        socket_id = record.socket_id(),
        transport = record.transport,
        vsn = record.vsn,
        by = closed.reason.ender().name(),
        code = closed.code,
        reason = closed.reason.name(),
        detail = closed.detail.as_deref(),
        lasted_ms = closed.lasted_ms,
        silent_ms = closed.silent_ms,
        topics = closed.topics,
        messages_in,
        bytes_in,
        messages_out,
        bytes_out,
        unsent_bytes = closed.unsent_bytes,
        "connection closed"
    );
}

fn log_refused(record: &Record, refused: &Refused, lines: &ClientLines) {
    client_line!(
        INFO,
        lines,
        "refused",
        Source::of(record.peer.ip()),
        connection = record.connection,
        peer = %record.peer,
        mount = record.mount(),
        socket_id = record.socket_id(),
        transport = (!record.transport.is_empty()).then_some(record.transport),
        status = refused.status,
        reason = refused.reason.name(),
        detail = refused.detail.as_deref(),
        "client refused"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::config::LineLimits;

    fn lines() -> ClientLines {
        ClientLines::new(LineLimits {
            burst: 1,
            pause: Duration::from_secs(1),
            sources: 1,
        })
    }

    fn record(connection: u64) -> Record {
        let outcome = Outcome::Refused(Refused {
            reason: RefusalReason::Full,
            status: Some(503),
            detail: None,
        });
        Record::new(connection, ([127, 0, 0, 1], 1).into(), outcome)
    }

    fn numbers(closes: &Closes) -> Vec<u64> {
        let (records, _) = closes.newest(|_| true, 10);
        records.iter().map(|record| record.connection).collect()
    }

    #[test]
    fn the_last_records_are_kept_and_the_newest_comes_first() {
        let closes = Closes::new(3);
        (1..=5).for_each(|number| closes.note(record(number), &lines()));
        assert_eq!(numbers(&closes), [5, 4, 3]);
        closes.keep(1);
        assert_eq!(numbers(&closes), [5]);
        closes.keep(0);
        closes.note(record(6), &lines());
        assert_eq!(numbers(&closes), [] as [u64; 0]);
        assert_eq!(closes.refused.get_or_create(&[("reason", "full")]).get(), 6);
    }

    #[test]
    fn a_client_cannot_make_up_labels() {
        let labels: BTreeSet<_> = (0..=u16::MAX)
            .map(|code| close_labels(CloseReason::ClientClosed(code), Some(code)))
            .collect();
        assert!(labels.len() <= 20, "{labels:?}");
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names: BTreeSet<_> = CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
        let names: BTreeSet<_> = RefusalReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), RefusalReason::ALL.len());
    }
}
