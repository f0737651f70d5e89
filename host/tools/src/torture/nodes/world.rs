//! What the clients and the one who torments the nodes both know: the nodes, the round, and all counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::life::{Topic, Wrong};
use super::plan::{Kind, Plan};
use crate::numbers::ms;
use crate::torture::libraries::PLUGIN;
use crate::torture::tally::{Count, Tally};

/// What all share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) topics: Vec<Arc<Topic>>,
    pub(super) tally: Tally,
    pub(super) counts: Counts,
    known: Mutex<Known>,
}

/// Counters beside those of every certificate.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Clients that are in their topic and were answered there.
    pub(super) back: Count,
    /// Events that were answered.
    pub(super) answered: Count,
    /// Events that were answered with an error, and not handled.
    pub(super) refused: Count,
    /// Events whose channel or connection ended before an answer.
    pub(super) unanswered: Count,
    /// Joins that were refused.
    pub(super) joins_refused: Count,
    /// Connections that a stopping node closed with 1012.
    pub(super) drained: Count,
    /// See [`Wrong::Undone`].
    pub(super) undone: Count,
    /// See [`Wrong::Outlived`].
    pub(super) outlived: Count,
}

#[derive(Debug, Default)]
struct Known {
    /// One for each run of a node, in the order of their starts.
    runs: Vec<Run>,
    round: Round,
    /// By [`Kind`], in the order of [`Kind::ALL`].
    records: [Record; Kind::ALL.len()],
    /// How often channels ended, by reason.
    reasons: BTreeMap<String, u64>,
}

/// A run of a node: from one start to the end of that process.
#[derive(Clone, Copy, Debug)]
struct Run {
    address: SocketAddr,
    state: RunState,
}

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// Clients may connect to it.
    Serves,
    /// It stands still, or did until so.
    Frozen,
    /// It was told to stop.
    Stops,
    /// It was killed.
    Killed,
}

/// A run of a node, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunId(usize);

/// The round that is on.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    number: u64,
    kind: Option<Kind>,
    /// From when on it counts how long topics are silent: a home was lost then, or the broker is back.
    since: Option<Instant>,
    /// A run that stood still, and when it went on. Its own clients cannot be answered before.
    woken: Option<(RunId, Instant)>,
}

/// What the rounds of a kind have shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) rounds: u64,
    /// Channels that ended, also with their connection.
    pub(super) ended: u64,
    /// Topics that were found empty.
    pub(super) begun_anew: u64,
    /// How long clients were without an answer because a node or the broker was not there, in milliseconds.
    pub(super) silent_ms: Vec<f64>,
    /// The same, because their topic has moved.
    pub(super) moved_ms: Vec<f64>,
}

/// That a client is no longer in its topic, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    since: Instant,
    round: u64,
    /// Where the client was connected.
    run: RunId,
    is_move: bool,
}

