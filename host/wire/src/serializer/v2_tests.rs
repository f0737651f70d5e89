//! What [`V2`] reads and writes, byte for byte.

use proptest::prelude::*;

use super::*;
use crate::message::Ref;

fn text(text: &str) -> Result<Message, DecodeError> {
    V2.decode(Incoming::Text(text.into()))
}

fn binary(bytes: &[u8]) -> Result<Message, DecodeError> {
    V2.decode(Incoming::Binary(Bytes::copy_from_slice(bytes)))
}

fn encode(message: &Outgoing<'_>) -> Result<(Kind, Vec<u8>), EncodeError> {
    let mut out = BytesMut::from("before");
    let kind = V2.encode(message, &mut out);
    assert!(out.starts_with(b"before"));
    let written = out.split_off(6).to_vec();
    if kind.is_err() {
        assert!(written.is_empty(), "nothing is written on an error");
    }
    Ok((kind?, written))
}

fn json(text: &str) -> Payload {
    Payload::Json(Bytes::copy_from_slice(text.as_bytes()))
}

fn raw(text: &str) -> Ref {
    Some(text.into())
}

fn named(name: &str) -> TopicName {
    TopicName::Text(name.into())
}

fn bin(bytes: &'static [u8]) -> Payload {
    Payload::Binary(Bytes::from_static(bytes))
}

fn check_text(frame: &str, join_ref: Ref, msg_ref: Ref, topic: TopicName, event: &str, payload: &str) {
    let expected = Message {
        join_ref,
        msg_ref,
        topic,
        event: event.into(),
        payload: json(payload),
    };
    assert_eq!(text(frame), Ok(expected), "{frame}");
}

fn check_encoded(message: &Outgoing<'_>, expected: &str) {
    assert_eq!(
        encode(message),
        Ok((Kind::Text, expected.as_bytes().to_vec())),
        "{expected}"
    );
}

