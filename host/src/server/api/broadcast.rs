//! Publishes messages, and says for each who heard it.
//!
//! A message goes the way of a plugin's broadcast: one entry in the inbox of each I/O thread, which then counts its own subscribers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bennu_wire::message::{Payload, event};
use bytes::Bytes;
use bytestring::ByteString;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::body::object;
use crate::config::Config;
use crate::runtime::clock;
use crate::runtime::plugin::Published;
use crate::runtime::reach::Heard;

/// Texts in a binary message have their length in one byte.
const MOST_BINARY_TEXT: usize = 255;
/// What a message takes of the inboxes besides its texts.
const MESSAGE_BYTES: usize = 256;

/// The body of a request: a message, or an object with a list of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

/// A payload may be `null`, which is not the same as none.
pub(super) fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A message that can be sent.
struct Message {
    topic: ByteString,
    event: ByteString,
    payload: Payload,
}

/// A message that is on its way. It keeps its part of the room until it has arrived.
struct Sent {
    /// Where it is in the list.
    index: usize,
    reached: oneshot::Receiver<Heard>,
    intercepted: usize,
    _room: Option<OwnedSemaphorePermit>,
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// `None`: not known in time.
    heard: Option<usize>,
    intercepted: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heard, intercepted } = self;
        match heard {
            Some(heard) => write!(f, r#"{{"heard":{heard},"intercepted":{intercepted}}}"#),
            None => write!(f, r#"{{"heard":null,"intercepted":{intercepted}}}"#),
        }
    }
}

pub(super) async fn carry_out(asked: &Asked) -> Result<Answer, Refusal> {
    match Body::read(&asked.body)? {
        Body::One(written) => {
            let (mut results, _) = send_all(asked, vec![read(asked, written)]).await;
            match results.pop() {
                Some(Ok(result)) => Ok(Answer::text(StatusCode::OK, result.to_string())),
                Some(Err(refusal)) => Err(refusal),
                None => Err(Refusal::invalid("there is no message")),
            }
        }
        Body::List(list) => {
            let most = asked.routing.config.api.max_list;
            if list.len() > most {
                return Err(Refusal::new(
                    Reason::TooMany,
                    format!("a list may have {most} messages"),
                ));
            }
            let message = |raw: &RawValue| read(asked, object::<Written<'_>>(raw.get().as_bytes())?);
            let (results, failed) = send_all(asked, list.into_iter().map(message).collect()).await;
            let is_nothing = failed == results.len();
            let results = results.into_iter().map(|result| match result {
                Ok(result) => result.to_string(),
                Err(refusal) => {
                    // The request itself is not refused.
                    asked.api.metrics.refused(refusal.reason.word());
                    refusal.json().to_string()
                }
            });
            let results: Vec<String> = results.collect();
            let body = format!(r#"{{"results":[{}],"failed":{failed}}}"#, results.join(","));
            Ok(Answer {
                did_nothing: is_nothing,
                ..Answer::text(StatusCode::OK, body)
            })
        }
    }
}

enum Body<'a> {
    One(Written<'a>),
    List(Vec<&'a RawValue>),
}

impl<'a> Body<'a> {
    fn read(body: &'a Bytes) -> Result<Self, Refusal> {
        let invalid = |error: serde_json::Error| Refusal::invalid(error.to_string());
        if body.trim_ascii_start().starts_with(b"[") {
            return serde_json::from_slice(body).map(Self::List).map_err(invalid);
        }
        let mut written: Written<'a> = object(body)?;
        match written.messages.take() {
            None => Ok(Self::One(written)),
            Some(list) if written.is_empty() => Ok(Self::List(list)),
            Some(_) => Err(Refusal::invalid("`messages` must stand alone")),
        }
    }
}

impl Written<'_> {
    fn is_empty(&self) -> bool {
        self.topic.is_none() && self.event.is_none() && self.payload.is_none() && self.payload_base64.is_none()
    }
}

/// Checks a message.
fn read(asked: &Asked, written: Written<'_>) -> Result<Message, Refusal> {
    let config = &asked.routing.config;
    if written.messages.is_some() {
        return Err(Refusal::invalid("a message has no `messages`"));
    }
    let topic = text(written.topic, "topic", config.limits.max_topic_bytes)?;
    let event = text(written.event, "event", config.limits.max_topic_bytes)?;
    check_event(&event)?;
    let payload = payload(config, written.payload, written.payload_base64)?;
    if payload.is_binary() && (topic.len() > MOST_BINARY_TEXT || event.len() > MOST_BINARY_TEXT) {
        let message = format!("with bytes, `topic` and `event` may have {MOST_BINARY_TEXT} bytes");
        return Err(Refusal::invalid(message));
    }
    if !asked.key.may_name(&topic) {
        return Err(Refusal::forbidden());
    }
    if !asked.routing.routes.leads(&topic) {
        return Err(Refusal::new(Reason::NoRoute, "no route matches this topic"));
    }
    Ok(Message { topic, event, payload })
}

/// A text that must be there and have a length that clients could have sent.
pub(super) fn text(written: Option<Cow<'_, str>>, name: &str, most: usize) -> Result<ByteString, Refusal> {
    match written {
        None => Err(Refusal::invalid(format!("`{name}` is missing"))),
        Some(text) if text.is_empty() || text.len() > most => {
            Err(Refusal::invalid(format!("`{name}` must have 1 to {most} bytes")))
        }
        Some(text) => Ok(ByteString::from(&*text)),
    }
}

/// Events that the server itself sends would confuse clients.
fn check_event(name: &str) -> Result<(), Refusal> {
    match name {
        event::DISCONNECT => Err(Refusal::invalid("to disconnect clients, use /api/disconnect")),
        event::PRESENCE_STATE | event::PRESENCE_DIFF => {
            Err(Refusal::invalid(format!("`{name}` is an event of the server's own")))
        }
        _ if name.starts_with("phx_") => Err(Refusal::invalid("events that begin with `phx_` are the server's own")),
        _ => Ok(()),
    }
}

/// The payload, copied: a part of the body would keep all of it in memory.
pub(super) fn payload(
    config: &Config,
    json: Option<&RawValue>,
    base64: Option<Cow<'_, str>>,
) -> Result<Payload, Refusal> {
    let payload = match (json, base64) {
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(
                "there is a `payload` and a `payload_base64`: leave one of them out",
            ));
        }
        (Some(json), None) => Payload::Json(Bytes::copy_from_slice(json.get().as_bytes())),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(&*base64).or_else(|_| STANDARD_NO_PAD.decode(&*base64));
            Payload::Binary(
                bytes
                    .map_err(|_| Refusal::invalid("`payload_base64` is not base64"))?
                    .into(),
            )
        }
        (None, None) => Payload::EMPTY,
    };
    let most = config.api.max_payload_bytes;
    if payload.bytes().len() > most {
        return Err(Refusal::new(
            Reason::TooLarge,
            format!("the payload is longer than {most} bytes"),
        ));
    }
    Ok(payload)
}

