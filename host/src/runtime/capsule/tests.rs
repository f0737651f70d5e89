use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A capsule as the first format wrote it. Do not write it anew: a server reads it for ever.
const FORMAT_1: &[u8] = include_bytes!("format-1.capsule");

fn example() -> Capsule {
    Capsule {
        plugin: "room".to_owned(),
        topic: "room:lobby".to_owned(),
        written_unix_ms: 1_790_000_000_000,
        in_use: true,
        state: Snapshot {
            version: 3,
            handled: 41,
            shared: Bytes::from_static(b"\x81\xa5count\x29"),
            members: vec![MemberState {
                member: MemberId::new(0, 1, 7),
                state: Bytes::from_static(b"\x80"),
                info: Bytes::new(),
            }],
        },
        timers: vec![Timer {
            name: "close".to_owned(),
            payload: Bytes::from_static(b"{\"round\":2}"),
            binary: false,
            due_unix_ms: 1_790_000_060_000,
        }],
        revision: None,
    }
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

prop_compose! {
    fn any_timer()(name in ".{0,20}", payload in any_bytes(), binary: bool, due_unix_ms: u64) -> Timer {
        Timer { name, payload, binary, due_unix_ms }
    }
}

prop_compose! {
    fn any_member()(thread in 0..255_u8, slot in 0..1_u32 << 24, serial: u32, state in any_bytes(), info in any_bytes()) -> MemberState {
        MemberState { member: MemberId::new(thread, slot, serial), state, info }
    }
}

prop_compose! {
    fn any_capsule()(
        plugin in "[a-z_]{1,20}", topic in ".{0,60}", written_unix_ms: u64, in_use: bool, version: u32, handled: u64, shared in any_bytes(),
        members in vec(any_member(), 0..5), timers in vec(any_timer(), 0..5), number: Option<u64>,
    ) -> Capsule {
        let revision = number.map(|number| Revision { number, is_mark: true, store: 7 });
        let state = Snapshot { version, handled, shared, members };
        Capsule { plugin, topic, written_unix_ms, in_use, state, timers, revision }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read(capsule in any_capsule()) {
        prop_assert_eq!(Capsule::decode(&capsule.encode()), Ok(capsule));
    }

    #[test]
    fn a_changed_or_missing_byte_is_noticed(capsule in any_capsule(), at: prop::sample::Index, bit in 0..8_u8) {
        let whole = capsule.encode();
        let at = at.index(whole.len());
        prop_assert!(Capsule::decode(&whole[..at]).is_err());
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1 << bit;
        prop_assert!(Capsule::decode(&flipped).is_err());
    }
}

#[test]
fn a_capsule_of_the_first_format_is_read() {
    assert_eq!(Capsule::decode(FORMAT_1), Ok(example()));
}

/// The body of an envelope with these fields.
fn enveloped(format: u32, body: &impl Serialize) -> Bytes {
    let body = rmp_serde::to_vec_named(body).unwrap();
    let envelope = Envelope {
        bennu_capsule: format,
        crc32: crc32fast::hash(&body),
        body: body.into(),
    };
    rmp_serde::to_vec_named(&envelope).unwrap().into()
}

#[test]
fn unknown_fields_are_ignored_and_missing_ones_have_a_default() {
    #[derive(Serialize)]
    struct Later {
        mailbox: Vec<u32>,
        topic: &'static str,
    }
    let later = Later {
        mailbox: vec![1, 2],
        topic: "room:a",
    };
    let read = Capsule::decode(&enveloped(FORMAT, &later)).unwrap();
    let topic = "room:a".to_owned();
    assert_eq!(
        read,
        Capsule {
            topic,
            ..Capsule::default()
        }
    );
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let error = Capsule::decode(&enveloped(2, &example())).unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
}
