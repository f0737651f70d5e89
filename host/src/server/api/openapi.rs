//! The OpenAPI 3.1 document, made from the table of verbs.
//!
//! The schemas of bodies stand here, by hand: the host reads bodies without building a tree, so no type of its own has their shape.
//! schemathesis compares the document with what the API does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Reason};
use super::idempotency;
use super::verbs::{self, VERBS, Verb};

pub(super) fn answer() -> Answer {
    Answer::ok(&document())
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for verb in &VERBS {
        let methods = paths.entry(verb.path).or_default();
        methods.insert(verb.method.as_str().to_ascii_lowercase(), operation(verb));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bennu's API for backends",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Publish to channels, disconnect clients, list topics. Every answer is JSON.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn operation(verb: &Verb) -> Value {
    let mut operation = json!({
        "operationId": verb.name,
        "summary": verb.summary,
        "description": verb.description,
        "parameters": parameters(verb),
        "responses": responses(verb),
        "security": [],
    });
    if verb.scope.is_some() {
        operation["security"] = json!([{ "key": [] }]);
    }
    if let Some(schema) = body(verb) {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": schema } },
        });
    }
    operation
}

fn parameters(verb: &Verb) -> Value {
    let query = |name: &str, required: bool, description: &str, schema: Value| json!({ "name": name, "in": "query", "required": required, "description": description, "schema": schema });
    let limit = || {
        let description = "How many entries at most; a larger number means the server's limit";
        query("limit", false, description, json!({ "type": "integer", "minimum": 1 }))
    };
    let text = || json!({ "type": "string" });
    match verb.name {
        verbs::TOPICS => json!([
            query("prefix", false, "What the names begin with", text()),
            query("cursor", false, "The `cursor` of the page before", text()),
            limit(),
        ]),
        verbs::TOPIC => json!([
            {
                "name": "topic", "in": "path", "required": true, "description": "Its name, percent-encoded",
                "schema": { "type": "string", "minLength": 1 },
            },
            query("cursor", false, "The `cursor` of the part before, if the presence list is a long one", text()),
        ]),
        verbs::CONNECTIONS => json!([
            query(
                "socket_id",
                true,
                "Which connections",
                json!({ "type": "string", "minLength": 1 })
            ),
            limit(),
        ]),
        _ if verb.is_post() => json!([{
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A text of your own: a request that comes twice with the same one is carried out once, and answered \
                            the same",
            "schema": { "type": "string", "minLength": 1, "maxLength": idempotency::MOST_BYTES, "pattern": "^[!-~]+$" },
        }]),
        _ => json!([]),
    }
}

/// The schema of the body that a verb takes.
fn body(verb: &Verb) -> Option<Value> {
    match verb.name {
        verbs::BROADCAST => Some(json!({ "anyOf": [
            schema("Message"),
            { "type": "array", "items": schema("Message") },
            {
                "type": "object",
                "required": ["messages"],
                "additionalProperties": false,
                "properties": { "messages": { "type": "array", "items": schema("Message") } },
            },
        ] })),
        verbs::CALL => Some(schema("Call")),
        verbs::DISCONNECT => Some(schema("Disconnect")),
        _ => None,
    }
}

/// The schema of a verb's answer.
fn answered(verb: &Verb) -> Value {
    match verb.name {
        verbs::BROADCAST => json!({ "anyOf": [schema("Sent"), schema("Results")] }),
        verbs::CALL => schema("Replied"),
        verbs::DISCONNECT => schema("Disconnected"),
        verbs::TOPICS => schema("Topics"),
        verbs::TOPIC => schema("TopicShown"),
        verbs::CONNECTIONS => schema("Connections"),
        _ => json!({ "type": "object" }),
    }
}

fn responses(verb: &Verb) -> Value {
    let mut refusals: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for reason in verb.refusals() {
        refusals
            .entry(reason.status().as_u16())
            .or_default()
            .push(reason.word());
    }
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut responses = Map::new();
    let done = json!({ "description": "Done", "content": content(answered(verb)) });
    responses.insert("200".to_owned(), done);
    for (status, reasons) in refusals {
        let description = format!("Refused: `{}`", reasons.join("`, `"));
        let refused = json!({ "description": description, "content": content(schema("Refused")) });
        responses.insert(status.to_string(), refused);
    }
    responses.insert(
        "431".to_owned(),
        json!({ "description": "The head of the request is too long. No body" }),
    );
    responses.into()
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
}

