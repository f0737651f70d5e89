//! What this node has of what backends read: all of it on a host that is alone, a part of it in a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use bennu_wire::pattern::TopicPattern;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::answer::{Reason, Refusal};
use super::read::cursor;
use crate::runtime::capsule::Capsule;
use crate::runtime::channel::Topic;
use crate::runtime::clock;
use crate::runtime::plugin::{Place, PluginSlot};
use crate::server::endpoint::Endpoint;
use crate::server::io::{Connection, Described as OfThread, Entry};
use crate::server::question::{ConnectionsWanted, TopicWanted, TopicsWanted};

/// A topic, and the plugin that serves it.
type Found<'a> = (Arc<Topic>, &'a Arc<PluginSlot>);

/// Topics that are alive here, in the order of their names.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Topics {
    /// Each with its entries: one for each plugin that has a topic of this name.
    pub(super) topics: Vec<(String, Vec<Box<RawValue>>)>,
    /// Nothing comes behind them.
    pub(super) is_all: bool,
}

/// Connections that are here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Connections {
    /// How many there are.
    pub(super) count: usize,
    /// Some of them.
    pub(super) connections: Vec<Box<RawValue>>,
}

/// The name of this node, in a cluster.
fn node(endpoint: &Endpoint) -> Option<&str> {
    endpoint.state.cluster.get().map(|cluster| cluster.name())
}

/// The topics that match one of these patterns.
pub(super) fn topics(endpoint: &Endpoint, patterns: &[TopicPattern], wanted: &TopicsWanted) -> Topics {
    let routing = endpoint.state.routing();
    // One more than asked for tells whether there is another page.
    let mut found: BTreeMap<ByteString, BTreeMap<&str, Found<'_>>> = BTreeMap::new();
    for pattern in patterns {
        let Some(common) = common_prefix(&wanted.prefix, pattern) else {
            continue;
        };
        for slot in routing.routes.plugins.values() {
            for topic in slot.page(&common, wanted.after.as_deref(), wanted.entries + 1) {
                if pattern.matches(&topic.name) {
                    let of_topic = found.entry(topic.name.clone()).or_default();
                    of_topic.insert(&slot.name, (topic, slot));
                }
            }
        }
    }
    let mut page = Page::new(wanted.entries, wanted.bytes);
    let mut topics = Vec::new();
    for (name, of_topic) in found {
        // A topic of two plugins, which routes of several mounts can make, stays on one page.
        let of_topic = of_topic.values();
        let shown: Vec<_> = of_topic
            .map(|(topic, slot)| raw(&Described::of(topic, slot, node(endpoint))))
            .collect();
        // Every page leads on.
        if !page.takes(&shown, topics.is_empty()) {
            return Topics { topics, is_all: false };
        }
        topics.push((name.to_string(), shown));
    }
    Topics { topics, is_all: true }
}

/// One topic, in memory or stored, with its presence list, or as much of that as an answer may have bytes.
pub(super) async fn topic(endpoint: &Endpoint, wanted: &TopicWanted) -> Result<Box<RawValue>, Refusal> {
    let name = ByteString::from(&*wanted.topic);
    let (slot, topic) = match endpoint.state.routing().routes.place(&name) {
        Some(Place::Alive(slot, topic)) => (slot, Some(topic)),
        Some(Place::Absent(slot)) => (slot, None),
        None => return Err(Refusal::new(Reason::NoRoute, "no route matches this topic")),
    };
    let stored = stored(&slot, &name).await?;
    if topic.is_none() && stored.is_none() {
        return Err(Refusal::new(Reason::NotAlive, "this topic does not exist"));
    }
    let list = { topic.as_ref() }.and_then(|topic| topic.record().presence.as_ref().map(|presence| presence.list()));
    // The list is JSON that the host has put together itself.
    let list: Option<BTreeMap<String, &RawValue>> = list.as_deref().and_then(|list| serde_json::from_slice(list).ok());
    let (presence, next) = list
        .map(|list| presence_page(list, wanted.after.as_deref(), wanted.bytes))
        .transpose()?
        .map_or((None, None), |(page, next)| (Some(page), next));
    let topic = match &topic {
        Some(topic) => Described::of(topic, &slot, node(endpoint)),
        None => Described::asleep(&name, &slot, node(endpoint)),
    };
    let cursor = next.map(|next| cursor(&next));
    Ok(raw(&Shown {
        topic,
        presence,
        stored,
        cursor,
    }))
}

