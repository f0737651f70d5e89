//! A sample of live state, for the probe to try new code on: some topics of every generation that serves any, some bytes,
//! written by the shards between two batches. Nothing is held for it.
//!
//! What the swap offers to new code has been tried before, in the child: state that is deadly to it is not given to it here. A
//! generation whose shards are busy is not waited for, but keeps its topics until something of it has been tried: see [`Untried`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::generation::Generation;
use super::handover::{Snapshot, TooLarge, snapshot_up_to};
use super::loader::ShardInstance;
use super::shard::{Control, Shard};
use super::slot::PluginSlot;
use crate::config::{self, OnMigrateError};
use crate::runtime::channel::Topic;

/// How long all shards together have for it.
const PATIENCE: Duration = Duration::from_millis(200);

/// The state of one topic, as the probe gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The topic's name.
    pub(crate) topic: String,
    /// The version of the state.
    pub(crate) version: u32,
    /// The topic's own, in base64.
    pub(crate) shared: String,
    /// Those of its members, as many as there was room for.
    pub(crate) members: Vec<String>,
    /// An error while it is read is no reason to refuse the code: the topic may stay where it is, or start anew.
    #[serde(default)]
    pub(crate) may_fail: bool,
}

/// What could be had.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Of all generations together.
    pub(crate) taken: Vec<Sample>,
    /// What could not.
    pub(super) untried: Untried,
}

/// Generations that serve topics, and none of whose shards had a moment: they still hear the question, and answer it when they do.
#[derive(Debug, Default)]
pub(super) struct Untried {
    generations: BTreeSet<u64>,
    reports: Option<mpsc::Receiver<(u64, Looked)>>,
}

impl Untried {
    /// Whether this is one of them.
    pub(super) fn contains(&self, generation: u64) -> bool {
        self.generations.contains(&generation)
    }

    /// One that has had a moment since, with its sample if there is any: it is none of them any more.
    pub(super) fn heard(&mut self) -> Option<(u64, Option<Sample>)> {
        loop {
            let (generation, looked) = self.reports.as_ref()?.try_recv().ok()?;
            if self.generations.remove(&generation) {
                return Some((generation, looked.sample()));
            }
        }
    }
}

/// One topic that is to be written.
#[derive(Debug)]
pub(crate) struct Sampling {
    topic: Arc<Topic>,
    version: u32,
    /// What all topics of its generation together may still write.
    bytes_left: Arc<AtomicUsize>,
    report: mpsc::Sender<(u64, Looked)>,
}

/// What a shard has found.
#[derive(Debug)]
enum Looked {
    Sample(Sample),
    /// Its own state alone is more than what is left.
    TooLarge {
        topic: String,
        bytes: usize,
    },
    /// There is no state, or it cannot be written: then it cannot be at the swap either, and that will tell.
    Nothing,
}

impl Looked {
    fn sample(self) -> Option<Sample> {
        match self {
            Self::Sample(sample) => Some(sample),
            Self::TooLarge { .. } | Self::Nothing => None,
        }
    }
}

