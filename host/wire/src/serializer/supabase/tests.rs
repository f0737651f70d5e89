use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A frame as supabase-js writes it: of a text, the low byte of each character.
fn pushed(join_ref: &str, msg_ref: &str, topic: &str, event: &str, meta: &str, encoding: u8, payload: &[u8]) -> Bytes {
    let low = |text: &str| text.chars().map(|char| char as u8).collect::<Vec<u8>>();
    let texts = [join_ref, msg_ref, topic, event, meta].map(low);
    let mut frame = vec![3];
    frame.extend(texts.iter().map(|text| text.len() as u8));
    frame.push(encoding);
    frame.extend(texts.concat());
    frame.extend(payload);
    frame.into()
}

fn read(frame: Bytes) -> Result<Message, DecodeError> {
    SupabaseV2.decode(Incoming::Binary(frame))
}

#[track_caller]
fn message(frame: Bytes) -> Message {
    read(frame).expect("a message")
}

fn written(serializer: &dyn Serializer, message: &Outgoing<'_>) -> (Kind, Bytes) {
    let mut out = BytesMut::new();
    let kind = serializer.encode(message, &mut out).expect("it fits");
    (kind, out.freeze())
}

/// What supabase-js reads in a frame: topic, event, metadata and payload.
fn heard(frame: &[u8]) -> (String, String, Option<Value>, Result<Value, Vec<u8>>) {
    let (&[kind, topic, event, meta, encoding], rest) = frame.split_first_chunk::<5>().expect("a head");
    assert_eq!(kind, 4);
    let mut rest = rest;
    let mut text = |len: u8| {
        let (text, behind) = rest.split_at(len.into());
        rest = behind;
        String::from_utf8(text.to_vec()).expect("UTF-8")
    };
    let (topic, event, meta) = (text(topic), text(event), text(meta));
    let meta = (!meta.is_empty()).then(|| serde_json::from_str(&meta).expect("JSON"));
    let payload = match encoding {
        1 => Ok(serde_json::from_slice(rest).expect("JSON")),
        _ => Err(rest.to_vec()),
    };
    (topic, event, meta, payload)
}

fn broadcast<'a>(topic: &'a str, payload: &'a Payload) -> Outgoing<'a> {
    Outgoing::Broadcast {
        topic,
        event: BROADCAST,
        payload,
    }
}

fn json_of(payload: &Payload) -> Value {
    serde_json::from_slice(payload.bytes()).expect("JSON")
}

