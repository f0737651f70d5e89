//! A sample of live state, for the probe to try new code on: some topics, some bytes, written by the shards between two
//! batches. Nothing is held for it, and a shard that is busy is not waited for.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::handover::{Snapshot, snapshot_up_to};
use super::loader::ShardInstance;
use super::shard::{Control, ShardQueue};
use super::slot::PluginSlot;
use crate::channel::Topic;

/// How long all shards together have for it.
const PATIENCE: Duration = Duration::from_millis(200);

/// The state of one topic, as the probe gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The topic's name.
    pub topic: String,
    /// The version of the state.
    pub version: u32,
    /// The topic's own, in base64.
    pub shared: String,
    /// Those of its members.
    pub members: Vec<String>,
}

/// One topic that is to be written.
#[derive(Debug)]
pub struct Sampling {
    topic: Arc<Topic>,
    version: u32,
    most_bytes: usize,
    report: mpsc::Sender<Sample>,
}

/// Asks the code in service for the state of at most `most_topics` topics, `most_bytes` in all. Returns what has come
/// within 200 ms.
#[must_use]
pub fn of(slot: &PluginSlot, most_topics: usize, most_bytes: usize) -> Vec<Sample> {
    let Some(current) = slot.current().filter(|_| most_topics > 0) else {
        return Vec::new();
    };
    let (report, samples) = mpsc::channel();
    let topics = slot.topics();
    // From all over the list: neighbours may be alike.
    let stride = topics.len().div_ceil(most_topics).max(1);
    for topic in topics.into_iter().step_by(stride) {
        let home = topic.home();
        if home.generation != current.number {
            continue;
        }
        let sampling = Sampling {
            topic,
            version: current.manifest.state_version,
            most_bytes: most_bytes / most_topics,
            report: report.clone(),
        };
        // A shard that is closed has no state.
        let _ = home.control(Control::Sample(Box::new(sampling)));
    }
    drop(report);
    let until = Instant::now() + PATIENCE;
    let next = || {
        samples
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .ok()
    };
    std::iter::from_fn(next).collect()
}

/// The shard's half.
pub(super) fn take(home: &ShardQueue, sampling: &Sampling, instance: &mut ShardInstance) {
    let Sampling { topic, version, .. } = sampling;
    let here = std::ptr::eq(&raw const *topic.home(), home);
    if !here || !topic.book().live {
        return;
    }
    // What cannot be written now cannot be written at the swap either: that will tell.
    if let Some(snapshot) = snapshot_up_to(home, topic, *version, sampling.most_bytes, instance) {
        // Whoever asked may have lost patience.
        let _ = sampling.report.send(Sample::new(topic, &snapshot));
    }
}

impl Sample {
    fn new(topic: &Topic, snapshot: &Snapshot) -> Self {
        Self {
            topic: topic.name.to_string(),
            version: snapshot.version,
            shared: STANDARD.encode(snapshot.shared()),
            members: snapshot.members().map(|state| STANDARD.encode(state)).collect(),
        }
    }
}
