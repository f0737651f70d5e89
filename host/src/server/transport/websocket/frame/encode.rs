//! Frames for clients: never masked, never fragmented.

use std::cell::Cell;
use std::sync::OnceLock;

use bennu_wire::serializer::Kind;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Opcode, deflate};

/// The longest header that a server writes.
const MAX_HEADER: usize = 10;

/// Room that [`Frame::build`] starts with, enough for most messages.
const FIRST_RESERVE: usize = 256;

/// How much memory a thread keeps from one [`Frame::build`] to the next. A longer frame keeps the buffer that it was written to.
const KEPT: usize = 4 * 1024;

/// A shorter message is not worth compressing.
const MIN_DEFLATED: usize = 128;

thread_local! {
    /// Where frames are written before they get memory of their own size.
    static SCRATCH: Cell<BytesMut> = Cell::default();
}

/// One message as it goes over the wire, header included, in one piece of memory that all its receivers share.
#[derive(Clone, Debug)]
pub struct Frame {
    wire: Bytes,
    /// The same, compressed: one for each window, made when first asked for.
    deflated: OnceLock<Box<[OnceLock<Bytes>; deflate::WINDOWS]>>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.wire == other.wire
    }
}

impl Eq for Frame {}

impl Frame {
    /// Makes a frame of the bytes that `write` appends. `write` must not look at the bytes that are in the buffer before.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn build<E>(write: impl FnOnce(&mut BytesMut) -> Result<Kind, E>) -> Result<Self, E> {
        let mut out = SCRATCH.take();
        out.reserve(FIRST_RESERVE);
        // The length of the header depends on that of the payload, so it is written last, right before the payload.
        out.put_bytes(0, MAX_HEADER);
        let kind = write(&mut out)?;
        let (header, len) = frame_header(opcode(kind), out.len() - MAX_HEADER);
        let start = MAX_HEADER - len;
        out[start..MAX_HEADER].copy_from_slice(&header[..len]);
        if out.capacity() > KEPT && out.len() > out.capacity() / 8 * 7 {
            out.advance(start);
            return Ok(Self::from(out.freeze()));
        }
        // No more memory than it needs: it may wait in a queue for long.
        let wire = Bytes::copy_from_slice(&out[start..]);
        if out.capacity() <= KEPT {
            out.clear();
            SCRATCH.set(out);
        }
        Ok(Self::from(wire))
    }

    /// Makes a frame with this payload.
    #[must_use]
    pub fn of(kind: Kind, payload: &[u8]) -> Self {
        Self::from(whole(opcode(kind), payload))
    }

    /// The bytes for a socket.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The bytes for the socket of a client that inflates with a window of so many bits. Compressed once for all of them;
    /// uncompressed if that is no longer.
    #[must_use]
    pub fn deflated(&self, window_bits: u8) -> &Bytes {
        let all = self.deflated.get_or_init(Box::default);
        all[deflate::place(window_bits)].get_or_init(|| self.deflate(window_bits))
    }

    fn deflate(&self, window_bits: u8) -> Bytes {
        let payload = self.payload();
        if payload.len() < MIN_DEFLATED {
            return self.wire.clone();
        }
        let deflated = deflate::deflate(&payload, window_bits);
        if deflated.len() >= payload.len() {
            return self.wire.clone();
        }
        let mut wire = Vec::from(whole(opcode(self.kind()), &deflated));
        wire[0] |= deflate::COMPRESSED;
        wire.into()
    }

    /// The payload, without a copy.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let header = match self.wire[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        self.wire.slice(header..)
    }

    /// Whether it is text or binary.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.wire[0] & 0x0f == Opcode::Text.bits() {
            Kind::Text
        } else {
            Kind::Binary
        }
    }
}

impl From<Bytes> for Frame {
    /// Of a whole frame.
    fn from(wire: Bytes) -> Self {
        let deflated = OnceLock::new();
        Self { wire, deflated }
    }
}

fn opcode(kind: Kind) -> Opcode {
    match kind {
        Kind::Text => Opcode::Text,
        Kind::Binary => Opcode::Binary,
    }
}

