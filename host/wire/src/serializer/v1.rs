//! Protocol version 1: objects `{"topic", "event", "payload", "ref"}` as text. It has no binary messages, and the server sends
//! no `join_ref`.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;

use super::object::{MISSING, Parts};
use super::text::{put_string, string, text_ref};
use super::{DecodeError, EncodeError, Incoming, Kind, Serializer};
use crate::message::{Message, Outgoing, PHOENIX_TOPIC, Payload, TopicName, event};

/// The serializer for `vsn` 1.0.x, and for clients that ask for none.
#[derive(Clone, Copy, Debug)]
pub struct V1;

impl Serializer for V1 {
    fn vsn(&self) -> &'static str {
        "1.0.0"
    }

    fn takes_binary(&self) -> bool {
        false
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        let text = match frame {
            Incoming::Text(text) => text,
            // Phoenix reads a binary frame as text, too.
            Incoming::Binary(bytes) => {
                ByteString::try_from(bytes).map_err(|_| DecodeError::Malformed("a message is UTF-8"))?
            }
        };
        decode(&text).map_err(DecodeError::Malformed)
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        encode(message, out);
        Ok(Kind::Text)
    }
}

fn decode(text: &ByteString) -> Result<Message, &'static str> {
    let parts = Parts::of(text)?;
    let (topic, event) = (parts.topic.ok_or(MISSING)?, parts.event.ok_or(MISSING)?);
    Ok(Message {
        join_ref: parts.join_ref.map_or(Ok(None), text_ref)?,
        msg_ref: text_ref(parts.msg_ref.ok_or(MISSING)?)?,
        topic: match string(text, topic)? {
            Some(name) => TopicName::Text(name),
            None => TopicName::Other(text.slice_ref(topic)),
        },
        event: match string(text, event)? {
            Some(name) => name,
            None => text.slice_ref(event),
        },
        payload: Payload::Json(text.slice_ref(parts.payload.ok_or(MISSING)?).into_bytes()),
    })
}

fn encode(message: &Outgoing<'_>, out: &mut BytesMut) {
    let payload = message.payload().bytes();
    out.reserve(payload.len() + 128);
    out.put_slice(b"{\"event\":");
    match *message {
        Outgoing::Reply {
            msg_ref, topic, status, ..
        } => reply(out, msg_ref, topic, status, payload),
        Outgoing::Heartbeat { msg_ref } => reply(out, msg_ref, &PHOENIX_TOPIC, "ok", payload),
        Outgoing::Push { topic, event, .. } | Outgoing::Broadcast { topic, event, .. } => {
            plain(out, event, payload, None, topic);
        }
        Outgoing::End {
            join_ref, topic, event, ..
        } => plain(out, event, payload, join_ref, topic),
    }
}

fn reply(out: &mut BytesMut, msg_ref: Option<&str>, topic: &TopicName, status: &str, payload: &[u8]) {
    put_string(out, event::REPLY);
    out.put_slice(b",\"payload\":{\"response\":");
    out.put_slice(payload);
    out.put_slice(b",\"status\":");
    put_string(out, status);
    out.put_u8(b'}');
    tail(out, msg_ref, topic);
}

fn plain(out: &mut BytesMut, event: &str, payload: &[u8], msg_ref: Option<&str>, topic: &str) {
    put_string(out, event);
    out.put_slice(b",\"payload\":");
    out.put_slice(payload);
    tail(out, msg_ref, &TopicName::Text(topic.into()));
}

