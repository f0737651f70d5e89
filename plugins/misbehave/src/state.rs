//! The state of topics and members, in two versions.

use bennu_plugin::prelude::*;

use crate::unruly::{hang, misbehave};

/// The version of the state: 1.
#[cfg(not(feature = "v2"))]
pub(crate) const VERSION: u32 = 1;
/// The version of the state: 2, which reads version 1.
#[cfg(feature = "v2")]
pub(crate) const VERSION: u32 = 2;

/// The topic's state in version 1.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TopicV1 {
    #[cfg_attr(any(feature = "renamed", feature = "aliased"), serde(rename = "total"))]
    #[cfg_attr(feature = "aliased", serde(alias = "count"))]
    pub(crate) count: u64,
    #[serde(skip_serializing_if = "Odd::is_none")]
    pub(crate) odd: Odd,
    pub(crate) joins: Vec<Later>,
    pub(crate) traps: TopicTraps,
}

/// What is written, but serde cannot read: it has no place for so long a number inside a type with a tag.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Odd {
    None,
    Long { number: u128 },
}

impl Odd {
    pub(crate) fn long() -> Self {
        Self::Long { number: 1 }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Default for Odd {
    fn default() -> Self {
        if cfg!(feature = "unreadable") {
            return Self::long();
        }
        Self::None
    }
}

/// The topic's state in version 2: the count has another name, and two parts.
#[cfg(feature = "v2")]
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct TopicV2 {
    pub(crate) counts: Counts,
    #[serde(default, skip_serializing_if = "Odd::is_none")]
    pub(crate) odd: Odd,
    pub(crate) joins: Vec<Later>,
    pub(crate) traps: TopicTraps,
}

/// The two parts of a topic's count.
#[cfg(feature = "v2")]
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) before: u64,
    pub(crate) since: u64,
}

/// Traps of the topic: for when it is written or dropped.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct TopicTraps(#[serde(serialize_with = "write_traps")] pub(crate) Vec<String>);

impl Drop for TopicTraps {
    fn drop(&mut self) {
        assert!(!self.0.iter().any(|trap| trap == "drop"), "trap in drop");
    }
}

#[cfg(not(feature = "v2"))]
pub(crate) type Topic = TopicV1;
#[cfg(feature = "v2")]
pub(crate) type Topic = TopicV2;

impl Topic {
    /// Counts an event, and returns how many there were.
    #[cfg(not(feature = "v2"))]
    pub(crate) fn add(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// How many events were counted.
    #[cfg(not(feature = "v2"))]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    #[cfg(feature = "v2")]
    pub(crate) fn count(&self) -> u64 {
        self.counts.before + self.counts.since
    }

    #[cfg(feature = "v2")]
    pub(crate) fn add(&mut self) -> u64 {
        self.counts.since += 1;
        self.counts.before + self.counts.since
    }
}

/// A member's state, in both versions.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) count: u64,
    /// Where to misbehave later.
    #[serde(serialize_with = "write_traps")]
    pub(crate) traps: Vec<String>,
    /// Promised replies.
    pub(crate) owed: Vec<Later>,
    /// New in version 2.
    #[cfg(feature = "v2")]
    #[serde(default = "new_mood")]
    pub(crate) mood: String,
}

impl Member {
    pub(crate) fn is_trapped(&self, place: &str) -> bool {
        self.traps.iter().any(|trap| trap == place)
    }

    /// Springs the traps at `place`.
    pub(crate) fn pass(&self, place: &str) {
        let traps = self.traps.iter().filter_map(|trap| trap.split_once(':'));
        for (how, _) in traps.filter(|(_, at)| *at == place) {
            // Nothing takes the error here.
            let _ = misbehave(how);
        }
        assert!(!self.is_trapped(place), "trap in {place}");
    }

    #[cfg(not(feature = "v2"))]
    pub(crate) fn count(&mut self, topic: &mut Topic) -> Value {
        self.count += 1;
        json!({ "topic": topic.add(), "member": self.count, "version": VERSION })
    }

    #[cfg(feature = "v2")]
    pub(crate) fn count(&mut self, topic: &mut Topic) -> Value {
        self.count += 1;
        json!({ "topic": topic.add(), "member": self.count, "version": VERSION, "mood": self.mood })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pass("drop");
    }
}

#[cfg(feature = "v2")]
fn new_mood() -> String {
    "fresh".to_owned()
}

fn write_traps<S: serde::Serializer>(traps: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if traps.iter().any(|trap| trap == "hang:snapshot") {
        hang();
    }
    assert!(!traps.iter().any(|trap| trap == "snapshot"), "trap in snapshot");
    if traps.iter().any(|trap| trap == "snapshot_error") {
        return Err(serde::ser::Error::custom("trap in snapshot"));
    }
    traps.serialize(serializer)
}

/// Reads a member, then springs its traps.
pub(crate) fn read_member(old: Old<'_>) -> Result<Member, MigrateError> {
    let member: Member = old.read()?;
    if cfg!(feature = "bad_restore") {
        return Err(MigrateError::new("built never to read a member"));
    }
    member.pass("restore");
    if member.is_trapped("restore_error") {
        return Err(MigrateError::new("trap in restore"));
    }
    Ok(member)
}

/// Reads no topic that was used. What a topic begins with it can read, or it would be refused at its first load.
#[cfg(feature = "bad_restore")]
pub(crate) fn read_topic(_: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
    let topic: Topic = old.read()?;
    let is_fresh = topic.count == 0 && topic.joins.is_empty();
    let never = || MigrateError::new("built never to read what was used");
    is_fresh.then_some(topic).ok_or_else(never)
}

/// Reads a topic of this version or the one before.
#[cfg(not(feature = "bad_restore"))]
pub(crate) fn read_topic(from: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
    #[cfg(feature = "v2")]
    if from == 1 {
        let TopicV1 {
            count,
            odd,
            joins,
            traps,
        } = old.read()?;
        return Ok(Topic {
            counts: Counts {
                before: count,
                since: 0,
            },
            odd,
            joins,
            traps,
        });
    }
    if from != VERSION {
        return Err(MigrateError::new(format!("version {from} is not version {VERSION}")));
    }
    old.read()
}
