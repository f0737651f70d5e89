//! The decoder against everything a client may do, well-behaved or not. Groups are those of the Autobahn test suite.

mod deflated;

use std::ops::ControlFlow;

use bennu_wire::serializer::{Incoming, Kind};
use bytes::Bytes;
use proptest::prelude::*;

use super::decode::ProtocolError as Fault;
use super::*;

const LIMIT: usize = 1 << 20;

/// A frame as clients send it.
fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let (header, len) = encode::frame_header(Opcode::Text, payload.len());
    let mut frame = header[..len].to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend(key);
    let start = frame.len();
    frame.extend(payload);
    mask::unmask(&mut frame[start..], key);
    frame
}

fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn rules(max_message: usize) -> Rules {
    let deflate = false;
    Rules { max_message, deflate }
}

/// Feeds `stream` in pieces of the given sizes, the last size over and over.
fn decode(stream: &[u8], sizes: &[usize], limit: usize) -> (Vec<Input>, Result<Decoder, Fault>) {
    let mut decoder = Decoder::default();
    let mut inputs = Vec::new();
    let mut rest = stream.to_vec();
    let mut rest = rest.as_mut_slice();
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(*sizes.last().unwrap()));
    while !rest.is_empty() {
        let (piece, after) = rest.split_at_mut(sizes.next().unwrap().clamp(1, rest.len()));
        let len = piece.len();
        match decoder.feed(piece, rules(limit), |input| {
            inputs.push(input);
            ControlFlow::Continue(())
        }) {
            Ok(used) => assert_eq!(used, len),
            Err(error) => return (inputs, Err(error)),
        }
        rest = after;
    }
    (inputs, Ok(decoder))
}

/// Checks that whole, and byte by byte, the frames give the inputs and then perhaps the fault.
fn check(frames: &[Vec<u8>], inputs: &[Input], fault: Option<Fault>) {
    for size in [usize::MAX, 1, 3] {
        let (found, end) = decode(&frames.concat(), &[size], LIMIT);
        assert_eq!(found, inputs, "pieces of {size}");
        assert_eq!(end.as_ref().err(), fault.as_ref(), "pieces of {size}");
        assert!(
            end.is_err() || end.is_ok_and(|decoder| decoder.is_idle()),
            "pieces of {size}"
        );
    }
}

fn text(text: &str) -> Input {
    Input::Message(Incoming::Text(text.into()))
}

fn binary(bytes: &[u8]) -> Input {
    Input::Message(Incoming::Binary(Bytes::copy_from_slice(bytes)))
}

fn ping_input(bytes: &[u8]) -> Input {
    Input::Ping(Bytes::copy_from_slice(bytes))
}

#[test]
fn group_1_whole_messages_of_every_length_form() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = vec![b'*'; len];
        check(&[client(0x81, &payload)], &[text(&"*".repeat(len))], None);
        check(
            &[client(0x82, &payload), client(0x82, b"next")],
            &[binary(&payload), binary(b"next")],
            None,
        );
    }
}

#[test]
fn group_2_pings_and_pongs() {
    check(&[client(0x89, b"")], &[ping_input(b"")], None);
    check(&[client(0x89, &[0xff; 125])], &[ping_input(&[0xff; 125])], None);
    check(&[client(0x89, &[0; 126])], &[], Some(Fault::Control));
    check(
        &[client(0x8a, b"unasked"), client(0x89, b"p")],
        &[Input::Pong, ping_input(b"p")],
        None,
    );
    let ten: Vec<_> = (0..10).map(|index| client(0x89, &[index])).collect();
    check(
        &ten,
        &(0..10).map(|index| ping_input(&[index])).collect::<Vec<_>>(),
        None,
    );
}

#[test]
fn group_3_reserved_bits_are_refused() {
    for bits in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70] {
        check(
            &[client(0x81, b"before"), client(0x81 | bits, b"x")],
            &[text("before")],
            Some(Fault::ReservedBit),
        );
        check(&[client(0x89 | bits, b"")], &[], Some(Fault::ReservedBit));
    }
}