impl World {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        let topic = |number| Arc::new(Topic::new(format!("{PLUGIN}:{number}")));
        Arc::new(Self {
            topics: (0..plan.topics).map(topic).collect(),
            plan,
            tally: Tally::default(),
            counts: Counts::default(),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has started.
    pub(super) fn started(&self, address: SocketAddr) -> RunId {
        let mut known = self.known();
        let state = RunState::Serves;
        known.runs.push(Run { address, state });
        RunId(known.runs.len() - 1)
    }

    /// Something becomes of a node.
    pub(super) fn set(&self, run: RunId, state: RunState) {
        self.known().runs[run.0].state = state;
    }

    pub(super) fn state(&self, run: RunId) -> RunState {
        self.known().runs[run.0].state
    }

    /// A node to connect to, if there is any.
    pub(super) fn any_node(&self, random: &mut Rng) -> Option<(RunId, SocketAddr)> {
        let known = self.known();
        let serving = known.runs.iter().enumerate();
        let serving: Vec<_> = serving.filter(|(_, run)| run.state == RunState::Serves).collect();
        let (at, run) = *serving.get(random.usize(..serving.len().max(1)))?;
        Some((RunId(at), run.address))
    }

    /// A round begins.
    pub(super) fn begin(&self, kind: Kind) {
        let mut known = self.known();
        let number = known.round.number + 1;
        known.round = Round {
            number,
            kind: Some(kind),
            ..Round::default()
        };
        known.records[kind as usize].rounds += 1;
    }

    /// From now on it counts how long topics are silent.
    pub(super) fn count_from_now(&self) {
        self.known().round.since = Some(Instant::now());
    }

    /// A node goes on that has stood still.
    pub(super) fn woken(&self, run: RunId) {
        self.known().round.woken = Some((run, Instant::now()));
    }

    /// So many topics were found empty in this round.
    pub(super) fn begun_anew(&self, topics: u64) {
        if let Some(record) = self.known().record() {
            record.begun_anew += topics;
        }
    }

    /// The channel of a client has ended, for this reason.
    pub(super) fn ended(&self, run: RunId, reason: &str) -> Away {
        let mut known = self.known();
        *known.reasons.entry(reason.to_owned()).or_default() += 1;
        if let Some(record) = known.record() {
            record.ended += 1;
        }
        Away {
            since: Instant::now(),
            round: known.round.number,
            run,
            is_move: reason == bennu_wire::message::reason::TOPIC_MOVED,
        }
    }

    /// A client is answered again in its topic.
    pub(super) fn returned(&self, away: Away, whose: impl Fn() -> String) {
        let Some(silent) = self.silent(away) else { return };
        let most = self.plan.most_silent();
        if silent > most {
            let of = if away.is_move {
                "topic moved"
            } else {
                "home or its broker was not there"
            };
            self.find(|| {
                format!(
                    "{}: no answer for {silent:?} because the {of}; {most:?} is twice the lease",
                    whose()
                )
            });
        }
    }

    /// Notes how long a client was without an answer that was away.
    fn silent(&self, away: Away) -> Option<Duration> {
        let mut known = self.known();
        let Round {
            number,
            kind,
            since,
            woken,
        } = known.round;
        let is_of_broker = kind?.is_of_broker();
        let from = match (since, woken) {
            // Nobody is served by others before the broker is back, and no topic arrives where it moves to.
            (Some(back), _) if is_of_broker => back.max(away.since),
            // It was away already, or again.
            _ if away.is_move || away.round != number => away.since,
            (_, Some((run, woken))) if run == away.run => woken.min(away.since),
            (Some(lost), _) => lost.min(away.since),
            (None, _) => away.since,
        };
        let silent = Instant::now().saturating_duration_since(from);
        let record = known.record()?;
        match away.is_move {
            true => record.moved_ms.push(ms(silent)),
            false => record.silent_ms.push(ms(silent)),
        }
        Some(silent)
    }

    /// Counts what must not be.
    pub(super) fn judge(&self, wrong: impl IntoIterator<Item = Wrong>, whose: impl Fn() -> String) {
        for wrong in wrong {
            let (count, what) = match wrong {
                Wrong::Undone(what) => (&self.counts.undone, what),
                Wrong::Doubled(what) => (&self.tally.doubled, what),
                Wrong::Differs(what) => (&self.tally.differences, what),
                Wrong::Outlived(what) => (&self.counts.outlived, what),
            };
            count.increment();
            self.find(|| format!("{}: {what}", whose()));
        }
    }

    /// Notes a problem in words, with the round.
    pub(super) fn find(&self, what: impl FnOnce() -> String) {
        self.tally.find(|| {
            let Round { number, kind, .. } = self.known().round;
            let round = kind.map_or("before the first round", Kind::words);
            format!("round {number} ({round}): {}", what())
        });
    }

    /// What the rounds of each kind have shown.
    pub(super) fn records(&self) -> Vec<(Kind, Record)> {
        let records = self.known().records.clone();
        Kind::ALL.into_iter().zip(records).collect()
    }

    /// How often channels ended, by reason.
    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        self.known().reasons.clone()
    }
}

impl Known {
    fn record(&mut self) -> Option<&mut Record> {
        self.round.kind.map(|kind| &mut self.records[kind as usize])
    }
}
