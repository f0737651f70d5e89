//! The client's side of WebSocket, as far as the load generator needs it: no fragments, no extensions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// The masking key of all frames. It never changes, so that sending a prepared frame only means replacing its time
/// stamp.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Opcode of a text frame.
pub(super) const TEXT: u8 = 0x1;
/// Opcode of a binary frame.
pub(super) const BINARY: u8 = 0x2;
/// Opcode of a close frame.
pub(super) const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub(super) const PING: u8 = 0x9;
/// Opcode of a pong.
pub(super) const PONG: u8 = 0xA;

/// The request of the WebSocket handshake, with a token as phoenix.js sends it.
pub(super) fn upgrade_request(host: &str, path: &str, token: Option<&str>) -> Vec<u8> {
    let offer = token.map_or_else(String::new, |token| {
        let encoded = STANDARD_NO_PAD.encode(token);
        format!("Sec-WebSocket-Protocol: phoenix, base64url.bearer.phx.{encoded}\r\n")
    });
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    )
    .into_bytes()
}

/// The result of parsing the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// A value, and its length in bytes.
    Whole(T, usize),
    /// More bytes are needed.
    Partial,
    /// Not supported here.
    Bad,
}

/// Parses the response to [`upgrade_request`].
pub(super) fn upgraded(bytes: &[u8]) -> Next<()> {
    const YES: &[u8] = b"HTTP/1.1 101";
    let known = bytes.len().min(YES.len());
    if bytes[..known] != YES[..known] {
        return Next::Bad;
    }
    match memchr::memmem::find(bytes, b"\r\n\r\n") {
        Some(end) => Next::Whole((), end + 4),
        None => Next::Partial,
    }
}

/// Parses a frame from the server: opcode and payload.
pub(super) fn frame(bytes: &[u8]) -> Next<(u8, &[u8])> {
    let [first, second, rest @ ..] = bytes else {
        return Next::Partial;
    };
    // FIN must be set, RSV bits and MASK must not.
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Next::Bad;
    }
    let (length, header) = match (second, rest) {
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [0, 0, 0, 0, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
        (127, [_, _, _, _, _, _, _, _, ..]) => return Next::Bad,
        (126 | 127, _) => return Next::Partial,
        (length, _) => (usize::from(*length), 2),
    };
    match bytes.get(header..header + length) {
        Some(payload) => Next::Whole((first & 0x0f, payload), header + length),
        None => Next::Partial,
    }
}

/// A masked frame, and the offset of its payload.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    let begin = frame.len();
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    (frame, begin)
}

/// The length of a time stamp: a 64-bit number in hex.
pub(super) const DIGITS: usize = 16;
/// What precedes the time stamp in a payload.
pub(super) const STAMP: &[u8] = b"\"t\":\"";

/// A frame that is sent many times, each time with another time stamp.
#[derive(Debug)]
pub(super) struct Prepared {
    frame: Vec<u8>,
    payload_at: usize,
    digits_at: usize,
}

impl Prepared {
    /// Prepares a frame with a payload that contains a [`STAMP`].
    pub(super) fn new(opcode: u8, payload: &[u8]) -> Self {
        let digits_at = memchr::memmem::find(payload, STAMP).map_or(0, |at| at + STAMP.len());
        let (frame, payload_at) = masked(opcode, payload);
        Self {
            frame,
            payload_at,
            digits_at,
        }
    }

    /// The frame with this time in it.
    pub(super) fn stamped(&mut self, nanos: u64) -> &[u8] {
        let digits = &mut self.frame[self.payload_at + self.digits_at..][..DIGITS];
        for (at, digit) in digits.iter_mut().enumerate() {
            let nibble = (nanos >> (60 - 4 * at)) as u8 & 0xf;
            *digit = b"0123456789abcdef"[usize::from(nibble)] ^ MASK[(self.digits_at + at) % 4];
        }
        &self.frame
    }
}

/// The time stamp in a payload. `hint` is the offset of the last one, which is mostly that of the next one.
pub(super) fn stamp(payload: &[u8], hint: &mut usize) -> Option<u64> {
    if !payload.get(*hint..).is_some_and(|rest| rest.starts_with(STAMP)) {
        *hint = memchr::memmem::find(payload, STAMP)?;
    }
    let digits = payload.get(*hint + STAMP.len()..)?.get(..DIGITS)?;
    digits.iter().try_fold(0, |nanos, digit| {
        let nibble = (*digit as char).to_digit(16)?;
        Some(nanos << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_whole_or_not_at_all() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let (mut bytes, at) = masked(TEXT, &payload);
            // As a server sends it: without the mask.
            bytes[1] &= 0x7f;
            bytes.drain(at - 4..at);
            let header = at - 4;
            bytes[header..].copy_from_slice(&payload);
            assert_eq!(frame(&bytes), Next::Whole((TEXT, &payload[..]), bytes.len()));
            for cut in [0, 1, header, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(frame(&bytes[..cut]), Next::Partial, "{cut} of {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn fragments_and_compressed_frames_are_not_supported() {
        assert_eq!(frame(&[0x01, 0]), Next::Bad);
        assert_eq!(frame(&[0xc1, 0]), Next::Bad);
    }

    #[test]
    fn an_upgrade_is_found_with_its_length() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00";
        assert_eq!(upgraded(answer), Next::Whole((), answer.len() - 2));
        assert_eq!(upgraded(&answer[..30]), Next::Partial);
        assert_eq!(upgraded(b"HTTP/1.1 403 Forbidden\r\n\r\n"), Next::Bad);
    }

    #[test]
    fn a_prepared_frame_carries_the_stamp_it_was_given() {
        let mut prepared = Prepared::new(TEXT, br#"[1,{"t":"0000000000000000","p":"xx"}]"#);
        let mut hint = 0;
        for nanos in [0, 1, 0xfeed_beef, u64::MAX] {
            let mut bytes = prepared.stamped(nanos).to_vec();
            let payload = bytes.split_off(6);
            let plain: Vec<u8> = payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m).collect();
            assert_eq!(stamp(&plain, &mut hint), Some(nanos));
            assert!(plain.ends_with(br#"","p":"xx"}]"#));
        }
    }

    #[test]
    fn what_has_no_stamp_has_none() {
        let mut hint = 3;
        assert_eq!(stamp(b"{}", &mut hint), None);
        assert_eq!(stamp(br#"{"t":"12"}"#, &mut hint), None);
    }
}