/// Sends the messages in their order, and waits until it is known who heard them. Returns how many failed, too.
async fn send_all(asked: &Asked, messages: Vec<Result<Message, Refusal>>) -> (Vec<Result<Outcome, Refusal>>, usize) {
    let mut results: Vec<Result<Outcome, Refusal>> = Vec::with_capacity(messages.len());
    let mut on_their_way: VecDeque<Sent> = VecDeque::new();
    let mut failed = 0;
    for (index, message) in messages.into_iter().enumerate() {
        let message = match message {
            Ok(message) => message,
            Err(refusal) => {
                failed += 1;
                results.push(Err(refusal));
                continue;
            }
        };
        let room = loop {
            match asked.api.try_room(&message) {
                Some(room) => break Some(room),
                // Our own go first: whoever holds room waits for nobody else's.
                None => match on_their_way.pop_front() {
                    Some(sent) => finish(asked, sent, &mut results).await,
                    None => break asked.api.room(&message).await,
                },
            }
        };
        let Message { topic, event, payload } = message;
        let hub = &asked.api.endpoint.state.hub;
        let Published { reached, intercepted } = hub.broadcast_counted(topic, event, payload, &asked.api.reached);
        asked.api.metrics.published.inc();
        results.push(Ok(Outcome::default()));
        on_their_way.push_back(Sent {
            index,
            reached,
            intercepted,
            _room: room,
        });
    }
    for sent in on_their_way {
        finish(asked, sent, &mut results).await;
    }
    (results, failed)
}

/// Waits until it is known who heard a message.
async fn finish(asked: &Asked, sent: Sent, results: &mut [Result<Outcome, Refusal>]) {
    let heard = asked.counted(sent.reached).await;
    results[sent.index] = Ok(Outcome {
        heard: heard.map(|heard| heard.reached),
        intercepted: sent.intercepted + heard.map_or(0, |heard| heard.intercepted),
    });
}

impl Asked {
    /// What I/O threads have counted; `None` if they do not say so in time.
    pub(super) async fn counted(&self, reached: oneshot::Receiver<Heard>) -> Option<Heard> {
        let limit = self.routing.config.api.heard_timeout;
        clock::timeout(limit, reached).await.ok()?.ok()
    }
}

impl super::Api {
    fn takes(&self, message: &Message) -> u32 {
        let bytes = MESSAGE_BYTES + message.topic.len() + message.event.len() + message.payload.bytes().len();
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.room_bytes)
    }

    /// Room for a message in the inboxes, if there is some now.
    fn try_room(&self, message: &Message) -> Option<OwnedSemaphorePermit> {
        let room = std::sync::Arc::clone(&self.room);
        room.try_acquire_many_owned(self.takes(message)).ok()
    }

    /// The same, once there is. It is never closed.
    async fn room(&self, message: &Message) -> Option<OwnedSemaphorePermit> {
        let room = std::sync::Arc::clone(&self.room);
        room.acquire_many_owned(self.takes(message)).await.ok()
    }
}