fn tail(out: &mut BytesMut, msg_ref: Option<&str>, topic: &TopicName) {
    out.put_slice(b",\"ref\":");
    out.put_slice(msg_ref.unwrap_or("null").as_bytes());
    out.put_slice(b",\"topic\":");
    match topic {
        TopicName::Text(name) => put_string(out, name),
        TopicName::Other(raw) => out.put_slice(raw.as_bytes()),
    }
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Incoming {
        Incoming::Text(text.into())
    }

    fn message(join_ref: Option<&str>, msg_ref: Option<&str>, payload: &'static str) -> Message {
        Message {
            join_ref: join_ref.map(Into::into),
            msg_ref: msg_ref.map(Into::into),
            topic: TopicName::Text("room:a".into()),
            event: "phx_join".into(),
            payload: Payload::Json(Bytes::from_static(payload.as_bytes())),
        }
    }

    fn sent(message: &Outgoing<'_>) -> String {
        let mut out = BytesMut::new();
        assert_eq!(V1.encode(message, &mut out), Ok(Kind::Text));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_an_object_with_four_keys_in_any_order() {
        let plain = r#"{"topic":"room:a","event":"phx_join","payload":{},"ref":"1"}"#;
        assert_eq!(V1.decode(text(plain)), Ok(message(None, Some("\"1\""), "{}")));
        let other = r#" { "ref" : null , "join_ref":9, "x":[1], "payload" : {"a":1}, "event":"phx_join","topic":"room\u003aa"} "#;
        assert_eq!(V1.decode(text(other)), Ok(message(Some("9"), None, r#"{"a":1}"#)));
    }

    #[test]
    fn a_binary_frame_is_read_as_text() {
        let frame = Bytes::from_static(br#"{"topic":"room:a","event":"phx_join","payload":{},"ref":"1"}"#);
        assert_eq!(
            V1.decode(Incoming::Binary(frame)),
            Ok(message(None, Some("\"1\""), "{}"))
        );
        assert!(V1.decode(Incoming::Binary(Bytes::from_static(b"\xff"))).is_err());
    }

    #[test]
    fn a_ref_of_more_than_255_bytes_is_no_ref() {
        for (len, is_ref) in [(255, true), (256, false)] {
            let long = "7".repeat(len);
            for refs in [format!(r#""ref":"{long}""#), format!(r#""ref":1,"join_ref":{long}"#)] {
                let frame = format!(r#"{{"topic":"t","event":"e","payload":{{}},{refs}}}"#);
                assert_eq!(V1.decode(text(&frame)).is_ok(), is_ref, "{frame}");
            }
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let twice = r#"{"topic":"x","topic":"room:a","event":"phx_join","payload":{},"ref":"1"}"#;
        assert_eq!(V1.decode(text(twice)), Ok(message(None, Some("\"1\""), "{}")));
    }

    #[test]
    fn what_misses_a_key_or_is_no_object_is_refused() {
        for bad in [
            "",
            "[]",
            "null",
            "{}",
            "{",
            r#"{"topic":"a","event":"b","payload":{}}"#,
            r#"{"event":"b","payload":{},"ref":"1"}"#,
            r#"{"topic":"a","event":"b","payload":{},"ref":"1"} x"#,
            r#"{"topic":"a","event":"b","payload":{},"ref":"1",}"#,
        ] {
            assert!(V1.decode(text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_goes_out_has_no_join_ref_but_at_the_end() {
        let (topic, empty) = (TopicName::Text("room:a".into()), Payload::EMPTY);
        let reply = Outgoing::Reply {
            join_ref: Some("\"9\""),
            msg_ref: Some("\"1\""),
            topic: &topic,
            status: "ok",
            payload: &empty,
        };
        assert_eq!(
            sent(&reply),
            r#"{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"1","topic":"room:a"}"#
        );
        let push = Outgoing::Push {
            join_ref: Some("\"9\""),
            topic: "room:a",
            event: "joined",
            payload: &empty,
        };
        assert_eq!(
            sent(&push),
            r#"{"event":"joined","payload":{},"ref":null,"topic":"room:a"}"#
        );
        let end = Outgoing::End {
            join_ref: Some("\"9\""),
            topic: "room:a",
            event: "phx_close",
            payload: &empty,
        };
        assert_eq!(
            sent(&end),
            r#"{"event":"phx_close","payload":{},"ref":"9","topic":"room:a"}"#
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_text_is_read_as_serde_json_reads_it(pieces in proptest::collection::vec(prop::sample::select(&[
            "{", "}", "\"topic\":", "\"event\":", "\"payload\":", "\"ref\":", "\"a\"", "1", "null", ",", "[", "]", " ", "\"",
        ][..]), 0..16)) {
            let raw = pieces.concat();
            if V1.decode(text(&raw)).is_ok() {
                let value: serde_json::Value = serde_json::from_str(&raw).unwrap();
                prop_assert!(["topic", "event", "payload", "ref"].iter().all(|key| value.get(key).is_some()));
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = V1.decode(Incoming::Binary(bytes.into()));
        }
    }
}