/// The header of an unfragmented frame, and its length.
#[must_use]
pub(crate) fn frame_header(opcode: Opcode, payload_len: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = 0x80 | opcode.bits();
    let len = match payload_len {
        0..126 => {
            header[1] = payload_len as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    (header, len)
}

/// A whole close frame. Cuts `reason` after 123 bytes at most, between two characters.
#[must_use]
pub(crate) fn close(code: Option<u16>, reason: &str) -> Bytes {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.put_u16(code);
        payload.put_slice(&reason.as_bytes()[..reason.floor_char_boundary(123)]);
    }
    whole(Opcode::Close, &payload)
}

/// A whole pong frame, with the payload of the ping that it answers.
#[must_use]
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    whole(Opcode::Pong, &payload[..payload.len().min(125)])
}

fn whole(opcode: Opcode, payload: &[u8]) -> Bytes {
    let (header, len) = frame_header(opcode, payload.len());
    let mut frame = Vec::with_capacity(len + payload.len());
    frame.extend_from_slice(&header[..len]);
    frame.extend_from_slice(payload);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(len: usize, header: &[u8]) {
        let payload = vec![b'x'; len];
        let built = Frame::build(|out| {
            out.put_slice(&payload);
            Ok::<_, ()>(Kind::Text)
        })
        .unwrap();
        assert_eq!(built, Frame::of(Kind::Text, &payload));
        assert_eq!(&built.wire()[..header.len()], header);
        assert_eq!(built.payload(), payload);
        assert_eq!(built.kind(), Kind::Text);
    }

    #[test]
    fn a_header_is_as_long_as_the_payload_needs() {
        check(0, b"\x81\x00");
        check(125, b"\x81\x7d");
        check(126, b"\x81\x7e\x00\x7e");
        check(65_535, b"\x81\x7e\xff\xff");
        check(65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    }

    #[test]
    fn a_binary_frame_says_so() {
        let frame = Frame::of(Kind::Binary, b"\x01");
        assert_eq!(
            (frame.wire().as_ref(), frame.kind()),
            (&b"\x82\x01\x01"[..], Kind::Binary)
        );
    }

    #[test]
    fn a_message_is_compressed_once_for_all_with_the_same_window() {
        let frame = Frame::of(Kind::Text, &[b'x'; 1_000]);
        let deflated = frame.deflated(15);
        assert_eq!(deflated[0], 0xc1);
        assert!(deflated.len() < 30, "{deflated:?}");
        assert_eq!(deflated.as_ptr(), frame.deflated(15).as_ptr());
        assert_ne!(deflated.as_ptr(), frame.deflated(10).as_ptr());
    }

    #[test]
    fn what_gets_no_shorter_goes_out_as_it_is() {
        let noise: Vec<u8> = (0..200_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for payload in [&b"xxxxxxxxxxxxxxxx"[..], &noise] {
            let frame = Frame::of(Kind::Binary, payload);
            assert_eq!(frame.deflated(15).as_ptr(), frame.wire().as_ptr());
        }
    }

    #[test]
    fn a_frame_takes_hardly_more_memory_than_its_length() {
        let mut text = vec![];
        for len in [0, 62, 1_000, KEPT, 5_000, 100_000] {
            text.resize(len, b'x');
            let built = Frame::build(|out| {
                // In pieces, as serializers write.
                text.chunks(7).for_each(|piece| out.put_slice(piece));
                Ok::<_, ()>(Kind::Text)
            })
            .unwrap();
            let wire = built.wire().clone();
            drop(built);
            let (len, memory) = (wire.len(), Vec::from(wire).capacity());
            assert!(memory <= len + len / 7 + MAX_HEADER, "{memory} bytes for {len}");
        }
    }

    #[test]
    fn an_error_of_the_writer_is_passed_on() {
        assert_eq!(Frame::build(|_| Err("no")), Err("no"));
    }

    #[test]
    fn control_frames_keep_to_125_bytes() {
        assert_eq!(close(None, "ignored"), &b"\x88\x00"[..]);
        assert_eq!(close(Some(1001), "bye"), &b"\x88\x05\x03\xe9bye"[..]);
        assert_eq!(close(Some(1001), &"é".repeat(100)).len(), 2 + 2 + 122);
        assert_eq!(pong(b"hi"), &b"\x8a\x02hi"[..]);
        assert_eq!(pong(&[0; 200]).len(), 127);
    }
}