#[test]
fn group_4_unknown_opcodes_are_refused() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check(
            &[client(0x81, b"before"), client(0x80 | opcode, b"")],
            &[text("before")],
            Some(Fault::Opcode),
        );
    }
}

#[test]
fn group_5_messages_in_parts() {
    check(
        &[client(0x01, b"frag"), client(0x80, b"ment")],
        &[text("fragment")],
        None,
    );
    check(
        &[client(0x01, b""), client(0x00, b""), client(0x80, b"")],
        &[text("")],
        None,
    );
    check(
        &[client(0x02, b"\xff"), client(0x89, b"p"), client(0x80, b"\xfe")],
        &[ping_input(b"p"), binary(b"\xff\xfe")],
        None,
    );
    check(
        &[client(0x09, b"frag"), client(0x80, b"ment")],
        &[],
        Some(Fault::Control),
    );
    check(
        &[client(0x0a, b"frag"), client(0x80, b"ment")],
        &[],
        Some(Fault::Control),
    );
    check(&[client(0x08, b"")], &[], Some(Fault::Control));
    check(
        &[client(0x80, b"nothing before"), client(0x81, b"x")],
        &[],
        Some(Fault::Continuation),
    );
    check(
        &[client(0x00, b"nothing before"), client(0x81, b"x")],
        &[],
        Some(Fault::Continuation),
    );
    check(
        &[client(0x81, b"a"), client(0x80, b"b")],
        &[text("a")],
        Some(Fault::Continuation),
    );
    check(&[client(0x01, b"a"), client(0x81, b"b")], &[], Some(Fault::Interleaved));
    check(&[client(0x01, b"a"), client(0x02, b"b")], &[], Some(Fault::Interleaved));
}

#[test]
fn groups_6_1_to_6_4_text_is_checked_across_parts() {
    check(
        &[client(0x01, "κόσμε".as_bytes()), client(0x80, b"")],
        &[text("κόσμε")],
        None,
    );
    let mut frames: Vec<_> = "κόσμε😀".bytes().map(|byte| client(0x00, &[byte])).collect();
    frames[0] = client(0x01, b"\xce");
    frames.push(client(0x80, b""));
    check(&frames, &[text("κόσμε😀")], None);
    // The fault is reported before the last part has come.
    check(
        &[
            client(0x01, b"\xce\xba\xe1\xbd\xb9"),
            client(0x00, b"\xf4\x90"),
            client(0x81, b"never read"),
        ],
        &[],
        Some(Fault::Utf8),
    );
    check(&[client(0x01, b"\xce"), client(0x80, b"")], &[], Some(Fault::Utf8));
}

/// The cases of groups 6.5 to 6.23.
#[test]
fn group_6_utf_8() {
    let valid: &[&[u8]] = &[
        b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4\xc3\xbc\xc3\xa0\xc3\xa1-UTF-8!!",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
        b"\x00",
        b"\xc2\x80",
        b"\xe0\xa0\x80",
        b"\xf0\x90\x80\x80",
        b"\x7f",
        b"\xdf\xbf",
        b"\xef\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
        b"\xef\xbf\xbd",
        b"\xef\xbf\xbe",
        b"\xf0\x9f\xbf\xbe",
        b"\xf3\xbf\xbf\xbf",
    ];
    for bytes in valid {
        let expected = text(std::str::from_utf8(bytes).unwrap());
        check(&[client(0x81, bytes)], std::slice::from_ref(&expected), None);
        check(
            &[client(0x01, &bytes[..1]), client(0x80, &bytes[1..])],
            &[expected],
            None,
        );
    }
    let invalid: &[&[u8]] = &[
        // Beyond U+10FFFF, five and six bytes.
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xf8\x88\x80\x80\x80",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
        // Continuations without a start, starts without a continuation.
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80\xbf\x80\xbf",
        b"\xc0 \xc1 \xdf ",
        b"\xe0 \xef ",
        b"\xf0 \xf7 ",
        b"\xf8 \xfb ",
        b"\xfc \xfd ",
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
        b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        // Longer than need be.
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xc0\x80",
        b"\xf8\x80\x80\x80\xaf",
        // Surrogates.
        b"\xed\xa0\x80",
        b"\xed\xad\xbf",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited",
        // An end inside a character.
        b"\xce\xba\xe1\xbd",
        b"\xf0\x9f\x98",
    ];
    for bytes in invalid {
        check(&[client(0x81, bytes)], &[], Some(Fault::Utf8));
        check(
            &[client(0x01, &bytes[..1]), client(0x80, &bytes[1..])],
            &[],
            Some(Fault::Utf8),
        );
        check(&[client(0x82, bytes)], &[binary(bytes)], None);
    }
    assert_eq!(Fault::Utf8.close_code(), 1007);
}