fn schemas() -> Value {
    let count = || json!({ "type": "integer", "minimum": 0 });
    let maybe = || json!({ "type": ["integer", "null"], "minimum": 0 });
    let text = || json!({ "type": "string", "minLength": 1 });
    let node = || json!({ "type": "string", "description": "Where it is, in a cluster" });
    let missing = || {
        json!({
            "type": "array", "items": text(),
            "description": "In a cluster: the nodes that have not answered. What is there is left out",
        })
    };
    let topic = json!({
        "topic": text(), "plugin": text(), "generation": count(), "members": count(), "joining": count(), "node": node(),
    });
    let of_topic = ["topic", "plugin", "generation", "members", "joining"];
    let mut shown = topic.clone();
    shown["presence"] = json!({
        "type": ["object", "null"],
        "description": "As `Presence.list` shows it: by key, with a list `metas`. Null if nobody was ever tracked",
    });
    shown["stored"] = json!({ "anyOf": [{ "type": "null" }, object(
        &["bytes", "state_version", "written_unix_ms", "timers"],
        json!({ "bytes": count(), "state_version": maybe(), "written_unix_ms": maybe(), "timers": maybe() }),
    )] });
    let cursor = || json!({ "type": ["string", "null"], "description": "For what follows. Null: this was the last" });
    shown["cursor"] = cursor();
    let mut message = object(
        &["topic", "event"],
        json!({
            "topic": text(),
            "event": {
                "type": "string", "minLength": 1,
                "description": "Not `phx_…`, `presence_state`, `presence_diff` or `disconnect`",
            },
            "payload": { "description": "Any JSON. Default: an empty object" },
            "payload_base64": { "type": "string", "contentEncoding": "base64", "description": "Bytes, instead of `payload`" },
        }),
    );
    let payload = || json!({ "description": "Any JSON. Default: an empty object" });
    let base64 =
        |description: &str| json!({ "type": "string", "contentEncoding": "base64", "description": description });
    let mut call = object(
        &["topic", "event"],
        json!({
            "topic": text(), "event": text(), "payload": payload(), "payload_base64": base64("Bytes, instead of `payload`"),
            "create": { "type": "boolean", "default": false, "description": "Makes the topic, if nobody is on it" },
            "deadline_ms": { "type": ["integer", "null"], "minimum": 1, "description": "How long the plugin may take" },
        }),
    );
    for one_payload in [&mut message, &mut call] {
        one_payload["not"] = json!({ "required": ["payload", "payload_base64"] });
    }
    let status = || json!({ "type": "string", "description": "`ok`, `error`, or the plugin's own" });
    json!({
        "Message": message,
        "Call": call,
        "Replied": { "anyOf": [
            object(&["status", "response"], json!({ "status": status(), "response": { "description": "Any JSON" } })),
            object(&["status", "response_base64"], json!({ "status": status(), "response_base64": base64("Bytes") })),
        ] },
        "Sent": object(&["heard", "intercepted"], json!({
            "heard": {
                "type": ["integer", "null"], "minimum": 0,
                "description": "How many subscribers it was sent to. 0: nobody was there. Null: not known in time",
            },
            "intercepted": {
                "type": "integer", "minimum": 0,
                "description": "Members whose plugin intercepts the event: it decides what they get",
            },
        })),
        "Results": object(&["results", "failed"], json!({
            "results": { "type": "array", "items": { "anyOf": [schema("Sent"), schema("Refused")] } },
            "failed": count(),
        })),
        "Disconnect": object(&["socket_id"], json!({
            "socket_id": text(),
            "refuse_ms": { "type": ["integer", "null"], "minimum": 0, "description": "For so long the socket id may not connect" },
        })),
        "Disconnected": object(&["disconnected"], json!({ "disconnected": maybe() })),
        "Topics": object(&["topics", "cursor"], json!({
            "topics": { "type": "array", "items": object(&of_topic, topic) },
            "cursor": cursor(),
            "missing": missing(),
        })),
        "TopicShown": object(&[&of_topic[..], &["presence", "stored", "cursor"]].concat(), shown),
        "Connections": object(&["count", "connections", "more"], json!({
            "count": count(),
            "more": { "type": "boolean", "description": "There are more connections than the list has" },
            "missing": missing(),
            "connections": { "type": "array", "items": object(&["transport", "mount", "vsn", "topics"], json!({
                "transport": text(), "mount": text(), "vsn": text(), "topics": { "type": "array", "items": text() },
                "node": node(),
            })) },
        })),
        "Refused": object(&["reason", "message"], json!({
            "reason": { "enum": Reason::ALL.map(Reason::word) },
            "message": { "type": "string", "description": "For people. It may change" },
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = document();
        let text = document.to_string();
        let mut named = 0;
        for rest in text.split("\"#/components/schemas/").skip(1) {
            let name = rest.split('"').next().expect("a name");
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
            named += 1;
        }
        assert!(named > 20, "{named} only");
    }

    #[test]
    fn a_message_has_one_payload_at_most() {
        let document = document();
        let mut message = document["components"]["schemas"]["Message"].clone();
        message["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        let validator = jsonschema::validator_for(&message).expect("a schema");
        for (value, expected) in [
            (json!({ "topic": "a", "event": "b" }), true),
            (json!({ "topic": "a", "event": "b", "payload": null }), true),
            (json!({ "topic": "a", "event": "b", "payload_base64": "" }), true),
            (
                json!({ "topic": "a", "event": "b", "payload": 1, "payload_base64": "" }),
                false,
            ),
            (json!({ "topic": "a", "event": "b", "palyoad": 1 }), false),
            (json!({ "topic": "", "event": "b" }), false),
            (json!({ "event": "b" }), false),
        ] {
            assert_eq!(validator.is_valid(&value), expected, "{value}");
        }
    }
}
