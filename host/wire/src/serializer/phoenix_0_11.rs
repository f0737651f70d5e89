//! The wire of Phoenix 0.11: objects `{"topic", "event", "payload", "ref"}` as text, whose replies
//! carry the `ref` they answer inside of the payload.
//!
//! There is no `join_ref`: a message belongs to the one channel of its topic. There are no binary messages either, and a push is
//! always a JSON object.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;

use super::object::{MISSING, Parts};
use super::text::{put_string, string, text_ref};
use super::{DecodeError, EncodeError, Incoming, Kind, Serializer};
use crate::message::{Message, Outgoing, PHOENIX, Payload, TopicName, event};

/// The serializer for clients of Phoenix 0.11. They send no `vsn`: their path says what they speak.
#[derive(Clone, Copy, Debug)]
pub struct Phoenix011;

impl Serializer for Phoenix011 {
    fn vsn(&self) -> &'static str {
        "0.11"
    }

    fn takes_binary(&self) -> bool {
        false
    }

    fn carries(&self, message: &Outgoing<'_>) -> Result<(), EncodeError> {
        match message {
            Outgoing::Push { payload, .. } | Outgoing::Broadcast { payload, .. } if !payload.is_object() => {
                Err(EncodeError::NotAnObject)
            }
            _ => Ok(()),
        }
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        match frame {
            Incoming::Text(text) => decode(&text).map_err(DecodeError::Malformed),
            Incoming::Binary(_) => Err(DecodeError::Malformed("a message is text")),
        }
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        self.carries(message)?;
        encode(message, out);
        Ok(Kind::Text)
    }
}

fn decode(text: &ByteString) -> Result<Message, &'static str> {
    let parts = Parts::of(text)?;
    let name = |raw: Option<&str>| string(text, raw.ok_or(MISSING)?)?.ok_or("topic and event are strings");
    let (topic, event) = (name(parts.topic)?, name(parts.event)?);
    let payload = parts.payload.ok_or(MISSING)?;
    let msg_ref = match parts.msg_ref {
        Some(raw) => text_ref(raw)?,
        // Phoenix 0.11 lists three keys for it.
        None if &*topic == PHOENIX && &*event == event::HEARTBEAT => None,
        None => return Err(MISSING),
    };
    Ok(Message {
        join_ref: None,
        msg_ref,
        topic: TopicName::Text(topic),
        event,
        payload: Payload::Json(text.slice_ref(payload).into_bytes()),
    })
}

fn encode(message: &Outgoing<'_>, out: &mut BytesMut) {
    let payload = message.payload().bytes();
    out.reserve(payload.len() + 128);
    out.put_slice(b"{\"topic\":");
    match *message {
        Outgoing::Reply {
            msg_ref, topic, status, ..
        } => {
            put_topic(out, topic);
            put_event(out, event::REPLY);
            out.put_slice(b"{\"ref\":");
            out.put_slice(msg_ref.unwrap_or("null").as_bytes());
            out.put_slice(b",\"status\":");
            put_string(out, status);
            out.put_slice(b",\"response\":");
            out.put_slice(payload);
            out.put_u8(b'}');
            put_ref(out, None);
        }
        Outgoing::Push { topic, event, .. } | Outgoing::Broadcast { topic, event, .. } => {
            plain(out, topic, event, payload, None);
        }
        // The same message comes back.
        Outgoing::Heartbeat { msg_ref } => plain(out, PHOENIX, event::HEARTBEAT, payload, msg_ref),
        // Only later versions say why it ended, and which join it belongs to.
        Outgoing::End { topic, event, .. } => plain(out, topic, event, b"{}", None),
    }
    out.put_u8(b'}');
}

fn plain(out: &mut BytesMut, topic: &str, event: &str, payload: &[u8], msg_ref: Option<&str>) {
    put_string(out, topic);
    put_event(out, event);
    out.put_slice(payload);
    put_ref(out, msg_ref);
}

fn put_topic(out: &mut BytesMut, topic: &TopicName) {
    match topic {
        TopicName::Text(name) => put_string(out, name),
        TopicName::Other(raw) => out.put_slice(raw.as_bytes()),
    }
}

fn put_event(out: &mut BytesMut, event: &str) {
    out.put_slice(b",\"event\":");
    put_string(out, event);
    out.put_slice(b",\"payload\":");
}

