//! What runs: topics page by page, one topic with its presence list, and the connections of a socket id. In a cluster, all nodes
//! are asked, or the home of the topic.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::broadcast::text;
use super::here::{self, Page};
use super::nodes;
use crate::server::question::{ConnectionsWanted, Question, TopicWanted, TopicsWanted};

/// The topics that the key may name.
pub(super) async fn topics(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["prefix", "cursor", "limit"])?;
    let wanted = TopicsWanted {
        patterns: asked.key.topics.iter().map(ToString::to_string).collect(),
        prefix: query.get("prefix").unwrap_or("").to_owned(),
        after: query.get("cursor").map(read_cursor).transpose()?,
        entries: limit(asked, query.get("limit"))?,
        bytes: asked.routing.config.api.max_answer_bytes,
    };
    let endpoint = &asked.api.endpoint;
    let here = async { here::topics(endpoint, &asked.key.topics, &wanted) };
    let question = Question::Topics(wanted.clone());
    let (here, there) = tokio::join!(here, nodes::ask_all(endpoint, &question));
    let (there, missing) = there?;
    let (topics, next) = merged(there.into_iter().chain([here]), wanted.entries, wanted.bytes);
    let cursor = next.map(|next| cursor(&next));
    held(
        asked,
        &Topics {
            topics,
            cursor,
            missing,
        },
    )
}

/// One page of the topics of several nodes, and its last name, if there are more.
fn merged(
    parts: impl Iterator<Item = here::Topics>,
    entries: usize,
    bytes: usize,
) -> (Vec<Box<RawValue>>, Option<String>) {
    let mut topics: BTreeMap<String, Vec<Box<RawValue>>> = BTreeMap::new();
    // Behind its last name, a part that is not all may have topics that nobody knows here.
    let mut until: Option<String> = None;
    for part in parts {
        if let Some((last, _)) = part.topics.last().filter(|_| !part.is_all) {
            until = Some(until.map_or_else(|| last.clone(), |until| until.min(last.clone())));
        }
        for (name, mut of_topic) in part.topics {
            topics.entry(name).or_default().append(&mut of_topic);
        }
    }
    let (mut page, mut shown, mut last) = (Page::new(entries, bytes), Vec::new(), None);
    for (name, mut of_topic) in topics {
        if until.as_ref().is_some_and(|until| name > *until) || !page.takes(&of_topic, shown.is_empty()) {
            return (shown, last);
        }
        shown.append(&mut of_topic);
        last = Some(name);
    }
    (shown, last.filter(|_| until.is_some()))
}

/// One topic, from its home.
pub(super) async fn topic(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["cursor"])?;
    let wanted = TopicWanted {
        topic: asked.name.clone(),
        after: query.get("cursor").map(read_cursor).transpose()?,
        bytes: asked.routing.config.api.max_answer_bytes,
    };
    if !asked.key.may_name(&wanted.topic) {
        return Err(Refusal::forbidden());
    }
    let topic = nodes::topic(&asked.api.endpoint, wanted).await?;
    held(asked, &topic)
}

/// The connections of a socket id.
pub(super) async fn connections(asked: &Asked) -> Result<Answer, Refusal> {
    let query = Query::read(&asked.query, &["socket_id", "limit"])?;
    let entries = limit(asked, query.get("limit"))?;
    let socket_id = query.get("socket_id").map(Into::into);
    let socket_id = text(socket_id, "socket_id", asked.routing.config.limits.max_topic_bytes)?;
    if !asked.key.may_name(&socket_id) {
        return Err(Refusal::forbidden());
    }
    let wanted = ConnectionsWanted {
        socket_id: socket_id.to_string(),
        entries,
        bytes: asked.routing.config.api.max_answer_bytes,
    };
    let endpoint = &asked.api.endpoint;
    let question = Question::Connections(wanted.clone());
    let (here, there) = tokio::join!(
        here::connections(endpoint, &wanted),
        nodes::ask_all::<here::Connections>(endpoint, &question)
    );
    let ((there, missing), here) = (there?, here?);
    let (mut page, mut connections, mut count) = (Page::new(wanted.entries, wanted.bytes), Vec::new(), 0);
    for mut part in [here].into_iter().chain(there) {
        count += part.count;
        let fits = { part.connections.iter() }.take_while(|shown| page.takes(std::slice::from_ref(*shown), false));
        let fits = fits.count();
        connections.extend(part.connections.drain(..fits));
    }
    let more = connections.len() < count;
    held(
        asked,
        &Connections {
            count,
            connections,
            more,
            missing,
        },
    )
}

#[derive(Serialize)]
struct Topics {
    topics: Vec<Box<RawValue>>,
    cursor: Option<String>,
    /// In a cluster: the nodes that have not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Connections {
    count: usize,
    connections: Vec<Box<RawValue>>,
    /// There are more than those.
    more: bool,
    /// In a cluster: the nodes that have not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<String>>,
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

/// What a page ends with, for the next one.
pub(super) fn cursor(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
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
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn part(names: &[&str], is_all: bool) -> here::Topics {
        let entry = |name: &&str| to_raw_value(&json!(name)).expect("a text");
        let topics = names.iter().map(|name| ((*name).to_owned(), vec![entry(name)]));
        here::Topics {
            topics: topics.collect(),
            is_all,
        }
    }

    #[track_caller]
    fn check(parts: [here::Topics; 2], entries: usize, expected: &str, next: Option<&str>) {
        let (shown, last) = merged(parts.into_iter(), entries, 1_000);
        let shown: Vec<String> = shown
            .iter()
            .filter_map(|entry| serde_json::from_str(entry.get()).ok())
            .collect();
        assert_eq!((&*shown.concat(), last.as_deref()), (expected, next));
    }

    #[test]
    fn a_page_of_several_nodes_leaves_out_what_another_node_may_have_more_of() {
        check([part(&["a", "d"], true), part(&["b", "c"], true)], 9, "abcd", None);
        check([part(&["a", "d"], true), part(&["b", "c"], true)], 3, "abc", Some("c"));
        check([part(&["a", "d"], true), part(&["b", "c"], false)], 9, "abc", Some("c"));
        check([part(&["a", "b"], false), part(&["c", "d"], false)], 9, "ab", Some("b"));
        check([part(&[], true), part(&["c"], false)], 9, "c", Some("c"));
        check([part(&[], true), part(&[], true)], 9, "", None);
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