#[test]
fn a_fault_in_text_shows_before_the_frame_is_complete() {
    let frame = client(0x81, b"\xce\xba\xed\xa0\x80 and more");
    let (inputs, end) = decode(&frame[..6 + 4], &[1], LIMIT);
    assert_eq!((inputs, end.err()), (vec![], Some(Fault::Utf8)));
}

#[test]
fn group_7_closing() {
    let close = |payload: &[u8], expected| check(&[client(0x88, payload)], &[Input::Close(expected)], None);
    let refused = |payload: &[u8], fault| check(&[client(0x88, payload)], &[], Some(fault));
    close(b"", None);
    close(b"\x03\xe8", Some((1000, "".into())));
    close(b"\x03\xe8Hello", Some((1000, "Hello".into())));
    close(
        &[b"\x03\xe8", &[b'*'; 123][..]].concat(),
        Some((1000, "*".repeat(123).into())),
    );
    refused(&[b"\x03\xe8", &[b'*'; 124][..]].concat(), Fault::Control);
    refused(b"\x03", Fault::CloseCode);
    refused(b"\x03\xe8\xce\xba\xed\xa0\x80", Fault::Utf8);
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999_u16,
    ] {
        close(&code.to_be_bytes(), Some((code, "".into())));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
        refused(&code.to_be_bytes(), Fault::CloseCode);
    }
    assert_eq!(Fault::CloseCode.close_code(), 1002);
}

#[test]
fn group_9_big_messages_whole_and_in_parts() {
    let payload = vec![0xa5; LIMIT];
    let whole = client(0x82, &payload);
    let parts: Vec<_> = payload
        .chunks(1000)
        .enumerate()
        .map(|(index, part)| client(if index == 0 { 2 } else { 0 }, part))
        .collect();
    let parts = [parts.concat(), client(0x80, b"")].concat();
    for stream in [whole, parts] {
        for size in [64 * 1024, 997] {
            let (inputs, end) = decode(&stream, &[size], LIMIT);
            assert_eq!(inputs, [binary(&payload)]);
            assert!(end.unwrap().is_idle());
        }
    }
}

#[test]
fn a_frame_without_a_mask_is_refused() {
    check(&[b"\x81\x01x".to_vec()], &[], Some(Fault::Unmasked));
}