/// Asks every generation of `live` whose state is of a version that the new code `reads` for that of some of its topics:
/// [`probe_topics`](config::Plugin::probe_topics) and [`probe_bytes`](config::Plugin::probe_bytes) in all, one topic of each
/// generation at least. Returns what has come within 200 ms.
#[must_use]
pub(crate) fn of(
    slot: &PluginSlot,
    live: &[Arc<Generation>],
    reads: &RangeInclusive<u32>,
    config: &config::Plugin,
) -> Samples {
    let mut samples = Samples::default();
    if config.probe_topics == 0 || config.probe_bytes == 0 {
        return samples;
    }
    let (report, reports) = mpsc::channel();
    let groups = by_generation(slot, live, reads);
    let share = |most: usize| (most / groups.len().max(1)).max(1);
    let (most_topics, most_bytes) = (share(config.probe_topics), share(config.probe_bytes));
    for (generation, topics) in &groups {
        let bytes_left = Arc::new(AtomicUsize::new(most_bytes));
        // From all over the list: neighbours may be alike.
        let stride = topics.len().div_ceil(most_topics);
        for topic in topics.iter().step_by(stride) {
            let sampling = Sampling {
                topic: Arc::clone(topic),
                version: generation.manifest.state_version,
                bytes_left: Arc::clone(&bytes_left),
                report: report.clone(),
            };
            // A shard that is closed has no state.
            let shard = generation.shard_of(&topic.owner());
            if shard.is_some_and(|shard| shard.control(Control::Sample(Box::new(sampling))).is_ok()) {
                samples.untried.generations.insert(generation.number);
            }
        }
    }
    drop(report);
    let current = slot.current().map(|current| current.number);
    let until = Instant::now() + PATIENCE;
    let (mut tried, mut too_large) = (BTreeSet::new(), BTreeMap::new());
    while let Ok((generation, looked)) = reports.recv_timeout(until.saturating_duration_since(Instant::now())) {
        samples.untried.generations.remove(&generation);
        match looked {
            Looked::Sample(mut sample) => {
                sample.may_fail = config.on_migrate_error == OnMigrateError::Rejoin || Some(generation) != current;
                samples.taken.push(sample);
                tried.insert(generation);
            }
            Looked::TooLarge { topic, bytes } => drop(too_large.insert(generation, (topic, bytes))),
            Looked::Nothing => {}
        }
    }
    too_large.retain(|generation, _| !tried.contains(generation));
    for (generation, (topic, bytes)) in too_large {
        let (plugin, probe_bytes) = (&slot.name, config.probe_bytes);
        tracing::info!(
            plugin,
            generation,
            topic,
            bytes,
            probe_bytes,
            "new code is not tried on the state of this generation, which is larger than its share of probe_bytes"
        );
    }
    samples.untried.reports = Some(reports);
    samples
}

/// The topics that each of these generations serves.
fn by_generation<'a>(
    slot: &PluginSlot,
    live: &'a [Arc<Generation>],
    reads: &RangeInclusive<u32>,
) -> Vec<(&'a Generation, Vec<Arc<Topic>>)> {
    let mut topics: HashMap<u64, Vec<Arc<Topic>>> = HashMap::new();
    for topic in slot.topics() {
        topics.entry(topic.owner().generation).or_default().push(topic);
    }
    let readable = live
        .iter()
        .filter(|generation| reads.contains(&generation.manifest.state_version));
    readable
        .filter_map(|generation| Some((&**generation, topics.remove(&generation.number)?)))
        .collect()
}

/// The shard's half.
pub(super) fn take(shard: &Shard, sampling: &Sampling, instance: &mut ShardInstance) {
    let Sampling { topic, version, .. } = sampling;
    let here = shard.owns(topic);
    let looked = if here && topic.record().live {
        match snapshot_up_to(shard, topic, *version, &sampling.bytes_left, instance) {
            Some(Ok(snapshot)) => Looked::Sample(Sample::new(topic, &snapshot)),
            Some(Err(TooLarge(bytes))) => Looked::TooLarge {
                topic: topic.name.to_string(),
                bytes,
            },
            None => Looked::Nothing,
        }
    } else {
        Looked::Nothing
    };
    // Whoever asked may have lost patience.
    let _ = sampling.report.send((shard.generation(), looked));
}

impl Sample {
    /// The same, which may fail.
    pub(super) fn optional(self) -> Self {
        Self { may_fail: true, ..self }
    }

    fn new(topic: &Topic, snapshot: &Snapshot) -> Self {
        Self {
            topic: topic.name.to_string(),
            version: snapshot.version,
            shared: STANDARD.encode(snapshot.shared()),
            members: snapshot.members().map(|state| STANDARD.encode(state)).collect(),
            may_fail: false,
        }
    }
}