/// The connections of a socket id.
pub(super) async fn connections(endpoint: &Endpoint, wanted: &ConnectionsWanted) -> Result<Connections, Refusal> {
    let socket_id = ByteString::from(&*wanted.socket_id);
    let (reply, mut described) = mpsc::unbounded_channel();
    let most = (wanted.entries, wanted.bytes);
    endpoint
        .inboxes
        .send_all(|| Entry::Describe(socket_id.clone(), most, reply.clone()));
    drop(reply);
    let all = async {
        let mut all = Vec::new();
        while let Some(some) = described.recv().await {
            all.push(some);
        }
        all
    };
    let late = |_| Refusal::new(Reason::Overloaded, "the I/O threads do not answer in time");
    let patience = endpoint.state.routing().config.api.heard_timeout;
    let all: Vec<OfThread> = clock::timeout(patience, all).await.map_err(late)?;
    let mut page = Page::new(wanted.entries, wanted.bytes);
    let connections = { all.iter() }.flat_map(|some| &some.connections);
    let shown = connections.map(|connection| raw(&OfConnection::of(connection, node(endpoint))));
    Ok(Connections {
        count: all.iter().map(|some| some.count).sum(),
        connections: { shown }
            .take_while(|shown| page.takes(std::slice::from_ref(shown), false))
            .collect(),
    })
}

/// How much of a page is free: in entries, and in bytes.
pub(super) struct Page {
    entries: usize,
    bytes: usize,
}

impl Page {
    pub(super) fn new(entries: usize, bytes: usize) -> Self {
        Self { entries, bytes }
    }

    /// Takes these entries, all or none of them: all if it `must`.
    pub(super) fn takes(&mut self, more: &[Box<RawValue>], must: bool) -> bool {
        let bytes = more.iter().map(|entry| entry.get().len() + 1).sum::<usize>();
        let has_room = more.len() <= self.entries && bytes <= self.bytes;
        if !has_room && !must {
            return false;
        }
        self.entries = self.entries.saturating_sub(more.len());
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

#[derive(Serialize)]
struct Described<'a> {
    topic: &'a str,
    plugin: &'a str,
    generation: u64,
    members: usize,
    joining: usize,
    /// Its home, in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    topic: Described<'a>,
    presence: Option<BTreeMap<String, &'a RawValue>>,
    stored: Option<OnDisk>,
    cursor: Option<String>,
}

/// A stored topic. What cannot be read of it is null.
#[derive(Serialize)]
struct OnDisk {
    bytes: usize,
    state_version: Option<u32>,
    written_unix_ms: Option<u64>,
    timers: Option<usize>,
}

impl OnDisk {
    fn of(bytes: &[u8]) -> Self {
        let capsule = Capsule::decode(bytes).ok();
        Self {
            bytes: bytes.len(),
            state_version: capsule.as_ref().map(|capsule| capsule.state.version),
            written_unix_ms: capsule.as_ref().map(|capsule| capsule.written_unix_ms),
            timers: capsule.map(|capsule| capsule.timers.len()),
        }
    }
}

#[derive(Serialize)]
struct OfConnection<'a> {
    transport: &'a str,
    mount: &'a str,
    vsn: &'a str,
    topics: Vec<&'a str>,
    /// Where it is, in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

impl<'a> OfConnection<'a> {
    fn of(connection: &'a Connection, node: Option<&'a str>) -> Self {
        Self {
            transport: connection.transport,
            mount: &connection.mount,
            vsn: connection.vsn,
            topics: connection.topics.iter().map(|topic| &**topic).collect(),
            node,
        }
    }
}

impl<'a> Described<'a> {
    fn of(topic: &'a Topic, slot: &'a PluginSlot, node: Option<&'a str>) -> Self {
        let (members, joined) = {
            let record = topic.record();
            (record.members.len(), record.joined())
        };
        Self {
            topic: &topic.name,
            plugin: &slot.name,
            generation: topic.owner().generation,
            members: joined,
            joining: members - joined,
            node,
        }
    }
}

impl<'a> Described<'a> {
    /// A topic that is stored and not in memory.
    fn asleep(name: &'a str, slot: &'a PluginSlot, node: Option<&'a str>) -> Self {
        Self {
            topic: name,
            plugin: &slot.name,
            generation: slot.current().map_or(0, |current| current.number),
            members: 0,
            joining: 0,
            node,
        }
    }
}

fn raw(entry: &impl Serialize) -> Box<RawValue> {
    to_raw_value(entry).expect("entries have texts as keys")
}

/// What is on the disk of a topic, if its plugin stores any.
async fn stored(slot: &Arc<PluginSlot>, name: &ByteString) -> Result<Option<OnDisk>, Refusal> {
    let Some(durable) = slot.durable() else {
        return Ok(None);
    };
    let (store, key) = (durable.store().clone(), durable.key(name));
    let failed = || Refusal::new(Reason::Unavailable, "what is stored of this topic cannot be read");
    // It waits for the disk.
    let found = spawn_blocking(move || store.get(&key)).await;
    let found = found.map_err(|_| failed())?.map_err(|_| failed())?;
    Ok(found.map(|bytes| OnDisk::of(&bytes)))
}

/// The part of a presence list that begins behind a key and has no more bytes than this. With its last key, if there are others.
fn presence_page<'a>(
    list: BTreeMap<String, &'a RawValue>,
    after: Option<&str>,
    most: usize,
) -> Result<(BTreeMap<String, &'a RawValue>, Option<String>), Refusal> {
    let (mut page, mut bytes) = (BTreeMap::new(), 0);
    for (key, entry) in list.into_iter().filter(|(key, _)| Some(&**key) > after) {
        // A byte of the key takes six at most.
        bytes += 6 * key.len() + entry.get().len();
        if bytes > most {
            return match page.last_key_value().map(|(last, _): (&String, _)| last.clone()) {
                Some(last) => Ok((page, Some(last))),
                None => Err(Refusal::new(
                    Reason::TooLarge,
                    format!("what is tracked under `{key}` alone has more than {most} bytes (`max_answer_bytes`)"),
                )),
            };
        }
        page.insert(key, entry);
    }
    Ok((page, None))
}

