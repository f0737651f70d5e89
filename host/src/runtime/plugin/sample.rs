//! A sample of live state that the probe tries new code on: some topics of every generation that serves any, up to some bytes. The
//! shards write it between two batches. No topic is held for it.
//!
//! The swap gives new code only state of generations that it was tried on in the child, so that state it crashes on cannot end the
//! host. If a generation is too busy to be sampled, its topics move later, once a sample has been taken and the new code has passed
//! on it: see [`Untried`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::generation::Generation;
use super::handover::{TooLarge, snapshot_up_to};
use super::loader::{ShardInstance, said};
use super::manifest::Manifest;
use super::shard::{Control, Shard};
use super::slot::PluginSlot;
use crate::config::{self, OnMigrateError};
use crate::runtime::capsule::{Capsule, Snapshot};
use crate::runtime::channel::Topic;

/// How long the shards have to write it.
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
    /// The states of as many of its members as there was room for.
    pub(crate) members: Vec<String>,
    /// If the code cannot read it, that is no reason to refuse the code: the topic may stay where it is, or start anew.
    #[serde(default)]
    pub(crate) may_fail: bool,
}

/// What the shards have written in time.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The samples of all generations together.
    pub(crate) taken: Vec<Sample>,
    /// The generations that were too busy.
    pub(super) untried: Untried,
}

/// Generations whose shards were all too busy. They still have the question, and answer it when they get to it.
#[derive(Debug, Default)]
pub(super) struct Untried {
    generations: BTreeSet<u64>,
    reports: Option<mpsc::Receiver<(u64, Looked)>>,
    /// Samples that could not be tried because the probe was killed or could not run, and when to try them again.
    put_off: Vec<(Instant, Heard)>,
}

/// A generation that has answered since.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Which.
    pub(super) generation: u64,
    /// A sample of its state, if it has any.
    pub(super) sample: Option<Sample>,
    /// How often it was put off.
    pub(super) put_off: u32,
}

impl Samples {
    /// These alone.
    #[must_use]
    pub(crate) fn of_stored(taken: Vec<Sample>) -> Self {
        Self {
            taken,
            ..Self::default()
        }
    }
}

impl Untried {
    /// Whether this is one of them.
    pub(super) fn contains(&self, generation: u64) -> bool {
        self.generations.contains(&generation)
    }

    /// Takes one that has answered since, or that was put off until now.
    pub(super) fn heard(&mut self) -> Option<Heard> {
        let now = Instant::now();
        if let Some(due) = self.put_off.iter().position(|(at, _)| *at <= now) {
            return Some(self.put_off.swap_remove(due).1);
        }
        loop {
            let (generation, looked) = self.reports.as_ref()?.try_recv().ok()?;
            if self.generations.remove(&generation) {
                return Some(Heard {
                    generation,
                    sample: looked.sample(),
                    put_off: 0,
                });
            }
        }
    }

    /// [`heard`](Self::heard) returns it once more: after 1 s the first time, then after twice as long each time.
    pub(super) fn put_off(&mut self, heard: Heard) {
        let after = Duration::from_secs(1 << heard.put_off.min(6));
        let put_off = heard.put_off + 1;
        self.put_off.push((Instant::now() + after, Heard { put_off, ..heard }));
    }
}

/// A request to a shard to write one topic.
#[derive(Debug)]
pub(crate) struct Sampling {
    topic: Arc<Topic>,
    version: u32,
    /// How many bytes all topics of its generation together may still write.
    bytes_left: Arc<AtomicUsize>,
    report: mpsc::Sender<(u64, Looked)>,
}

/// What a shard has found.
#[derive(Debug)]
enum Looked {
    Sample(Sample),
    /// The topic's own state alone is larger than that.
    TooLarge {
        topic: String,
        bytes: usize,
    },
    /// There is no state, or the plugin cannot write it. The swap will find that out and say so.
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

/// Asks each generation of `live` for the state of some of its topics, if the new code `reads` that version:
/// [`probe_topics`](config::Plugin::probe_topics) and [`probe_bytes`](config::Plugin::probe_bytes) in total, at least one topic of
/// each generation. Returns what has arrived within 200 ms.
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
        // Spread over the list, because neighbours may be alike.
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
            "no sample: the state of this topic is too large for its share of `probe_bytes`"
        );
    }
    samples.untried.reports = Some(reports);
    samples
}

/// A stored topic whose version of state new code does not read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) topic: String,
    pub(crate) version: u32,
}

/// Some stored topics of a plugin, as [`of`] samples those in memory, and the first that the code does not `read`. That one cannot be
/// read is no reason to refuse code that nothing else could stand in for: its joins are refused then.
#[must_use]
pub(crate) fn stored(
    slot: &PluginSlot,
    reads: &RangeInclusive<u32>,
    config: &config::Plugin,
) -> (Vec<Sample>, Option<Unread>) {
    let Some(durable) = slot.durable().filter(|_| config.probe_topics > 0) else {
        return (Vec::new(), None);
    };
    let page = durable.store().page(&slot.name, "", None, config.probe_topics);
    let page = page.inspect_err(|error| {
        let plugin = &slot.name;
        tracing::error!(
            plugin,
            error = error as &dyn std::error::Error,
            "no sample of the stored topics"
        );
    });
    let mut bytes_left = config.probe_bytes;
    let may_fail = config.on_migrate_error == OnMigrateError::Rejoin || slot.current().is_none();
    let (mut samples, mut unread) = (Vec::new(), None);
    for stored in page.unwrap_or_default() {
        let Ok(capsule) = Capsule::decode(&stored.capsule) else {
            continue;
        };
        if stored.set_aside.is_some() {
            continue;
        }
        let version = capsule.state.version;
        if !reads.contains(&version) {
            let topic = said(&stored.topic).into_owned();
            unread.get_or_insert(Unread { topic, version });
        } else if let Some(left) = bytes_left.checked_sub(capsule.state.bytes()) {
            bytes_left = left;
            let sample = Sample::new(&stored.topic, &capsule.state);
            samples.push(Sample { may_fail, ..sample });
        }
    }
    (samples, unread)
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
            Some(Ok(snapshot)) => Looked::Sample(Sample::new(&topic.name, &snapshot)),
            Some(Err(TooLarge(bytes))) => Looked::TooLarge {
                topic: topic.name.to_string(),
                bytes,
            },
            None => Looked::Nothing,
        }
    } else {
        Looked::Nothing
    };
    // The asker may have stopped waiting.
    let _ = sampling.report.send((shard.generation(), looked));
}

impl Sample {
    /// The state that a topic begins with, which the code makes itself: no bytes stand for it.
    pub(super) fn first(manifest: &Manifest) -> Self {
        Self {
            topic: "a new topic".to_owned(),
            version: manifest.state_version,
            shared: String::new(),
            members: Vec::new(),
            may_fail: false,
        }
    }

    /// Whether it is that.
    pub(super) fn is_first(&self) -> bool {
        self.shared.is_empty()
    }

    /// The same, which must not fail.
    pub(super) fn required(self) -> Self {
        Self {
            may_fail: false,
            ..self
        }
    }

    /// The same sample, which the code need not be able to read.
    pub(super) fn optional(self) -> Self {
        Self { may_fail: true, ..self }
    }

    fn new(topic: &str, snapshot: &Snapshot) -> Self {
        Self {
            topic: topic.to_owned(),
            version: snapshot.version,
            shared: STANDARD.encode(&snapshot.shared),
            members: { snapshot.members.iter() }
                .map(|member| STANDARD.encode(&member.state))
                .collect(),
            may_fail: false,
        }
    }
}