#[test]
fn a_text_message_is_five_elements() {
    let room = || named("room:a");
    check_text(
        r#"["11","1","room:a","phx_join",{"p":1}]"#,
        raw("\"11\""),
        raw("\"1\""),
        room(),
        "phx_join",
        r#"{"p":1}"#,
    );
    check_text(r#"[null,null,"room:a","e",null]"#, None, None, room(), "e", "null");
    check_text(
        " [ null , \"2\" ,\n\"room:a\"\t, \"e\" ,  [1, 2] ] ",
        None,
        raw("\"2\""),
        room(),
        "e",
        "[1, 2]",
    );
    check_text(
        r#"["","","room:a","e","s"]"#,
        raw("\"\""),
        raw("\"\""),
        room(),
        "e",
        "\"s\"",
    );
}

#[test]
fn refs_are_kept_as_they_were_written() {
    for written in ["1", "\"1\"", "1.0", "[1, 2]", r#"{"a": 1}"#, "true", r#""\u0031""#] {
        check_text(
            &format!(r#"[{written},{written},"t","e",{{}}]"#),
            raw(written),
            raw(written),
            named("t"),
            "e",
            "{}",
        );
    }
}

#[test]
fn more_than_five_elements_are_ignored_if_they_are_json() {
    check_text(
        r#"[null,"1","t","e",{},6,["x"]]"#,
        None,
        raw("\"1\""),
        named("t"),
        "e",
        "{}",
    );
    assert!(text(r#"[null,"1","t","e",{},6,]"#).is_err());
    assert!(text(r#"[null,"1","t","e",{},x]"#).is_err());
}

#[test]
fn escapes_in_topic_and_event_are_undone() {
    check_text(
        r#"[null,null,"a\"\u00e9\n","\/e",{"k":"\u00e9"}]"#,
        None,
        None,
        named("a\"é\n"),
        "/e",
        r#"{"k":"\u00e9"}"#,
    );
    assert!(text(r#"[null,null,"\ud800","e",{}]"#).is_err());
    assert!(text(r#"[null,null,"t","\ud800",{}]"#).is_err());
}

#[test]
fn a_topic_or_event_that_is_no_string_is_kept_as_json() {
    for other in ["1", "null", "{}", "[\"a\"]", "false"] {
        let topic = TopicName::Other(other.into());
        check_text(
            &format!(r#"[null,null,{other},{other},{{}}]"#),
            None,
            None,
            topic,
            other,
            "{}",
        );
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let deep = format!(r#"[null,null,"t","e",{}]"#, "[".repeat(100_000));
    for frame in [
        "",
        " ",
        "x",
        "[]",
        "{}",
        "null",
        "\"s\"",
        "[1,2,3,4]",
        r#"[null,"1","t","e"]"#,
        r#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#,
        r#"[null,"1","t","e",{}"#,
        r#"[null,"1","t","e",{}]]"#,
        r#"[null,"1","t","e",{}] x"#,
        r#"[null,"1","t","e",{},]"#,
        r#"[,"1","t","e",{}]"#,
        r#"[null "1","t","e",{}]"#,
        r#"[null,"1","t","e",{]"#,
        r#"[null,"1","t","e",{"a":01}]"#,
        "[null,\"1\",\"t\",\"e\",\"\u{1}\"]",
        &deep,
    ] {
        assert!(text(frame).is_err(), "{frame}");
    }
}

#[test]
fn decoding_copies_refs_and_nothing_else() {
    let frame: ByteString = r#"["11","1","room:a","phx_join",{"p":1}]"#.into();
    let range = frame.as_bytes().as_ptr_range();
    let message = V2.decode(Incoming::Text(frame)).unwrap();
    let TopicName::Text(topic) = message.topic else {
        panic!()
    };
    for part in [topic.as_ptr(), message.event.as_ptr(), message.payload.bytes().as_ptr()] {
        assert!(range.contains(&part));
    }
    for part in [message.join_ref, message.msg_ref] {
        assert!(!range.contains(&part.unwrap().as_ptr()));
    }
}

#[test]
fn a_ref_of_more_than_255_bytes_is_no_ref() {
    for (len, is_ref) in [(255, true), (256, false)] {
        let long = "7".repeat(len);
        for frame in [
            format!(r#"["{long}","1","t","e",{{}}]"#),
            format!(r#"["1","{long}","t","e",{{}}]"#),
            format!(r#"[null,{long},"t","e",{{}}]"#),
        ] {
            assert_eq!(text(&frame).is_ok(), is_ref, "{frame}");
        }
    }
    // Escaped as JSON, a control character has six bytes.
    let escaped = [b"\x00\x00\xff\x01\x01", &[1; 255][..], b"te"].concat();
    assert!(binary(&escaped).is_err());
    let plain = [b"\x00\x00\xff\x01\x01", &[b'7'; 255][..], b"te"].concat();
    assert!(binary(&plain).is_ok());
}

#[test]
fn a_binary_push_from_a_client() {
    let frame = b"\x00\x01\x01\x06\x0312room:abin\xaa";
    let expected = Message {
        join_ref: raw("\"1\""),
        msg_ref: raw("\"2\""),
        topic: named("room:a"),
        event: "bin".into(),
        payload: bin(b"\xaa"),
    };
    assert_eq!(binary(frame), Ok(expected));
}

#[test]
fn an_empty_ref_in_a_binary_push_is_the_empty_string_and_not_null() {
    let message = binary(b"\x00\x00\x00\x00\x00").unwrap();
    assert_eq!(
        message,
        Message {
            join_ref: raw("\"\""),
            msg_ref: raw("\"\""),
            topic: named(""),
            event: "".into(),
            payload: bin(b"")
        }
    );
}

#[test]
fn a_ref_in_a_binary_push_is_a_json_string() {
    let message = binary(b"\x00\x03\x02\x01\x01a\"\n12tedata").unwrap();
    assert_eq!((message.join_ref, message.msg_ref), (raw(r#""a\"\n""#), raw("\"12\"")));
}

#[test]
fn a_binary_frame_that_is_no_push_is_refused() {
    for frame in [
        &b""[..],
        b"\x00",
        b"\x00\x01\x01\x01",
        b"\x00\x01\x01\x06\x0312room:abi",
        b"\x00\xff\xff\xff\xff",
        b"\x01\x01\x01\x01\x0112te",
        b"\x02\x01\x01te",
        b"\x03\x00\x00\x00\x00",
        b"\xff\x00\x00\x00\x00",
        b"\x00\x01\x00\x00\x00\xff",
        b"\x00\x00\x01\x00\x00\xff",
        b"\x00\x00\x00\x02\x00\xc3\x28",
        b"\x00\x00\x00\x00\x01\x80",
    ] {
        assert!(binary(frame).is_err(), "{frame:x?}");
    }
}

#[test]
fn the_six_text_rows() {
    let topic = &named("room:a");
    let (eleven, one) = (Some("\"11\""), Some("\"1\""));
    let reply = Outgoing::Reply {
        join_ref: eleven,
        msg_ref: one,
        topic,
        status: "ok",
        payload: &Payload::EMPTY,
    };
    check_encoded(
        &reply,
        r#"["11","1","room:a","phx_reply",{"response":{},"status":"ok"}]"#,
    );
    let push = Outgoing::Push {
        join_ref: eleven,
        topic: "room:a",
        event: "joined",
        payload: &json(r#"{"n":1}"#),
    };
    check_encoded(&push, r#"["11",null,"room:a","joined",{"n":1}]"#);
    let broadcast = Outgoing::Broadcast {
        topic: "room:a",
        event: "b",
        payload: &json(r#"{"z":2}"#),
    };
    check_encoded(&broadcast, r#"[null,null,"room:a","b",{"z":2}]"#);
    let close = Outgoing::End {
        join_ref: eleven,
        topic: "room:a",
        event: event::CLOSE,
        payload: &Payload::EMPTY,
    };
    check_encoded(&close, r#"["11","11","room:a","phx_close",{}]"#);
    let error = Outgoing::End {
        join_ref: eleven,
        topic: "room:a",
        event: event::ERROR,
        payload: &Payload::reason("channel_crash"),
    };
    check_encoded(&error, r#"["11","11","room:a","phx_error",{"reason":"channel_crash"}]"#);
    let close = Outgoing::End {
        join_ref: None,
        topic: "room:a",
        event: event::CLOSE,
        payload: &Payload::EMPTY,
    };
    check_encoded(&close, r#"[null,null,"room:a","phx_close",{}]"#);
}

#[test]
fn a_reply_echoes_refs_topic_and_any_response() {
    let topic = &TopicName::Other("null".into());
    let payload = &Payload::reason("unmatched topic");
    let unmatched = Outgoing::Reply {
        join_ref: None,
        msg_ref: Some("17"),
        topic,
        status: "error",
        payload,
    };
    check_encoded(
        &unmatched,
        r#"[null,17,null,"phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]"#,
    );
    let odd = Outgoing::Reply {
        join_ref: Some("[1]"),
        msg_ref: None,
        topic: &named("a\"b"),
        status: "o\\k",
        payload: &json("null"),
    };
    check_encoded(
        &odd,
        r#"[[1],null,"a\"b","phx_reply",{"response":null,"status":"o\\k"}]"#,
    );
}

#[test]
fn the_three_binary_rows_to_a_client() {
    let room = "room:a";
    let push = Outgoing::Push {
        join_ref: Some("\"11\""),
        topic: room,
        event: "pb",
        payload: &bin(&[1, 2]),
    };
    assert_eq!(
        encode(&push),
        Ok((Kind::Binary, b"\x00\x02\x06\x0211room:apb\x01\x02".to_vec()))
    );
    let (join_ref, msg_ref) = (Some("\"11\""), Some("\"13\""));
    let reply = Outgoing::Reply {
        join_ref,
        msg_ref,
        topic: &named(room),
        status: "ok",
        payload: &bin(&[3, 4]),
    };
    assert_eq!(
        encode(&reply),
        Ok((Kind::Binary, b"\x01\x02\x02\x06\x021113room:aok\x03\x04".to_vec()))
    );
    let broadcast = Outgoing::Broadcast {
        topic: room,
        event: "bb",
        payload: &bin(&[9, 8]),
    };
    assert_eq!(
        encode(&broadcast),
        Ok((Kind::Binary, b"\x02\x06\x02room:abb\x09\x08".to_vec()))
    );
}

#[test]
fn a_ref_in_a_binary_reply_is_its_text() {
    for (written, text) in [
        (None, ""),
        (Some("\"\""), ""),
        (Some("13"), "13"),
        (Some(r#""a\"\u00e9""#), "a\"é"),
        (Some("[1]"), "[1]"),
    ] {
        let reply = Outgoing::Reply {
            join_ref: None,
            msg_ref: written,
            topic: &named("t"),
            status: "ok",
            payload: &bin(b""),
        };
        let expected = [&[1, 0, text.len() as u8, 1, 2], text.as_bytes(), b"tok"].concat();
        assert_eq!(encode(&reply), Ok((Kind::Binary, expected)));
    }
}

#[test]
fn a_header_field_over_255_bytes_is_named() {
    let long = "é".repeat(128);
    let quoted = format!("\"{long}\"");
    let payload = &bin(b"x");
    let check =
        |message: Outgoing<'_>, field| assert_eq!(encode(&message), Err(EncodeError::TooLong { field, len: 256 }));
    check(
        Outgoing::Push {
            join_ref: Some(&quoted),
            topic: "t",
            event: "e",
            payload,
        },
        "join_ref",
    );
    check(
        Outgoing::Push {
            join_ref: None,
            topic: &long,
            event: "e",
            payload,
        },
        "topic",
    );
    check(
        Outgoing::Broadcast {
            topic: "t",
            event: &long,
            payload,
        },
        "event",
    );
    let topic = &named("t");
    check(
        Outgoing::Reply {
            join_ref: None,
            msg_ref: Some(&quoted),
            topic,
            status: "ok",
            payload,
        },
        "ref",
    );
    check(
        Outgoing::Reply {
            join_ref: None,
            msg_ref: None,
            topic,
            status: &long,
            payload,
        },
        "status",
    );
    let most = "a".repeat(255);
    assert!(
        encode(&Outgoing::Broadcast {
            topic: &most,
            event: &most,
            payload
        })
        .is_ok()
    );
    assert!(
        encode(&Outgoing::Broadcast {
            topic: &long,
            event: "e",
            payload: &json("{}")
        })
        .is_ok(),
        "text has no such limit"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn arbitrary_binary_frames_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = binary(&bytes);
        let mut push = bytes;
        push.insert(0, 0);
        let _ = binary(&push);
    }

    #[test]
    fn a_text_frame_with_a_fault_in_it_is_refused_as_serde_json_refuses_it(
        at in any::<prop::sample::Index>(),
        removed in 0..12_usize,
        put in prop::sample::select(&["", "\"", ",", "[", "]", "{}", "\\", "null", "1", " ", "\\ud800", "é", ",\"x\","][..]),
    ) {
        let whole = r#"["1", "22", "room:\u00e9", "ev\nent", {"a": [1, "b"]}]"#;
        let at = at.index(whole.len());
        let frame = [&whole[..at], put, &whole[(at + removed).min(whole.len())..]].concat();
        let elements = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(&frame).ok().filter(|elements| elements.len() >= 5);
        // What need not be understood may hold half a surrogate pair.
        let expected = elements.is_some_and(|elements| {
            elements[2..4].iter().all(|name| serde_json::from_str::<serde_json::Value>(name.get()).is_ok())
        });
        prop_assert_eq!(text(&frame).is_ok(), expected, "{}", frame);
    }

    #[test]
    fn arbitrary_text_does_no_harm(frame: String) {
        let _ = text(&frame);
    }

    #[test]
    fn a_broadcast_reads_back(topic: String, event in r#"[a-z"\\\n]{0,20}"#) {
        let (_, bytes) = encode(&Outgoing::Broadcast { topic: &topic, event: &event, payload: &Payload::EMPTY }).unwrap();
        let message = text(std::str::from_utf8(&bytes).unwrap()).unwrap();
        prop_assert_eq!(message, Message { join_ref: None, msg_ref: None, topic: named(&topic), event: event.into(), payload: Payload::EMPTY });
    }
}