/// The prefix of all topics that begin with `prefix` and match the pattern. `None` if there can be none.
fn common_prefix(prefix: &str, pattern: &TopicPattern) -> Option<String> {
    let text = pattern.to_string();
    let of_pattern = text.strip_suffix('*').unwrap_or(&text);
    match () {
        () if of_pattern.starts_with(prefix) => Some(of_pattern.to_owned()),
        () if pattern.matches(prefix) => Some(prefix.to_owned()),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: &str, pattern: &str, expected: Option<&str>) {
        let pattern = TopicPattern::parse(pattern).expect("a pattern");
        assert_eq!(
            common_prefix(prefix, &pattern).as_deref(),
            expected,
            "{prefix} {pattern}"
        );
    }

    #[test]
    fn a_page_begins_where_prefix_and_pattern_meet() {
        check("", "*", Some(""));
        check("room:", "*", Some("room:"));
        check("room:1", "room:*", Some("room:1"));
        check("ro", "room:*", Some("room:"));
        check("user:", "room:*", None);
        check("room:l", "room:lobby", Some("room:lobby"));
        check("room:lobby", "room:lobby", Some("room:lobby"));
        check("room:lobby:2", "room:lobby", None);
    }

    #[test]
    fn a_presence_list_is_cut_by_its_bytes_and_goes_on_behind_its_last_key() {
        let entry: Box<RawValue> = to_raw_value(&["x"; 10]).expect("a list");
        let list = || ["a", "b", "c"].map(|key| (key.to_owned(), &*entry)).into();
        let bytes = entry.get().len() + 6;
        let keys = |after, most| {
            let (page, next) = presence_page(list(), after, most).map_err(|refusal| refusal.reason)?;
            Ok((page.into_keys().collect::<String>(), next))
        };
        assert_eq!(keys(None, 3 * bytes), Ok(("abc".to_owned(), None)));
        assert_eq!(keys(None, 3 * bytes - 1), Ok(("ab".to_owned(), Some("b".to_owned()))));
        assert_eq!(keys(Some("b"), bytes), Ok(("c".to_owned(), None)));
        assert_eq!(keys(None, bytes - 1), Err(Reason::TooLarge));
    }

    #[test]
    fn a_page_takes_as_many_entries_as_fit_and_those_that_it_must() {
        let entry: Box<RawValue> = to_raw_value("12345678").expect("a text");
        let two = [entry.clone(), entry];
        let mut page = Page::new(3, 45);
        assert!(page.takes(&two, false));
        assert!(!page.takes(&two, false), "it has place for one");
        assert!(page.takes(&two[..1], false));
        assert!(!page.takes(&two[..1], false));
        let mut narrow = Page::new(9, 21);
        assert!(!narrow.takes(&two, false), "they have 22 bytes");
        assert!(narrow.takes(&two, true));
        assert!(!narrow.takes(&two[..1], false));
    }
}
