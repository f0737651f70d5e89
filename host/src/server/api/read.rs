//! What runs: topics page by page, one topic with its presence list, and the connections of a socket id.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bennu_wire::pattern::TopicPattern;
use bytestring::ByteString;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::broadcast::text;
use crate::runtime::channel::Topic;
use crate::runtime::clock;
use crate::runtime::plugin::{Place, PluginSlot};
use crate::server::io::{Connection, Described as OfThread, Entry};

/// A topic, and the plugin that serves it.
type Found<'a> = (Arc<Topic>, &'a Arc<PluginSlot>);

/// The topics that the key may name.
pub(super) fn topics(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["prefix", "cursor", "limit"])?;
    let prefix = query.get("prefix").unwrap_or("");
    let most = limit(asked, query.get("limit"))?;
    let after = query.get("cursor").map(read_cursor).transpose()?;
    // One more than asked for tells whether there is another page.
    let mut found: BTreeMap<ByteString, BTreeMap<&str, Found<'_>>> = BTreeMap::new();
    for pattern in &asked.key.topics {
        let Some(common) = common_prefix(prefix, pattern) else {
            continue;
        };
        for slot in asked.routing.routes.plugins.values() {
            for topic in slot.page(&common, after.as_deref(), most + 1) {
                if pattern.matches(&topic.name) {
                    let of_topic = found.entry(topic.name.clone()).or_default();
                    of_topic.insert(&slot.name, (topic, slot));
                }
            }
        }
    }
    let mut page = Page::new(asked);
    let (mut last, mut is_all) = (None, true);
    for (name, of_topic) in found {
        // A topic of two plugins, which routes of several mounts can make, stays on one page.
        let shown: Vec<_> = of_topic.values().map(|(topic, slot)| shown(topic, slot)).collect();
        let is_first = last.is_none();
        if !is_first && (page.entries.len() + shown.len() > most || !page.has_room(&shown)) {
            is_all = false;
            break;
        }
        page.add(shown);
        last = Some(name);
    }
    let cursor = last.filter(|_| !is_all).map(|last| cursor(&last));
    let topics = page.entries;
    held(asked, &Topics { topics, cursor })
}

/// One topic, with its presence list, or as much of that as an answer may have bytes.
pub(super) fn topic(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["cursor"])?;
    let after = query.get("cursor").map(read_cursor).transpose()?;
    let name = ByteString::from(&*asked.name);
    if !asked.key.may_name(&name) {
        return Err(Refusal::forbidden());
    }
    let (slot, topic) = match asked.routing.routes.place(&name) {
        Some(Place::Alive(slot, topic)) => (slot, topic),
        Some(Place::Absent(_)) => return Err(Refusal::new(Reason::NotAlive, "nobody is on this topic")),
        None => return Err(Refusal::new(Reason::NoRoute, "no route takes this topic")),
    };
    let list = topic.record().presence.as_ref().map(|presence| presence.list());
    // The list is JSON that the host has put together itself.
    let list: Option<BTreeMap<String, &RawValue>> = list.as_deref().and_then(|list| serde_json::from_slice(list).ok());
    let most = asked.routing.config.api.max_answer_bytes;
    let (presence, next) = list
        .map(|list| presence_page(list, after.as_deref(), most))
        .transpose()?
        .map_or((None, None), |(page, next)| (Some(page), next));
    let topic = Described::of(&topic, &slot);
    let cursor = next.map(|next| cursor(&next));
    held(
        asked,
        &Shown {
            topic,
            presence,
            cursor,
        },
    )
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

/// The connections of a socket id.
pub(super) async fn connections(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["socket_id", "limit"])?;
    let most = limit(asked, query.get("limit"))?;
    let socket_id = query.get("socket_id").map(Into::into);
    let socket_id = text(socket_id, "socket_id", asked.routing.config.limits.max_topic_bytes)?;
    if !asked.key.may_name(&socket_id) {
        return Err(Refusal::forbidden());
    }
    let (config, inboxes) = (&asked.routing.config.api, &asked.api.endpoint.inboxes);
    let (reply, mut described) = mpsc::unbounded_channel();
    inboxes.send_all(|| Entry::Describe(socket_id.clone(), (most, config.max_answer_bytes), reply.clone()));
    drop(reply);
    let all = async {
        let mut all = Vec::new();
        while let Some(some) = described.recv().await {
            all.push(some);
        }
        all
    };
    let late = |_| Refusal::new(Reason::Overloaded, "the I/O threads do not answer in time");
    let all: Vec<OfThread> = clock::timeout(config.heard_timeout, all).await.map_err(late)?;
    let count: usize = all.iter().map(|some| some.count).sum();
    let mut page = Page::new(asked);
    for connection in all.iter().flat_map(|some| &some.connections).take(most) {
        let shown = [raw(&OfConnection::of(connection))];
        if !page.has_room(&shown) {
            break;
        }
        page.add(shown);
    }
    let (connections, more) = (page.entries, page.count < count);
    held(
        asked,
        &Connections {
            count,
            connections,
            more,
        },
    )
}

