//! What runs: topics page by page, one topic with its presence list, and the connections of a socket id.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bennu_wire::pattern::TopicPattern;
use bytestring::ByteString;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::broadcast::text;
use crate::runtime::channel::Topic;
use crate::runtime::plugin::{Place, PluginSlot};
use crate::server::io::{Described, Entry};

/// A topic, and the plugin that serves it.
type Found<'a> = (Arc<Topic>, &'a Arc<PluginSlot>);

/// The topics that the key may name.
pub(super) fn topics(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["prefix", "cursor", "limit"])?;
    let prefix = query.get("prefix").unwrap_or("");
    let most = limit(asked, query.get("limit"))?;
    let after = query.get("cursor").map(read_cursor).transpose()?;
    // One more than asked for tells whether there is another page.
    let mut found: BTreeMap<(ByteString, &str), Found<'_>> = BTreeMap::new();
    for pattern in &asked.key.topics {
        let Some(common) = common_prefix(prefix, pattern) else {
            continue;
        };
        for slot in asked.routing.routes.plugins.values() {
            for topic in slot.page(&common, after.as_deref(), most + 1) {
                if pattern.matches(&topic.name) {
                    found.insert((topic.name.clone(), &slot.name), (topic, slot));
                }
            }
        }
    }
    let page: Vec<_> = found.into_values().collect();
    // A topic of two plugins, which routes of several mounts can make, stays on one page.
    let end = page.get(most).map_or(page.len(), |(next, _)| {
        let begins = page
            .iter()
            .position(|(topic, _)| topic.name == next.name)
            .unwrap_or(most);
        if begins == 0 { page.len() } else { begins }
    });
    let cursor = (end < page.len()).then(|| URL_SAFE_NO_PAD.encode(&*page[end - 1].0.name));
    let page: Vec<Value> = page[..end].iter().map(|(topic, slot)| described(topic, slot)).collect();
    Ok(Answer::ok(&json!({ "topics": page, "cursor": cursor })))
}

/// One topic, with its presence list.
pub(super) fn topic(asked: &Asked) -> Result<Answer, Refusal> {
    Query::read(&asked.query, &[])?;
    let name = ByteString::from(&*asked.name);
    if !asked.key.may_name(&name) {
        return Err(Refusal::forbidden());
    }
    let (slot, topic) = match asked.routing.routes.place(&name) {
        Some(Place::Alive(slot, topic)) => (slot, topic),
        Some(Place::Absent(_)) => return Err(Refusal::new(Reason::NotAlive, "nobody is on this topic")),
        None => return Err(Refusal::new(Reason::NoRoute, "no route takes this topic")),
    };
    let mut shown = described(&topic, &slot);
    let presence = topic.record().presence.as_ref().map(|presence| presence.list());
    // The list is JSON that the host has put together itself.
    let presence = presence.and_then(|list| serde_json::from_slice::<Box<RawValue>>(&list).ok());
    shown["presence"] = json!(presence);
    Ok(Answer::ok(&shown))
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
    let deadline = Instant::now() + asked.routing.config.api.heard_timeout;
    let (reply, mut described) = mpsc::unbounded_channel();
    let inboxes = &asked.api.endpoint.inboxes;
    inboxes.send_all(|| Entry::Describe(socket_id.clone(), most, reply.clone()));
    drop(reply);
    let (mut count, mut shown) = (0, Vec::new());
    loop {
        match timeout_at(deadline, described.recv()).await {
            Ok(Some(Described {
                count: more,
                connections,
            })) => {
                count += more;
                shown.extend(connections);
            }
            Ok(None) => break,
            Err(_) => {
                return Err(Refusal::new(
                    Reason::Overloaded,
                    "the I/O threads do not answer in time",
                ));
            }
        }
    }
    let shown: Vec<Value> = { shown.iter() }
        .take(most)
        .map(|connection| {
            let topics: Vec<&str> = connection.topics.iter().map(|topic| &**topic).collect();
            json!({
                "transport": connection.transport, "mount": connection.mount, "vsn": connection.vsn, "topics": topics,
            })
        })
        .collect();
    Ok(Answer::ok(&json!({ "count": count, "connections": shown })))
}

fn described(topic: &Arc<Topic>, slot: &PluginSlot) -> Value {
    let (members, joined) = {
        let record = topic.record();
        (record.members.len(), record.joined())
    };
    json!({
        "topic": &*topic.name,
        "plugin": slot.name,
        "generation": topic.owner().generation,
        "members": joined,
        "joining": members - joined,
    })
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
