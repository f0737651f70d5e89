//! Asks the plugin of a topic, and waits for its answer.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bennu_wire::message::Payload;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::body::object;
use super::broadcast::{also_null, payload, text};
use super::listener::Stage;
use crate::runtime::channel::{Called, Create};
use crate::runtime::clock;
use crate::runtime::plugin::NotCalled;

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
    #[serde(default)]
    create: bool,
    deadline_ms: Option<u64>,
}

pub(super) async fn carry_out(asked: &Asked) -> Result<Answer, Refusal> {
    let config = &asked.routing.config;
    let written: Written<'_> = object(&asked.body)?;
    let topic = text(written.topic, "topic", config.limits.max_topic_bytes)?;
    let event = text(written.event, "event", config.limits.max_topic_bytes)?;
    let payload = payload(config, written.payload, written.payload_base64)?;
    let deadline = deadline(asked, written.deadline_ms)?;
    if !asked.key.may_name(&topic) {
        return Err(Refusal::forbidden());
    }
    let hub = &asked.api.endpoint.state.hub;
    let create = if written.create { Create::Yes } else { Create::No };
    let answer = hub
        .call(&topic, event, payload, create, &asked.trace)
        .map_err(not_called)?;
    tokio::select! {
        called = clock::timeout(deadline, answer) => match called {
            Ok(called) => answered(called),
            Err(_) => Err(Refusal::new(
                Reason::Deadline,
                format!("the plugin did not answer within {} ms", deadline.as_millis()),
            )),
        },
        () = asked.api.reaches(Stage::LastWords) => Err(Refusal::new(
            Reason::Ended,
            "the server stopped before the plugin answered",
        )),
    }
}

fn deadline(asked: &Asked, written: Option<u64>) -> Result<Duration, Refusal> {
    let config = &asked.routing.config.api;
    let longest = config.max_call_deadline;
    match written.map(Duration::from_millis) {
        None => Ok(config.call_deadline.min(longest)),
        Some(deadline) if !deadline.is_zero() && deadline <= longest => Ok(deadline),
        Some(_) => Err(Refusal::invalid(format!(
            "`deadline_ms` must be from 1 to {}",
            longest.as_millis()
        ))),
    }
}

fn not_called(why: NotCalled) -> Refusal {
    match why {
        NotCalled::NoRoute => Refusal::new(Reason::NoRoute, "no route matches this topic"),
        NotCalled::NotAlive => not_alive(),
        NotCalled::Overloaded => Refusal::new(Reason::Overloaded, "the topic has too much to do"),
        NotCalled::NoNode => Refusal::new(
            Reason::Unavailable,
            "the node that is the topic's home cannot be reached",
        ),
        NotCalled::Unavailable => Refusal::new(Reason::Unavailable, "no code of the plugin is in service"),
    }
}

fn not_alive() -> Refusal {
    Refusal::new(Reason::NotAlive, "this topic does not exist; `create` makes it")
}

fn answered(called: Called) -> Result<Answer, Refusal> {
    match called {
        Called::Replied { status, payload } => Ok(Answer::ok(&Replied::new(&status, &payload))),
        Called::NotAlive => Err(not_alive()),
        Called::Unhandled => Err(Refusal::new(
            Reason::Unhandled,
            "the plugin was built with a kit that knows no calls: rebuild it",
        )),
        Called::Crashed => Err(Refusal::new(Reason::Crashed, "the plugin has failed, see its log")),
        Called::Unstored(why) => Err(Refusal::new(Reason::Unavailable, why)),
        Called::Ended => Err(Refusal::new(Reason::Ended, "the topic has ended before it answered")),
    }
}

/// The body of an answer.
#[derive(Serialize)]
struct Replied<'a> {
    status: &'a str,
    /// As the plugin wrote it. `null` if it is no JSON, which the kit or the host has ruled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Option<&'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_base64: Option<String>,
}

impl<'a> Replied<'a> {
    fn new(status: &'a str, payload: &'a Payload) -> Self {
        let (response, response_base64) = match payload {
            Payload::Json(json) => (Some(serde_json::from_slice(json).ok()), None),
            Payload::Binary(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        Self {
            status,
            response,
            response_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_bytes_of_the_reply() {
        let deep = "[".repeat(5_000) + &"]".repeat(5_000);
        for json in [
            "1e999",
            r#""\ud800""#,
            "12345678901234567890123",
            "1.0000000000000000001",
            r#"{"b":1,"a":2,"b":3}"#,
            "-0",
            "null",
            &deep,
        ] {
            let payload = Payload::Json(json.to_owned().into());
            let answer = Answer::ok(&Replied::new("ok", &payload));
            assert_eq!(answer.body, format!(r#"{{"status":"ok","response":{json}}}"#));
        }
    }
}