fn put_ref(out: &mut BytesMut, msg_ref: Option<&str>) {
    out.put_slice(b",\"ref\":");
    out.put_slice(msg_ref.unwrap_or("null").as_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    static EMPTY: Payload = Payload::EMPTY;

    fn read(text: &str) -> Result<Message, DecodeError> {
        Phoenix011.decode(Incoming::Text(text.into()))
    }

    #[track_caller]
    fn check(text: &str, msg_ref: Option<&str>, topic: &str, event: &str, payload: &str) {
        let expected = Message {
            join_ref: None,
            msg_ref: msg_ref.map(Into::into),
            topic: TopicName::Text(topic.into()),
            event: event.into(),
            payload: Payload::Json(Bytes::copy_from_slice(payload.as_bytes())),
        };
        assert_eq!(read(text), Ok(expected), "{text}");
    }

    #[track_caller]
    fn sent(message: &Outgoing<'_>, expected: &str) {
        let mut out = BytesMut::new();
        assert_eq!(Phoenix011.encode(message, &mut out), Ok(Kind::Text));
        assert_eq!(std::str::from_utf8(&out), Ok(expected));
    }

    #[test]
    fn a_message_is_an_object_with_four_keys_in_any_order() {
        check(
            r#"{"topic":"rooms:lobby","event":"new:msg","payload":{"body":"hi"},"ref":"3"}"#,
            Some("\"3\""),
            "rooms:lobby",
            "new:msg",
            r#"{"body":"hi"}"#,
        );
        check(
            r#" {"ref":7 , "payload":[], "event":"e\u0021","topic":"t"} "#,
            Some("7"),
            "t",
            "e!",
            "[]",
        );
        check(
            r#"{"topic":"t","event":"e","payload":null,"ref":null}"#,
            None,
            "t",
            "e",
            "null",
        );
    }

    #[test]
    fn a_ref_of_more_than_255_bytes_is_no_ref() {
        for (len, is_ref) in [(255, true), (256, false)] {
            let frame = format!(
                r#"{{"topic":"t","event":"e","payload":{{}},"ref":{}}}"#,
                "7".repeat(len)
            );
            assert_eq!(read(&frame).is_ok(), is_ref, "{frame}");
        }
    }

    #[test]
    fn unknown_keys_are_ignored_and_the_last_of_equal_keys_counts() {
        check(
            r#"{"topic":"no","join_ref":"9","Topic":1,"topic":"t","event":"e","payload":{},"ref":"1","ref":"2"}"#,
            Some("\"2\""),
            "t",
            "e",
            "{}",
        );
    }

    #[test]
    fn keys_of_the_payload_stay_as_they_were_written() {
        let payload = r#"{ "a\u0062":1,"ref":{"__struct__":[ {"Ünï":2,"Ünï":3} ]},"a\u0062":2 }"#;
        check(
            &format!(r#"{{"topic":"t","event":"e","payload":{payload},"ref":"1"}}"#),
            Some("\"1\""),
            "t",
            "e",
            payload,
        );
    }

    #[test]
    fn a_heartbeat_needs_no_ref() {
        check(
            r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
            None,
            "phoenix",
            "heartbeat",
            "{}",
        );
        assert!(read(r#"{"topic":"phoenix","event":"other","payload":{}}"#).is_err());
        assert!(read(r#"{"topic":"room","event":"heartbeat","payload":{}}"#).is_err());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "{",
            r#"["1","1","t","e",{}]"#,
            "{}",
            r#"{"topic":"t","event":"e","payload":{}}"#,
            r#"{"topic":"t","event":"e","ref":"1"}"#,
            r#"{"topic":"t","payload":{},"ref":"1"}"#,
            r#"{"event":"e","payload":{},"ref":"1"}"#,
            r#"{"topic":1,"event":"e","payload":{},"ref":"1"}"#,
            r#"{"topic":"t","event":null,"payload":{},"ref":"1"}"#,
            r#"{"TOPIC":"t","event":"e","payload":{},"ref":"1"}"#,
            r#"{"topic":"t","event":"e","payload":{},"ref":"1"} x"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn binary_is_no_message_even_if_it_would_be_one_as_text() {
        let text = Bytes::from_static(br#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#);
        assert!(Phoenix011.decode(Incoming::Binary(text)).is_err());
    }

    #[test]
    fn a_reply_has_the_ref_in_its_payload() {
        let topic = TopicName::Text("rooms:lobby".into());
        let reply = |msg_ref, status, payload| Outgoing::Reply {
            join_ref: Some("\"9\""),
            msg_ref,
            topic: &topic,
            status,
            payload,
        };
        sent(
            &reply(Some("\"1\""), "ok", &EMPTY),
            r#"{"topic":"rooms:lobby","event":"phx_reply","payload":{"ref":"1","status":"ok","response":{}},"ref":null}"#,
        );
        let list = Payload::Json(Bytes::from_static(b"[1]"));
        sent(
            &reply(None, "a \"b\"", &list),
            r#"{"topic":"rooms:lobby","event":"phx_reply","payload":{"ref":null,"status":"a \"b\"","response":[1]},"ref":null}"#,
        );
    }

    #[test]
    fn what_the_server_sends_on_its_own_has_no_ref() {
        let payload = &Payload::Json(Bytes::from_static(br#"{"n":1}"#));
        let (topic, event) = ("t", "e\n");
        let expected = r#"{"topic":"t","event":"e\n","payload":{"n":1},"ref":null}"#;
        let join_ref = Some("\"9\"");
        sent(
            &Outgoing::Push {
                join_ref,
                topic,
                event,
                payload,
            },
            expected,
        );
        sent(&Outgoing::Broadcast { topic, event, payload }, expected);
    }

    #[test]
    fn an_end_says_nothing_but_that_it_is_one() {
        for event in ["phx_close", "phx_error"] {
            let end = Outgoing::End {
                join_ref: Some("\"9\""),
                topic: "t",
                event,
                payload: &Payload::reason("channel_crash"),
            };
            sent(
                &end,
                &format!(r#"{{"topic":"t","event":"{event}","payload":{{}},"ref":null}}"#),
            );
        }
    }

    #[test]
    fn a_heartbeat_is_answered_with_the_same_message() {
        for msg_ref in ["null", "\"5\"", "[1]"] {
            sent(
                &Outgoing::Heartbeat { msg_ref: Some(msg_ref) },
                &format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":{msg_ref}}}"#),
            );
        }
    }

    #[test]
    fn only_objects_are_pushed() {
        let mut out = BytesMut::new();
        for payload in [
            Payload::Binary(Bytes::from_static(b"{}")),
            Payload::Json(Bytes::from_static(b"[1]")),
            Payload::Json(Bytes::from_static(b"null")),
        ] {
            let (topic, event, payload) = ("t", "e", &payload);
            let broadcast = Outgoing::Broadcast { topic, event, payload };
            assert_eq!(Phoenix011.encode(&broadcast, &mut out), Err(EncodeError::NotAnObject));
            let push = Outgoing::Push {
                join_ref: None,
                topic,
                event,
                payload,
            };
            assert_eq!(Phoenix011.carries(&push), Err(EncodeError::NotAnObject));
        }
        assert!(out.is_empty());
        let payload = &Payload::Json(Bytes::from_static(b" \n{}"));
        let (topic, event) = ("t", "e");
        assert_eq!(
            Phoenix011.carries(&Outgoing::Broadcast { topic, event, payload }),
            Ok(())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_text_is_read_as_serde_json_reads_it(pieces in proptest::collection::vec(prop::sample::select(&[
            "{", "}", "\"topic\":", "\"event\":", "\"payload\":", "\"ref\":", "\"a\"", "1", "null", ",", "[", "]", " ", "\"",
            "\"topic\":\"t\",", "\"event\":\"e\",", "\"payload\":{},", "\"ref\":\"1\"}", "{\"ref\":1,",
        ][..]), 0..10)) {
            let raw = pieces.concat();
            let value = serde_json::from_str::<Value>(&raw).unwrap_or_default();
            let complete = value["topic"].is_string() && value["event"].is_string()
                && value.get("payload").is_some() && value.get("ref").is_some();
            prop_assert_eq!(read(&raw).is_ok(), complete, "{}", raw);
        }

        #[test]
        fn any_message_is_read_as_it_was_meant(topic: String, event: String, key: String, body: String, msg_ref: Option<u32>) {
            let payload = json!({ key: body });
            let text = json!({ "topic": topic, "event": event, "payload": payload, "ref": msg_ref }).to_string();
            let message = read(&text).unwrap();
            prop_assert_eq!(message.topic, TopicName::Text(topic.into()));
            prop_assert_eq!(&*message.event, &*event);
            prop_assert_eq!(serde_json::from_slice::<Value>(message.payload.bytes()).unwrap(), payload);
            prop_assert_eq!(message.msg_ref.map(|text| text.to_string()), msg_ref.map(|number| number.to_string()));
        }

        #[test]
        fn what_is_sent_is_json_whatever_it_says(topic: String, event: String, status: String, body: String) {
            let payload = &Payload::Json(json!({ "body": body }).to_string().into());
            let name = TopicName::Text(topic.as_str().into());
            let (join_ref, msg_ref) = (None, Some("\"1\""));
            for message in [
                Outgoing::Push { join_ref, topic: &topic, event: &event, payload },
                Outgoing::Reply { join_ref, msg_ref, topic: &name, status: &status, payload },
            ] {
                let mut out = BytesMut::new();
                Phoenix011.encode(&message, &mut out).unwrap();
                let value: Value = serde_json::from_slice(&out).unwrap();
                prop_assert_eq!(value["topic"].as_str(), Some(topic.as_str()));
                prop_assert_eq!(value.as_object().unwrap().len(), 4);
                prop_assert!(value["ref"].is_null());
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(text: String, bytes: Vec<u8>) {
            let _ = read(&text);
            prop_assert!(Phoenix011.decode(Incoming::Binary(bytes.into())).is_err());
        }
    }
}