#[test]
fn a_broadcast_with_json_is_the_same_as_one_in_text() {
    let binary = message(pushed("7", "8", "realtime:a", "said", "", 1, br#"{"n":1}"#));
    let text = r#"["7","8","realtime:a","broadcast",{"type":"broadcast","event":"said","payload":{"n":1}}]"#;
    assert_eq!(
        binary,
        SupabaseV2.decode(Incoming::Text(text.into())).expect("a message")
    );
}

#[test]
fn a_broadcast_with_bytes_goes_to_others_as_it_came() {
    let bytes = [0, 255, 3, 4];
    let sent = message(pushed("7", "", "realtime:a", "pixels", "", 0, &bytes));
    assert_eq!(
        (&*sent.event, sent.msg_ref, sent.payload.is_binary()),
        (BROADCAST, None, true)
    );
    let (kind, frame) = written(&SupabaseV2, &broadcast("realtime:a", &sent.payload));
    assert_eq!(kind, Kind::Binary);
    assert_eq!(
        heard(&frame),
        ("realtime:a".into(), "pixels".into(), None, Err(bytes.to_vec()))
    );
    let (kind, text) = written(&SupabaseV1, &broadcast("realtime:a", &sent.payload));
    assert_eq!(kind, Kind::Text);
    let text: Value = serde_json::from_slice(&text).expect("JSON");
    let payload = json!({ "type": "broadcast", "event": "pixels", "payload": { "_binary": "AP8DBA==" } });
    assert_eq!(text["payload"], payload);
}

#[test]
fn what_a_client_of_version_1_says_reaches_one_of_version_2_in_a_frame_of_kind_4() {
    let payload = json!({ "type": "broadcast", "event": "grüße", "payload": [1, null], "meta": { "id": "x" } });
    let payload = Payload::Json(payload.to_string().into());
    let (kind, frame) = written(&SupabaseV2, &broadcast("realtime:ä", &payload));
    assert_eq!(kind, Kind::Binary);
    let meta = Some(json!({ "id": "x" }));
    assert_eq!(
        heard(&frame),
        ("realtime:ä".into(), "grüße".into(), meta, Ok(json!([1, null])))
    );
}

#[test]
fn what_does_not_fit_a_frame_of_kind_4_is_sent_as_text() {
    let long = "x".repeat(256);
    for (topic, payload) in [
        ("a", json!({ "event": "e" })),
        ("a", json!({ "event": 7, "payload": {} })),
        ("a", json!({ "payload": {} })),
        ("a", json!({ "type": "other", "event": "e", "payload": {} })),
        (
            "a",
            json!({ "type": "broadcast", "event": "e", "payload": {}, "more": 1 }),
        ),
        ("a", json!({ "type": "broadcast", "event": long, "payload": {} })),
        (
            "a",
            json!({ "type": "broadcast", "event": "e", "payload": {}, "meta": { "id": long } }),
        ),
        (&long, json!({ "type": "broadcast", "event": "e", "payload": {} })),
    ] {
        let sent = Payload::Json(payload.to_string().into());
        let (kind, text) = written(&SupabaseV2, &broadcast(topic, &sent));
        assert_eq!(kind, Kind::Text, "{payload}");
        let text: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(text, json!([null, null, topic, "broadcast", payload]));
    }
}

#[test]
fn bytes_for_which_a_frame_has_no_room_are_withheld() {
    let payload = broadcast_bytes("e", &[1]).expect("short");
    let topic = "x".repeat(256);
    let refused = SupabaseV2.encode(&broadcast(&topic, &payload), &mut BytesMut::new());
    assert_eq!(
        refused,
        Err(EncodeError::TooLong {
            field: "topic",
            len: 256
        })
    );
    assert!(broadcast_bytes(&topic, &[1]).is_err());
}

#[test]
fn other_bytes_are_text_as_no_client_reads_them() {
    let payload = &Payload::Binary(Bytes::from_static(&[9, 9, 9]));
    let topic = TopicName::Text("realtime:a".into());
    let reply = Outgoing::Reply {
        join_ref: Some("\"1\""),
        msg_ref: Some("\"2\""),
        topic: &topic,
        status: "ok",
        payload,
    };
    let (kind, text) = written(&SupabaseV2, &reply);
    let expected = json!(["1", "2", "realtime:a", "phx_reply", { "status": "ok", "response": { "_binary": "CQkJ" } }]);
    assert_eq!(
        (kind, serde_json::from_slice::<Value>(&text).ok()),
        (Kind::Text, Some(expected))
    );
    // It would be an envelope of nine bytes, and has one.
    let (kind, _) = written(&SupabaseV2, &broadcast("realtime:a", payload));
    assert_eq!(kind, Kind::Text);
}

#[test]
fn a_client_is_told_the_topic_and_never_the_name_of_the_room() {
    let room = "private-realtime:a";
    let payload = &Payload::EMPTY;
    let reply_to = TopicName::Text(room.into());
    let (join_ref, msg_ref, event) = (Some("\"1\""), Some("\"2\""), "x");
    for message in [
        Outgoing::Broadcast {
            topic: room,
            event,
            payload,
        },
        Outgoing::Push {
            join_ref,
            topic: room,
            event,
            payload,
        },
        Outgoing::End {
            join_ref,
            topic: room,
            event: "phx_close",
            payload,
        },
        Outgoing::Reply {
            join_ref,
            msg_ref,
            topic: &reply_to,
            status: "ok",
            payload,
        },
    ] {
        let (_, text) = written(&SupabaseV1, &message);
        let text: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(text["topic"], "realtime:a");
        let (_, text) = written(&SupabaseV2, &message);
        let text: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(text[2], "realtime:a");
    }
    let said = broadcast_json("e", &Bytes::from_static(b"{}")).expect("JSON");
    let (_, frame) = written(&SupabaseV2, &broadcast(room, &said));
    assert_eq!(heard(&frame).0, "realtime:a");
}

#[test]
fn a_text_that_is_no_utf_8_is_read_as_supabase_js_wrote_it() {
    let sent = message(pushed("1", "2", "realtime:café", "größe", "", 1, b"{}"));
    assert_eq!(sent.topic, TopicName::Text("realtime:café".into()));
    assert_eq!(json_of(&sent.payload)["event"], "größe");
    // What others write as UTF-8 is UTF-8.
    let mut frame = vec![3, 0, 0, 5, 1, 0, 1];
    frame.extend("cafée{}".as_bytes());
    assert_eq!(message(frame.into()).topic, TopicName::Text("café".into()));
}

#[test]
fn what_is_no_frame_is_refused_with_the_reason() {
    #[track_caller]
    fn check(frame: impl Into<Bytes>, reason: &'static str) {
        assert_eq!(read(frame.into()), Err(DecodeError::Malformed(reason)));
    }
    let head = "a binary frame starts with its kind, five lengths and an encoding";
    check(&b""[..], head);
    check(&[3, 0, 0, 0, 0, 0][..], head);
    let kind = "the only binary frames that a client of Supabase sends are of kind 3";
    for other in [0, 1, 2, 4, 255] {
        check(vec![other, 0, 0, 0, 0, 0, 1, b'1'], kind);
    }
    check(&[3, 1, 0, 0, 0, 0, 1][..], "a binary frame ends inside its header");
    check(
        &[3, 0, 0, 255, 255, 255, 1, b'1'][..],
        "a binary frame ends inside its header",
    );
    check(
        pushed("", "", "t", "e", "", 2, b"{}"),
        "the encoding of a broadcast is 0 (bytes) or 1 (JSON)",
    );
    let json = "a broadcast that is said to be JSON is not";
    for bad in ["", "{", "{}}", "{},\"meta\":1", "nul"] {
        check(pushed("", "", "t", "e", "", 1, bad.as_bytes()), json);
    }
    check(
        pushed("", "", "t", "e", "", 1, &[b'"', 255, b'"']),
        "a broadcast that is said to be JSON is not UTF-8",
    );
    for bad in ["1", "{", "[1]", "{}}"] {
        check(
            pushed("", "", "t", "e", bad, 0, b""),
            "the metadata of a broadcast is a JSON object",
        );
    }
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    check(
        pushed("", "", "t", "e", "", 1, deep(127).as_bytes()),
        "nested too deeply",
    );
    assert!(read(pushed("", "", "t", "e", "", 1, deep(126).as_bytes())).is_ok());
    check(pushed(&"ä".repeat(200), "", "t", "e", "", 1, b"{}"), LONG_REF);
}

#[test]
fn the_versions_of_supabase_stand_beside_those_of_phoenix() {
    use crate::serializer::{BUILT_IN, SUPABASE, Serializers, same};
    for (ours, theirs) in BUILT_IN.into_iter().zip(SUPABASE) {
        assert_eq!(ours.vsn(), theirs.vsn());
        assert!(!same(ours, theirs));
        let chosen = Serializers::new(SUPABASE).negotiate(Some(ours.vsn())).expect("spoken");
        assert!(same(chosen, theirs));
    }
}

/// A text that a header has room for. supabase-js writes the low bytes of its characters.
fn latin(most: usize) -> impl Strategy<Value = String> {
    let text = proptest::collection::vec(prop_oneof![9 => 0x20_u8..0x7f, 1 => 0xa0_u8..=0xff], 0..most);
    let latin = text.prop_map(|bytes| bytes.into_iter().map(char::from).collect::<String>());
    // Two such characters may look like one in UTF-8.
    latin.prop_filter("it is ambiguous", |text: &String| {
        let low: Vec<u8> = text.chars().map(|char| char as u8).collect();
        text.is_ascii() || std::str::from_utf8(&low).is_err()
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn json_that_one_client_says_is_what_the_others_hear(
        topic in latin(100), event in latin(100), msg_ref in "[0-9]{0,9}", payload in any_json(), meta: Option<u32>,
    ) {
        let meta = meta.map(|id| json!({ "id": id }));
        let text = meta.as_ref().map_or_else(String::new, Value::to_string);
        let sent = message(pushed("1", &msg_ref, &topic, &event, &text, 1, payload.to_string().as_bytes()));
        prop_assert_eq!(&sent.topic, &TopicName::Text(topic.as_str().into()));
        let expected = (!msg_ref.is_empty()).then(|| format!("\"{msg_ref}\""));
        prop_assert_eq!(sent.msg_ref.as_deref(), expected.as_deref());
        let (_, frame) = written(&SupabaseV2, &broadcast("realtime:x", &sent.payload));
        prop_assert_eq!(heard(&frame), ("realtime:x".to_owned(), event.clone(), meta.clone(), Ok(payload.clone())));
        let (_, text) = written(&SupabaseV1, &broadcast("realtime:x", &sent.payload));
        let text: Value = serde_json::from_slice(&text).expect("JSON");
        prop_assert_eq!((&text["payload"]["event"], &text["payload"]["payload"]), (&event.into(), &payload));
        prop_assert_eq!(text["payload"].get("meta"), meta.as_ref());
    }

    #[test]
    fn bytes_that_one_client_says_are_what_the_others_hear(topic in latin(100), event in latin(100), bytes: Vec<u8>) {
        let sent = message(pushed("1", "2", &topic, &event, "", 0, &bytes));
        let (kind, frame) = written(&SupabaseV2, &broadcast(&topic, &sent.payload));
        prop_assert_eq!(kind, Kind::Binary);
        let topic = Dialect::Supabase.topic_of(&topic).to_owned();
        prop_assert_eq!(heard(&frame), (topic, event, None, Err(bytes)));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(kind in prop_oneof![Just(3_u8), any::<u8>()], lengths: [u8; 6], rest: Vec<u8>) {
        let short = lengths.map(|length| length % 8);
        for lengths in [&lengths[..], &short[..], &[]] {
            let frame = [&[kind][..], lengths, &rest[..]].concat();
            if let Ok(message) = read(frame.into()) {
                prop_assert_eq!(&*message.event, BROADCAST);
                for serializer in crate::serializer::SUPABASE {
                    let mut out = BytesMut::new();
                    let _ = serializer.encode(&broadcast("t", &message.payload), &mut out);
                }
            }
        }
    }

    #[test]
    fn any_payload_of_a_plugin_can_be_written(text: String, bytes: Vec<u8>, value in any_json()) {
        let object = json!({ text: value });
        for payload in [Payload::Binary(bytes.into()), Payload::Json(object.to_string().into())] {
            let (kind, out) = written(&SupabaseV1, &broadcast("t", &payload));
            prop_assert_eq!(kind, Kind::Text);
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
            let (kind, out) = written(&SupabaseV2, &broadcast("t", &payload));
            prop_assert!(kind == Kind::Binary || serde_json::from_slice::<Value>(&out).is_ok());
        }
    }
}
