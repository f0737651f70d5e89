//! The bytes of permessage-deflate (RFC 7692). Each message is compressed by itself, so no state is kept between two of them.
//!
//! Compressing and inflating need some 300 KB for each window size. That memory belongs to the thread.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ProtocolError;

/// The smallest and the largest window, as powers of two. RFC 7692 also allows 8, which zlib does not support.
pub(crate) const WINDOW_BITS: std::ops::RangeInclusive<u8> = 9..=15;

/// The bit of a frame's first byte that marks the beginning of a compressed message.
pub(super) const COMPRESSED: u8 = 0x40;

/// How many window sizes there are.
pub(super) const WINDOWS: usize = 7;

/// The end of every compressed message, which is not sent.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// How much is reserved for an inflated message before its size is known.
const FIRST_RESERVE: usize = 4 * 1024;

/// How much memory a thread keeps from one message to the next.
const KEPT: usize = 64 * 1024;

thread_local! {
    static DEFLATERS: RefCell<[Option<Compress>; WINDOWS]> = const { RefCell::new([const { None }; WINDOWS]) };
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The index of a window size.
pub(super) fn place(window_bits: u8) -> usize {
    usize::from(window_bits.clamp(*WINDOW_BITS.start(), *WINDOW_BITS.end()) - WINDOW_BITS.start())
}

/// Compresses a message for a receiver that inflates with a window of so many bits.
pub(super) fn deflate(payload: &[u8], window_bits: u8) -> Bytes {
    with_scratch(|out| {
        DEFLATERS.with_borrow_mut(|deflaters| {
            let deflater = deflaters[place(window_bits)]
                .get_or_insert_with(|| Compress::new_with_window_bits(Compression::fast(), false, window_bits));
            deflater.reset();
            loop {
                let rest = &payload[deflater.total_in() as usize..];
                out.reserve(FIRST_RESERVE.max(rest.len() / 2));
                let done = deflater.compress_vec(rest, out, FlushCompress::Sync);
                done.expect("compressing has no error but being called out of order");
                if deflater.total_in() as usize == payload.len() && out.len() < out.capacity() {
                    break;
                }
            }
        });
        out.truncate(out.len() - TAIL.len());
    })
}

/// Inflates a message, to no more than `max` bytes.
///
/// # Errors
///
/// If it inflates to more than `max` bytes, of which no more than `max` are ever produced; or if it is not a deflated message.
pub(super) fn inflate(payload: &[u8], max: usize) -> Result<Bytes, ProtocolError> {
    let mut result = Ok(());
    let inflated = with_scratch(|out| {
        result = INFLATER.with_borrow_mut(|inflater| {
            let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
            inflater.reset(false);
            inflate_part(inflater, payload, out, max)?;
            inflate_part(inflater, &TAIL, out, max)
        });
    });
    result.map(|()| inflated)
}

fn inflate_part(
    inflater: &mut Decompress,
    mut input: &[u8],
    out: &mut Vec<u8>,
    max: usize,
) -> Result<(), ProtocolError> {
    loop {
        if out.len() == out.capacity() {
            let most = max.saturating_add(1) - out.len();
            out.reserve_exact(out.len().max(FIRST_RESERVE).min(most));
        }
        let (total_in, len) = (inflater.total_in(), out.len());
        let status = inflater.decompress_vec(input, out, FlushDecompress::Sync);
        let status = status.map_err(|_| ProtocolError::Deflate)?;
        let used = (inflater.total_in() - total_in) as usize;
        input = &input[used..];
        if out.len() > max {
            return Err(ProtocolError::TooBig);
        }
        let idle = used == 0 && out.len() == len;
        match status {
            // A message may be of several streams.
            Status::StreamEnd => inflater.reset(false),
            _ if input.is_empty() && out.len() < out.capacity() => return Ok(()),
            _ if idle => return Err(ProtocolError::Deflate),
            _ => {}
        }
    }
}

/// Runs `fill` with an empty buffer, and returns its content.
fn with_scratch(fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    SCRATCH.with_borrow_mut(|out| {
        out.clear();
        fill(out);
        if out.capacity() > KEPT {
            let mut large = std::mem::take(out);
            large.shrink_to_fit();
            large.into()
        } else {
            Bytes::copy_from_slice(out)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_7692() {
        let hello = inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5);
        assert_eq!(hello.unwrap(), &b"Hello"[..]);
        // Without compression; of two blocks; with a block that says that it is the last.
        for payload in [
            &b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"[..],
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        ] {
            assert_eq!(inflate(payload, 5).unwrap(), &b"Hello"[..]);
        }
    }

    #[test]
    fn what_is_no_deflated_message_is_refused() {
        for payload in [&b"\xff\xff\xff\xff"[..], b"\x06", b"\x00\x05\x00\x00\x00Hello"] {
            assert_eq!(inflate(payload, 1000), Err(ProtocolError::Deflate), "{payload:?}");
        }
    }

    #[test]
    fn a_bomb_is_inflated_no_further_than_the_limit() {
        let bomb = deflate(&vec![b'x'; 100_000_000], 15);
        assert!(bomb.len() < 1_000_000);
        assert_eq!(inflate(&bomb, 1_000_000), Err(ProtocolError::TooBig));
        // What was kept of it is no more than of other messages.
        SCRATCH.with_borrow(|scratch| assert!(scratch.capacity() <= KEPT, "{}", scratch.capacity()));
        let most = deflate(&vec![b'x'; 1_000_000], 15);
        assert_eq!(inflate(&most, 1_000_000).unwrap().len(), 1_000_000);
        assert_eq!(inflate(&most, 999_999), Err(ProtocolError::TooBig));
    }

    #[test]
    fn a_small_window_is_kept_to() {
        // The same two hundred bytes again after 1,000 others: out of sight of a window of 512.
        let distinct: Vec<u8> = (0..1_000_u32)
            .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let payload = [&[b' '; 500], &distinct[..200], &distinct, &distinct[..200]].concat();
        let lengths: Vec<usize> = WINDOW_BITS
            .map(|bits| {
                let deflated = deflate(&payload, bits);
                assert_eq!(inflate(&deflated, payload.len()).unwrap(), payload, "{bits} bits");
                deflated.len()
            })
            .collect();
        assert!(lengths[0] > lengths[6] + 100, "{lengths:?}");
    }

    proptest! {
        #[test]
        fn what_was_deflated_can_be_inflated(
            parts in proptest::collection::vec((any::<u8>(), 1_usize..5_000), 0..100),
            bits in WINDOW_BITS,
        ) {
            let payload: Vec<u8> = parts.iter().flat_map(|(byte, times)| std::iter::repeat_n(*byte, *times)).collect();
            prop_assert_eq!(inflate(&deflate(&payload, bits), payload.len()).unwrap(), payload);
        }

        #[test]
        fn arbitrary_bytes_are_answered(payload in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            if let Ok(inflated) = inflate(&payload, 10_000) {
                prop_assert!(inflated.len() <= 10_000);
            }
        }
    }
}
