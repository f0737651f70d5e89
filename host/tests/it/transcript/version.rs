//! How what a transcript says is said in another version.
//!
//! Those that stand in no folder are written in version 2, and are translated; what is no message stays what it is.

use std::net::SocketAddr;

use bennu_tools::client::{Frame, Options};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::caller::Over;
use super::line::Expected;
use super::messagepack;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Phoenix 0.11.
    Phoenix011,
    /// 1.0.0.
    V1,
    /// 2.0.0.
    V2,
    /// The tests' own, which takes its place.
    MessagePack,
    /// 1.0.0 of Supabase's clients.
    SupabaseV1,
    /// 2.0.0 of Supabase's clients. What is said of bytes in Phoenix's 2.0.0 does not apply to them.
    SupabaseV2,
}

impl Version {
    /// How its clients connect.
    pub(crate) fn options(self, address: SocketAddr, over: Over) -> Options {
        let vsn = match self {
            Self::Phoenix011 => return Options::phoenix_0_11(address, over.own()),
            Self::V1 | Self::SupabaseV1 => "1.0.0",
            Self::V2 | Self::MessagePack | Self::SupabaseV2 => "2.0.0",
        };
        let mount = if self.is_supabases() { "/supabase" } else { "/socket" };
        Options {
            mount: mount.to_owned(),
            vsn: Some(vsn.to_owned()),
            ..Options::new(address, over.own())
        }
    }

    /// Whether it is one of Supabase's clients, which have a mount of their own.
    pub(super) fn is_supabases(self) -> bool {
        matches!(self, Self::SupabaseV1 | Self::SupabaseV2)
    }

    /// The folder of the transcripts that are written in it, inside that of all.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Phoenix011 => "phoenix_0_11",
            Self::V1 => "v1",
            Self::V2 => "",
            Self::MessagePack => unreachable!("transcripts are text"),
            Self::SupabaseV1 | Self::SupabaseV2 => unreachable!("none is written in it"),
        }
    }

    /// Whether clients have binary messages to send.
    pub(super) fn sends_bytes(self) -> bool {
        matches!(self, Self::V2 | Self::MessagePack)
    }

    /// A heartbeat, and its answer.
    pub(super) fn heartbeat(self, msg_ref: &str) -> (String, Value) {
        let beat = json!({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": msg_ref});
        let ok = json!({"response": {}, "status": "ok"});
        match self {
            Self::Phoenix011 => (beat.to_string(), beat),
            Self::V1 | Self::SupabaseV1 => {
                let answer = json!({"topic": "phoenix", "event": "phx_reply", "payload": ok, "ref": msg_ref});
                (beat.to_string(), answer)
            }
            Self::V2 | Self::MessagePack | Self::SupabaseV2 => {
                let beat = json!([null, msg_ref, "phoenix", "heartbeat", {}]);
                (beat.to_string(), json!([null, msg_ref, "phoenix", "phx_reply", ok]))
            }
        }
    }

    /// What is sent for a frame that a transcript in version `written` has.
    pub(super) fn say(self, written: Self, frame: Frame) -> Frame {
        match (written, self, &frame) {
            (Self::V2, Self::V1 | Self::SupabaseV1, Frame::Text(text)) => v1(text).map_or(frame, Frame::Text),
            (Self::V2, Self::MessagePack, _) => messagepack::say(frame),
            _ => frame,
        }
    }

    /// What is to come for what a transcript in version `written` expects.
    pub(super) fn expect(self, written: Self, expected: &Expected) -> Option<Value> {
        let value = match expected {
            Expected::Text(value) => value.clone(),
            Expected::Binary(bytes) if self == Self::MessagePack => return messagepack::expect(bytes),
            Expected::Binary(bytes) => return Some(hex(bytes)),
            Expected::Close(_) => return None,
        };
        match (written, self, value.as_array().map(Vec::as_slice)) {
            (Self::V2, Self::V1 | Self::SupabaseV1, Some([_, msg_ref, topic, event, payload])) => {
                Some(json!({"topic": topic, "event": event, "payload": payload, "ref": msg_ref}))
            }
            _ => Some(value),
        }
    }

    /// What has come, in the same form.
    pub(super) fn hear(self, frame: &Frame) -> Option<Value> {
        match frame {
            _ if self == Self::MessagePack => messagepack::hear(frame),
            Frame::Text(text) => serde_json::from_str(text).ok(),
            Frame::Binary(bytes) => Some(hex(bytes)),
        }
    }
}

/// The same message as an object. Every part stays as it is written.
fn v1(text: &str) -> Option<String> {
    let parts: Vec<Box<RawValue>> = serde_json::from_str(text).ok()?;
    let [join_ref, msg_ref, topic, event, payload, ..] = &parts[..] else {
        return None;
    };
    let message = format!(r#""topic":{topic},"event":{event},"payload":{payload},"ref":{msg_ref}"#);
    Some(match join_ref.get() {
        "null" => format!("{{{message}}}"),
        join_ref => format!(r#"{{{message},"join_ref":{join_ref}}}"#),
    })
}

/// Bytes as a value of their own kind.
pub(super) fn hex(bytes: &[u8]) -> Value {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "bytes": hex.join(" ") })
}

#[test]
fn a_message_of_version_2_becomes_one_of_version_1() {
    let said = |text: &str| match Version::V1.say(Version::V2, text.into()) {
        Frame::Text(text) => text,
        Frame::Binary(_) => panic!("bytes"),
    };
    let join = r#"["1", 2,"room:\u00e9","phx_join",{"a":1e3}, "more"]"#;
    let expected = r#"{"topic":"room:\u00e9","event":"phx_join","payload":{"a":1e3},"ref":2,"join_ref":"1"}"#;
    assert_eq!(said(join), expected);
    let heartbeat = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":null}"#;
    assert_eq!(said(r#"[null,null,"phoenix","heartbeat",{}]"#), heartbeat);
    assert_eq!(said("[1,2"), "[1,2");
    let close = Expected::Text(json!(["1", "1", "room:a", "phx_close", {}]));
    let closed = json!({"topic": "room:a", "event": "phx_close", "payload": {}, "ref": "1"});
    assert_eq!(Version::V1.expect(Version::V2, &close), Some(closed));
}
