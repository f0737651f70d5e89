//! What a request says: a list of messages, or one message whose topic and event stand in its path.

use std::borrow::Cow;

use bennu_wire::dialect::PRIVATE;
use bennu_wire::message::Payload;
use bennu_wire::serializer::supabase::{broadcast_bytes, broadcast_json};
use bytes::Bytes;
use bytestring::ByteString;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Exchange, Refusal};

/// What the topic of a channel begins with. Requests leave it out.
const PREFIX: &str = "realtime:";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server::endpoint) enum Target {
    /// Its body has a list of messages, each with its topic.
    Listed,
    /// Its body is the payload of one message.
    One {
        /// Percent-encoded.
        topic: String,
        /// Percent-encoded.
        event: String,
    },
}

impl Target {
    /// The target of a path below the mount.
    pub(in crate::server::endpoint) fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/api/broadcast")?;
        if rest.is_empty() {
            return Some(Self::Listed);
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let ["", topic, "events", event] = parts[..] else {
            return None;
        };
        let (topic, event) = (topic.to_owned(), event.to_owned());
        Some(Self::One { topic, event })
    }
}

/// A message that can be sent.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) room: ByteString,
    pub(super) is_private: bool,
    pub(super) payload: Payload,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with a list of `messages`")]
struct List<'a> {
    #[serde(borrow)]
    messages: Vec<Written<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with `topic`, `event` and `payload`")]
struct Written<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    private: Option<bool>,
}

/// Reads the messages of a request.
///
/// # Errors
///
/// If one of them cannot be sent: then none is.
pub(super) fn read(exchange: &Exchange<'_>, target: Target, body: &Bytes) -> Result<Vec<Said>, Refusal> {
    match target {
        Target::Listed => listed(exchange, body),
        Target::One { topic, event } => {
            let decoded = |text: &str, what: &str| match percent_decode_str(text).decode_utf8() {
                Ok(text) => Ok(text.into_owned()),
                Err(_) => Err(Refusal::invalid(format!("the {what} in the path is not UTF-8"))),
            };
            let (topic, event) = (decoded(&topic, "topic")?, decoded(&event, "event")?);
            let is_private = is_private(exchange.parts.uri.query().unwrap_or(""))?;
            let is_bytes = exchange.parts.headers.get(CONTENT_TYPE).is_some_and(|value| {
                let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
                essence.trim_ascii().eq_ignore_ascii_case(b"application/octet-stream")
            });
            let payload = if is_bytes {
                broadcast_bytes(&event, body)
            } else {
                broadcast_json(&event, body)
            };
            Ok(vec![checked(exchange, &topic, &event, is_private, payload)?])
        }
    }
}

/// Whether a query asks for a private channel. A message that is meant to be private never goes to the public channel instead.
fn is_private(query: &str) -> Result<bool, Refusal> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let is_it = |name: &str| {
        percent_decode_str(name)
            .decode_utf8_lossy()
            .eq_ignore_ascii_case("private")
    };
    let mut said = pairs.filter(|(name, _)| is_it(name));
    match (said.next(), said.next()) {
        (None, _) | (Some(("private", "false")), None) => Ok(false),
        (Some(("private", "true")), None) => Ok(true),
        _ => Err(Refusal::invalid(
            "`private` in the query must be `true` or `false`, and stand there once",
        )),
    }
}

fn listed(exchange: &Exchange<'_>, body: &[u8]) -> Result<Vec<Said>, Refusal> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::invalid(
            "the body must be a JSON object with a list of `messages`",
        ));
    }
    let List { messages } = serde_json::from_slice(body).map_err(|error| Refusal::invalid(error.to_string()))?;
    let most = exchange.settings.max_broadcast_messages;
    if messages.len() > most {
        let message = format!("a request may have {most} messages");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let said = |written: Written<'_>| {
        let payload = broadcast_json(
            &written.event,
            &Bytes::copy_from_slice(written.payload.get().as_bytes()),
        );
        let is_private = written.private.unwrap_or(false);
        checked(exchange, &written.topic, &written.event, is_private, payload)
    };
    messages.into_iter().map(said).collect()
}

fn checked(
    exchange: &Exchange<'_>,
    topic: &str,
    event: &str,
    is_private: bool,
    payload: Result<Payload, &'static str>,
) -> Result<Said, Refusal> {
    let routing = exchange.endpoint.state.routing();
    let most = routing.config.limits.max_topic_bytes;
    for (name, text) in [("topic", topic), ("event", event)] {
        if text.is_empty() || text.len() > most {
            return Err(Refusal::invalid(format!("the {name} must have 1 to {most} bytes")));
        }
    }
    let room: ByteString = [if is_private { PRIVATE } else { "" }, PREFIX, topic].concat().into();
    if routing.find(&room, "websocket", &exchange.mount.path).is_none() {
        return Err(Refusal::invalid("no route takes this topic"));
    }
    Ok(Said {
        room,
        is_private,
        payload: payload.map_err(Refusal::invalid)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_private_or_not_and_nothing_in_between() {
        for query in ["", "a=b", "private=false", "notprivate=x"] {
            assert_eq!(is_private(query).ok(), Some(false), "{query}");
        }
        assert_eq!(is_private("a=b&private=true").ok(), Some(true));
        for query in [
            "private",
            "private=",
            "private=TRUE",
            "private=1",
            "Private=true",
            "pr%69vate=true",
            "private=true&private=false",
        ] {
            assert!(is_private(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_path_names_topic_and_event_or_neither() {
        let one = |topic: &str, event: &str| {
            let (topic, event) = (topic.to_owned(), event.to_owned());
            Some(Target::One { topic, event })
        };
        for (path, expected) in [
            ("/api/broadcast", Some(Target::Listed)),
            ("/api/broadcast/room-1/events/said", one("room-1", "said")),
            ("/api/broadcast/a%2Fb/events/c%2Fd", one("a%2Fb", "c%2Fd")),
            ("/api/broadcast/events/events/events", one("events", "events")),
            ("/api/broadcast/a", None),
            ("/api/broadcast/a/events", None),
            ("/api/broadcast/a/event/b", None),
            ("/api/broadcast/a/events/b/c", None),
            ("/api/broadcasts", None),
            ("/api", None),
        ] {
            assert_eq!(Target::of(path), expected, "{path}");
        }
    }
}