/// Entries of an answer, as many as it may have bytes.
struct Page {
    entries: Vec<Box<RawValue>>,
    count: usize,
    room: usize,
}

impl Page {
    fn new(asked: &Asked) -> Self {
        Self {
            entries: Vec::new(),
            count: 0,
            room: asked.routing.config.api.max_answer_bytes,
        }
    }

    fn has_room(&self, more: &[Box<RawValue>]) -> bool {
        more.iter().map(|entry| entry.get().len() + 1).sum::<usize>() <= self.room
    }

    fn add(&mut self, more: impl IntoIterator<Item = Box<RawValue>>) {
        for entry in more {
            self.room = self.room.saturating_sub(entry.get().len() + 1);
            self.count += 1;
            self.entries.push(entry);
        }
    }
}

#[derive(Serialize)]
struct Topics {
    topics: Vec<Box<RawValue>>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Described<'a> {
    topic: &'a str,
    plugin: &'a str,
    generation: u64,
    members: usize,
    joining: usize,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    topic: Described<'a>,
    presence: Option<BTreeMap<String, &'a RawValue>>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Connections {
    count: usize,
    connections: Vec<Box<RawValue>>,
    /// There are more than those.
    more: bool,
}

#[derive(Serialize)]
struct OfConnection<'a> {
    transport: &'a str,
    mount: &'a str,
    vsn: &'a str,
    topics: Vec<&'a str>,
}

impl<'a> OfConnection<'a> {
    fn of(connection: &'a Connection) -> Self {
        Self {
            transport: connection.transport,
            mount: &connection.mount,
            vsn: connection.vsn,
            topics: connection.topics.iter().map(|topic| &**topic).collect(),
        }
    }
}

impl<'a> Described<'a> {
    fn of(topic: &'a Topic, slot: &'a PluginSlot) -> Self {
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
        }
    }
}

fn shown(topic: &Topic, slot: &PluginSlot) -> Box<RawValue> {
    raw(&Described::of(topic, slot))
}

fn raw(entry: &impl Serialize) -> Box<RawValue> {
    to_raw_value(entry).expect("entries have texts as keys")
}

/// An answer that counts, as long as nobody has read it, as what the server holds for clients.
fn held(asked: &Asked, body: &impl Serialize) -> Result<Answer, Refusal> {
    let mut answer = Answer::ok(body);
    let most = asked.routing.config.limits.max_outbound_total_bytes;
    let responses = &asked.api.endpoint.state.responses;
    answer.body = responses
        .hold(answer.body, most)
        .map_err(|_| Refusal::new(Reason::Overloaded, "too many bytes of answers wait to be read"))?;
    Ok(answer)
}

fn cursor(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
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

fn limit(asked: &Asked, text: Option<&str>) -> Result<usize, Refusal> {
    let most = asked.routing.config.api.max_page;
    let Some(text) = text else { return Ok(most) };
    match text.parse::<usize>() {
        Ok(limit @ 1..) => Ok(limit.min(most)),
        _ => Err(Refusal::invalid("`limit` must be a whole number from 1")),
    }
}

fn read_cursor(text: &str) -> Result<String, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Refusal::invalid("`cursor` must be one that a page ended with"))
}

/// The params behind the path.
struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads the params, which must be among `known` and stand there once.
    fn read(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut params = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| {
                let spaced = text.replace('+', " ");
                let decoded = percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned());
                decoded.map_err(|_| Refusal::invalid("the query is not UTF-8"))
            };
            let name = decoded(name)?;
            if !known.contains(&&*name) {
                return Err(Refusal::invalid(format!("there is no parameter `{name}` here")));
            }
            let message = format!("there is more than one `{name}`");
            if params.insert(name, decoded(value)?).is_some() {
                return Err(Refusal::invalid(message));
            }
        }
        Ok(Self(params))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
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
    fn params_are_known_and_stand_there_once() {
        let read = |query: &str| Query::read(query, &["prefix", "limit"]).map(|query| query.0);
        let found = read("prefix=a%20b+c%2B&limit=&").expect("a query");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                ("limit".to_owned(), String::new()),
                ("prefix".to_owned(), "a b c+".to_owned())
            ]
        );
        for query in ["prefx=a", "prefix=a&prefix=b", "prefix=%ff"] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}
