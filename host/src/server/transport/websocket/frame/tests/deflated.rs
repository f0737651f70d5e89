//! The decoder of a client that agreed on permessage-deflate.

use std::ops::ControlFlow;

use super::super::*;
use super::{Fault, binary, client, ping_input, text};

/// Checks that whole, and in small pieces, the frames give the inputs and then perhaps the fault.
fn check_deflated(frames: &[Vec<u8>], inputs: &[Input], fault: Option<Fault>) {
    for size in [usize::MAX, 1, 3] {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        let rules = Rules {
            max_message: 1_000,
            deflate: true,
        };
        let mut end = Ok(());
        for piece in frames.concat().chunks_mut(size.min(1_000_000)) {
            let fed = decoder.feed(piece, rules, |input| {
                found.push(input);
                ControlFlow::Continue(())
            });
            end = end.and(fed.map(drop));
            if end.is_err() {
                break;
            }
        }
        assert_eq!((found.as_slice(), end.err()), (inputs, fault), "pieces of {size}");
    }
}

#[test]
fn groups_12_and_13_compressed_messages() {
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    let again = [text("Hello"), text("Hello")];
    check_deflated(&[client(0xc1, hello), client(0x81, b"Hello")], &again, None);
    check_deflated(
        &[
            client(0x41, &hello[..3]),
            client(0x89, b""),
            client(0x80, &hello[3..]),
            client(0xc1, hello),
        ],
        &[ping_input(b""), text("Hello"), text("Hello")],
        None,
    );
    check_deflated(&[client(0x42, hello), client(0x80, b"")], &[binary(b"Hello")], None);
    // Nothing; nothing, as some write it.
    check_deflated(
        &[client(0xc1, b"\x00"), client(0xc2, b"")],
        &[text(""), binary(b"")],
        None,
    );
    let most = deflate::deflate(&[b'x'; 1_000], 15);
    check_deflated(&[client(0xc1, &most)], &[text(&"x".repeat(1_000))], None);
}

#[test]
fn what_is_wrong_with_a_compressed_message() {
    let bomb = deflate::deflate(&[b'x'; 1_001], 15);
    check_deflated(&[client(0xc1, &bomb)], &[], Some(Fault::TooBig));
    check_deflated(
        &[client(0x41, &bomb[..5]), client(0x80, &bomb[5..])],
        &[],
        Some(Fault::TooBig),
    );
    check_deflated(&[client(0xc1, &[0; 1_100])], &[], Some(Fault::TooBig));
    check_deflated(&[client(0xc1, b"\xff\xff")], &[], Some(Fault::Deflate));
    let no_text = deflate::deflate(b"\xc0\xaf", 15);
    check_deflated(&[client(0xc1, &no_text)], &[], Some(Fault::Utf8));
    // Only the first frame of a message has the bit, and the other two have no meaning.
    check_deflated(
        &[client(0x41, b"\xf2"), client(0xc0, b"")],
        &[],
        Some(Fault::ReservedBit),
    );
    check_deflated(&[client(0xc9, b"")], &[], Some(Fault::ReservedBit));
    check_deflated(&[client(0xa1, b"")], &[], Some(Fault::ReservedBit));
    check_deflated(&[client(0xe1, b"")], &[], Some(Fault::ReservedBit));
}