#[test]
fn too_big_is_known_from_the_header() {
    let header = |first: u8, len: u64| [&[first, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    for len in [LIMIT as u64 + 1, 1 << 40, u64::MAX >> 1] {
        check(&[header(0x82, len)], &[], Some(Fault::TooBig));
        check(&[client(0x02, b""), header(0x80, len)], &[], Some(Fault::TooBig));
    }
    check(
        &[client(0x01, b"x"), header(0x80, LIMIT as u64)],
        &[],
        Some(Fault::TooBig),
    );
    check(&[header(0x82, u64::MAX)], &[], Some(Fault::Length));
    assert_eq!(Fault::TooBig.close_code(), 1009);
    // Control frames are no part of it.
    let (inputs, _) = decode(&client(0x89, b"ping"), &[99], 0);
    assert_eq!(inputs, [ping_input(b"ping")]);
}

#[test]
fn an_idle_decoder_is_a_pointer() {
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
}

#[test]
fn a_sink_that_breaks_leaves_the_rest_untouched() {
    let first = client(0x81, b"one");
    let second = client(0x81, b"two");
    let mut stream = [first.clone(), second.clone()].concat();
    let mut decoder = Decoder::default();
    let used = decoder
        .feed(&mut stream, rules(LIMIT), |_| ControlFlow::Break(()))
        .unwrap();
    assert_eq!(used, first.len());
    assert_eq!(stream[used..], second);
    let mut inputs = Vec::new();
    let used = decoder.feed(&mut stream[used..], rules(LIMIT), |input| {
        inputs.push(input);
        ControlFlow::Break(())
    });
    assert_eq!((used, inputs), (Ok(second.len()), vec![text("two")]));
}

#[derive(Clone, Debug)]
struct Sent {
    kind: Kind,
    payload: Vec<u8>,
    /// Where the payload is cut into frames.
    cuts: Vec<prop::sample::Index>,
    /// Sent before each frame but the first.
    ping: Option<Vec<u8>>,
    key: [u8; 4],
}

fn sent() -> impl Strategy<Value = Sent> {
    let len = prop_oneof![Just(0), 1..20_usize, 120..130_usize, Just(65_535), Just(65_536)];
    let payload = (len, any::<bool>(), any::<u8>()).prop_map(|(len, is_text, seed)| {
        if is_text {
            let text: String = "aé€😀"
                .chars()
                .cycle()
                .skip(usize::from(seed % 4))
                .take(len / 2)
                .collect();
            (Kind::Text, text.into_bytes())
        } else {
            (
                Kind::Binary,
                (0..len).map(|index| (index as u8).wrapping_mul(seed)).collect(),
            )
        }
    });
    let cuts = proptest::collection::vec(any::<prop::sample::Index>(), 0..4);
    let ping = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..126));
    (payload, cuts, ping, any::<[u8; 4]>()).prop_map(|((kind, payload), cuts, ping, key)| Sent {
        kind,
        payload,
        cuts,
        ping,
        key,
    })
}

impl Sent {
    fn write(&self, stream: &mut Vec<u8>, inputs: &mut Vec<Input>) {
        let mut cuts: Vec<_> = self.cuts.iter().map(|cut| cut.index(self.payload.len() + 1)).collect();
        cuts.extend([0, self.payload.len()]);
        cuts.sort_unstable();
        let last = cuts.len() - 2;
        for (index, ends) in cuts.windows(2).enumerate() {
            if let Some(ping) = self.ping.as_ref().filter(|_| index > 0) {
                stream.extend(masked(0x89, ping, self.key));
                inputs.push(ping_input(ping));
            }
            let opcode = if index > 0 {
                0
            } else {
                1 + u8::from(self.kind == Kind::Binary)
            };
            let first = opcode | if index == last { 0x80 } else { 0 };
            stream.extend(masked(first, &self.payload[ends[0]..ends[1]], self.key));
        }
        inputs.push(match self.kind {
            Kind::Text => text(std::str::from_utf8(&self.payload).unwrap()),
            Kind::Binary => binary(&self.payload),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_messages_come_through_however_they_are_cut_up(
        messages in proptest::collection::vec(sent(), 1..5),
        sizes in proptest::collection::vec(prop_oneof![1..20_usize, 20..70_000_usize], 1..20),
    ) {
        let (mut stream, mut inputs) = (Vec::new(), Vec::new());
        for message in &messages {
            message.write(&mut stream, &mut inputs);
        }
        let (found, end) = decode(&stream, &sizes, LIMIT);
        prop_assert_eq!(found, inputs);
        prop_assert!(end.unwrap().is_idle());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn arbitrary_bytes_do_no_harm_and_cuts_make_no_difference(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\x01\x81\x82\x00\x80\x83\x84\x89\x88"[..])], 0..80),
        size in 1..20_usize,
    ) {
        let (whole, end) = decode(&bytes, &[usize::MAX], 100);
        let (pieces, end_of_pieces) = decode(&bytes, &[size], 100);
        prop_assert_eq!(&whole, &pieces);
        // In pieces a fault may show earlier than the end of the stream, but never instead of another.
        if let Err(fault) = end {
            prop_assert_eq!(end_of_pieces.err(), Some(fault));
        }
    }
}
