//! Reads a client's frames, however the network splits them.

use std::ops::ControlFlow;
use std::time::Instant;

use bennu_wire::serializer::{Incoming, Kind};
use bytes::Bytes;
use bytestring::ByteString;

use super::utf8::Progress;
use super::{Opcode, close_code, deflate, mask};
use crate::server::transport::Unfinished;

/// The most that is reserved for a message when only its header has come: a client that wants more memory has to send bytes.
const FIRST_RESERVE: usize = 64 * 1024;

/// How many fragments of one message may be empty.
const MAX_EMPTY: u8 = 16;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A complete message.
    Message(Incoming),
    /// A ping. It needs a [`pong`](super::pong) with the same payload.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The client closes, perhaps with a code and a reason. What it sends afterwards has no meaning.
    Close(Option<(u16, ByteString)>),
}

/// Why a connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// A reserved bit is set, and no extension gives it a meaning.
    #[error("a reserved bit is set")]
    ReservedBit,
    /// An opcode that RFC 6455 does not define.
    #[error("unknown opcode")]
    Opcode,
    /// A client must mask its frames.
    #[error("frame without a mask")]
    Unmasked,
    /// A ping, pong or close in fragments, or with more than 125 bytes.
    #[error("fragmented control frame, or one longer than 125 bytes")]
    Control,
    /// A continuation without a first fragment.
    #[error("continuation frame without a message")]
    Continuation,
    /// A new message inside another.
    #[error("new message before the last fragment of the previous one")]
    Interleaved,
    /// A message has too many empty fragments.
    #[error("too many empty fragments")]
    Empty,
    /// A length with its highest bit set.
    #[error("invalid length")]
    Length,
    /// A close frame with half a code, or with a code that must not be sent.
    #[error("invalid close code")]
    CloseCode,
    /// Text, or the reason of a close, is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// The message is longer than the limit.
    #[error("message too big")]
    TooBig,
    /// A compressed message that cannot be inflated.
    #[error("the message cannot be inflated")]
    Deflate,
}

impl ProtocolError {
    /// The close code for it.
    #[must_use]
    pub(crate) fn close_code(self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => close_code::INVALID_PAYLOAD,
            Self::TooBig => close_code::TOO_BIG,
            _ => close_code::PROTOCOL_ERROR,
        }
    }
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The length of one message in bytes, compressed or not.
    pub(crate) max_message: usize,
    /// Messages may be compressed, because permessage-deflate was agreed on.
    pub(crate) deflate: bool,
}

impl Rules {
    /// How long a message may be on the wire. A message that cannot be compressed becomes a little longer.
    fn most(self, compressed: bool) -> usize {
        if compressed {
            self.max_message.saturating_add(self.max_message / 256 + 64)
        } else {
            self.max_message
        }
    }
}

/// Turns bytes into messages. One per connection; it has the size of a pointer between two messages.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    partial: Option<Box<Partial>>,
}

/// The received part of a frame, or of a message in fragments.
#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a header.
    head: Vec<u8>,
    /// The frame whose payload is being received.
    frame: Option<Header>,
    /// The payload so far, if that frame is a control frame.
    control: Vec<u8>,
    /// The message whose fragments are being received.
    message: Option<Assembly>,
    /// When its first bytes came. A control frame between two fragments changes nothing about that.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Assembly {
    kind: Kind,
    compressed: bool,
    bytes: Vec<u8>,
    utf8: Progress,
    /// Its empty fragments.
    empty: u8,
}

/// The header of a frame. Its length and its key change as the payload comes in.
#[derive(Clone, Copy, Debug)]
struct Header {
    opcode: Opcode,
    last: bool,
    /// It begins a compressed message.
    compressed: bool,
    len: usize,
    key: [u8; 4],
}

impl Decoder {
    /// Reads bytes, and hands each input that they complete to `sink`, in order.
    ///
    /// Stops early when `sink` breaks. Returns how many bytes were used; the others are untouched, and can be fed again.
    /// Unmasks `bytes` in place. A message that is whole in `bytes` costs one allocation, and the decoder keeps nothing of it.
    /// A message longer than the `rules` allow is an error as soon as a header says so; a compressed one, as soon as it is
    /// inflated that far.
    ///
    /// # Errors
    ///
    /// If the client breaks RFC 6455. The caller then closes the connection with [`ProtocolError::close_code`], and drops the
    /// decoder.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        rules: Rules,
        mut sink: impl FnMut(Input) -> ControlFlow<()>,
    ) -> Result<usize, ProtocolError> {
        let mut used = 0;
        while used < bytes.len() {
            let (taken, input) = match &mut self.partial {
                None => self.feed_idle(&mut bytes[used..], rules)?,
                Some(partial) => {
                    let step = partial.feed(&mut bytes[used..], rules)?;
                    if partial.is_empty() {
                        self.partial = None;
                    }
                    step
                }
            };
            used += taken;
            if let Some(input) = input
                && sink(input).is_break()
            {
                break;
            }
        }
        Ok(used)
    }

    /// Notes the time for a message that has begun since the last call.
    pub(crate) fn note_time(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(partial) = &mut self.partial {
            partial.since.get_or_insert_with(now);
        }
    }

    /// The message or frame that is not complete.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let partial = self.partial.as_ref()?;
        let bytes = size_of::<Partial>()
            + partial.head.capacity()
            + partial.control.capacity()
            + partial.message.as_ref().map_or(0, |message| message.bytes.capacity());
        let since = partial.since?;
        Some(Unfinished { bytes, since })
    }

    /// Whether it keeps nothing from one call to the next.
    #[must_use]
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Reads one frame with no incomplete one before it.
    fn feed_idle(&mut self, bytes: &mut [u8], rules: Rules) -> Result<(usize, Option<Input>), ProtocolError> {
        if let Some((header, head)) = Header::parse(bytes, rules)? {
            header.check(None, rules)?;
            if header.last && header.len <= bytes.len() - head {
                let payload = &mut bytes[head..head + header.len];
                mask::unmask(payload, header.key);
                let payload = if header.compressed {
                    deflate::inflate(payload, rules.max_message)?
                } else {
                    Bytes::copy_from_slice(payload)
                };
                return Ok((head + header.len, Some(finish(header.opcode, payload)?)));
            }
        }
        self.partial.insert(Box::default()).feed(bytes, rules)
    }
}

impl Partial {
    /// Reads the bytes of one header or of one payload.
    fn feed(&mut self, bytes: &mut [u8], rules: Rules) -> Result<(usize, Option<Input>), ProtocolError> {
        let Some(mut header) = self.frame else {
            let taken = self.feed_header(bytes, rules)?;
            // The frame may have no payload, and no byte may ever follow it.
            let input = self.finish_frame(rules)?;
            return Ok((taken, input));
        };
        let taken = header.len.min(bytes.len());
        let payload = &mut bytes[..taken];
        mask::unmask(payload, header.key);
        header.len -= taken;
        header.key = mask::advance(header.key, taken);
        self.frame = Some(header);
        match &mut self.message {
            Some(message) if !header.opcode.is_control() => message.append(payload, &header)?,
            _ => self.control.extend_from_slice(payload),
        }
        Ok((taken, self.finish_frame(rules)?))
    }

    /// Reads bytes up to the end of the header, or all.
    fn feed_header(&mut self, bytes: &[u8], rules: Rules) -> Result<usize, ProtocolError> {
        let before = self.head.len();
        self.head.extend(bytes.iter().take(Header::MAX - before));
        let Some((header, head)) = Header::parse(&self.head, rules)? else {
            return Ok(bytes.len());
        };
        header.check(self.message.as_ref(), rules)?;
        if self.message.is_none() {
            self.message = header.kind().map(|kind| Assembly {
                kind,
                compressed: header.compressed,
                bytes: Vec::new(),
                utf8: Progress::default(),
                empty: 0,
            });
        }
        if header.len == 0
            && !header.last
            && let Some(message) = &mut self.message
        {
            message.empty += 1;
            if message.empty > MAX_EMPTY {
                return Err(ProtocolError::Empty);
            }
        }
        self.head = Vec::new();
        self.frame = Some(header);
        Ok(head - before)
    }

    /// Ends the frame if its payload is complete, and the message if that was its last.
    fn finish_frame(&mut self, rules: Rules) -> Result<Option<Input>, ProtocolError> {
        let Some(header) = self.frame.take_if(|header| header.len == 0) else {
            return Ok(None);
        };
        if header.opcode.is_control() {
            return finish(header.opcode, std::mem::take(&mut self.control).into()).map(Some);
        }
        let message = self.message.take_if(|_| header.last);
        if message.is_some() {
            self.since = None;
        }
        match message {
            Some(message) if message.compressed => {
                let inflated = deflate::inflate(&message.bytes, rules.max_message)?;
                finish(message.opcode(), inflated).map(Some)
            }
            Some(mut message) => {
                // A channel may keep it for long.
                message.bytes.shrink_to_fit();
                finish(message.opcode(), message.bytes.into()).map(Some)
            }
            None => Ok(None),
        }
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.message.is_none()
    }
}

impl Assembly {
    /// Appends a part of a frame; `header.len` bytes of the frame are still to come.
    fn append(&mut self, payload: &[u8], header: &Header) -> Result<(), ProtocolError> {
        // Reserve no more than has come already, or a first piece, whatever the header promises.
        let ahead = header.len.min(self.bytes.len().max(FIRST_RESERVE));
        if self.bytes.capacity() - self.bytes.len() < payload.len() {
            if header.last {
                self.bytes.reserve_exact(payload.len() + ahead);
            } else {
                self.bytes.reserve(payload.len() + ahead);
            }
        }
        self.bytes.extend_from_slice(payload);
        if self.kind == Kind::Text && !self.compressed && !self.utf8.check(&self.bytes) {
            return Err(ProtocolError::Utf8);
        }
        Ok(())
    }

    fn opcode(&self) -> Opcode {
        match self.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

impl Header {
    /// Two bytes, eight of length, four of key.
    const MAX: usize = 14;

    /// Reads a header at the front of `bytes`. Returns it with its own length; `None` if more bytes are needed. Reports a fault as
    /// soon as its byte is there.
    fn parse(bytes: &[u8], rules: Rules) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let reserved = first & 0x70;
        if reserved & !deflate::COMPRESSED != 0 || (reserved != 0 && !rules.deflate) {
            return Err(ProtocolError::ReservedBit);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(ProtocolError::Opcode)?;
        // Only the first frame of a message says whether it is compressed.
        if reserved != 0 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
            return Err(ProtocolError::ReservedBit);
        }
        let last = first & 0x80 != 0;
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let short = second & 0x7f;
        if opcode.is_control() && (!last || short > 125) {
            return Err(ProtocolError::Control);
        }
        // RFC 6455 forbids a length that would fit a shorter form. Accepting it does no harm.
        let rest = &bytes[2..];
        let (len, rest) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        if len >> 63 != 0 {
            return Err(ProtocolError::Length);
        }
        let Some((key, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = usize::try_from(len).map_err(|_| ProtocolError::TooBig)?;
        Ok(Some((
            Self {
                opcode,
                last,
                compressed: reserved != 0,
                len,
                key: *key,
            },
            bytes.len() - rest.len(),
        )))
    }

    /// Whether the frame may come now; `message` is the one that is not complete.
    fn check(&self, message: Option<&Assembly>, rules: Rules) -> Result<(), ProtocolError> {
        if self.opcode.is_control() {
            return Ok(());
        }
        let (before, compressed) = match (self.opcode, message) {
            (Opcode::Continuation, Some(message)) => (message.bytes.len(), message.compressed),
            (Opcode::Continuation, None) => return Err(ProtocolError::Continuation),
            (_, Some(_)) => return Err(ProtocolError::Interleaved),
            (_, None) => (0, self.compressed),
        };
        if before.saturating_add(self.len) > rules.most(compressed) {
            return Err(ProtocolError::TooBig);
        }
        Ok(())
    }

    /// The kind of the message that it begins.
    fn kind(&self) -> Option<Kind> {
        match self.opcode {
            Opcode::Text => Some(Kind::Text),
            Opcode::Binary => Some(Kind::Binary),
            _ => None,
        }
    }
}

/// The input that a complete payload is.
fn finish(opcode: Opcode, payload: Bytes) -> Result<Input, ProtocolError> {
    Ok(match opcode {
        Opcode::Text => Input::Message(Incoming::Text(payload.try_into().map_err(|_| ProtocolError::Utf8)?)),
        Opcode::Binary | Opcode::Continuation => Input::Message(Incoming::Binary(payload)),
        Opcode::Ping => Input::Ping(payload),
        Opcode::Pong => Input::Pong,
        Opcode::Close => Input::Close(close_reason(payload)?),
    })
}

fn close_reason(mut payload: Bytes) -> Result<Option<(u16, ByteString)>, ProtocolError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let &code = payload.first_chunk().ok_or(ProtocolError::CloseCode)?;
    let code = u16::from_be_bytes(code);
    // 1004 to 1006 and 1015 must not be sent; 1016 to 2999 have no meaning yet.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(ProtocolError::CloseCode);
    }
    let reason = payload.split_off(2).try_into().map_err(|_| ProtocolError::Utf8)?;
    Ok(Some((code, reason)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_follows_what_has_come_and_not_what_was_promised() {
        let mut decoder = Decoder::default();
        let rules = Rules {
            max_message: usize::MAX,
            deflate: false,
        };
        let mut header = [&b"\x82\xff"[..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat();
        let mut capacity = |bytes: &mut [u8]| {
            decoder.feed(bytes, rules, |_| ControlFlow::Continue(())).unwrap();
            let message = decoder.partial.as_ref().unwrap().message.as_ref().unwrap();
            message.bytes.capacity()
        };
        assert_eq!(capacity(&mut header), 0);
        assert_eq!(capacity(&mut [0; 100]), FIRST_RESERVE + 100);
        assert_eq!(capacity(&mut vec![0; FIRST_RESERVE]), FIRST_RESERVE + 100);
        assert!(capacity(&mut [0; 1]) <= 3 * (FIRST_RESERVE + 101));
    }

    const RULES: Rules = Rules {
        max_message: 1 << 20,
        deflate: false,
    };

    /// A frame with a mask of zeros and a short payload.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn a_message_is_unfinished_from_its_first_byte_to_its_last_whatever_comes_in_between() {
        let (mut decoder, start) = (Decoder::default(), Instant::now());
        let mut second = 0;
        // Returns since when a message is unfinished, in seconds. A second passes with each call.
        let mut feed = |bytes: &[u8]| {
            decoder
                .feed(&mut bytes.to_vec(), RULES, |_| ControlFlow::Continue(()))
                .unwrap();
            decoder.note_time(|| start + Duration::from_secs(second));
            second += 1;
            decoder
                .unfinished()
                .map(|unfinished| (unfinished.since - start).as_secs())
        };
        assert_eq!(feed(&frame(0x81, b"[]")), None);
        assert_eq!(feed(&frame(0x01, b"[")), Some(1));
        assert_eq!(feed(&frame(0x89, b"ping")), Some(1));
        assert_eq!(feed(&frame(0x00, b"1")), Some(1));
        // Its end and the beginning of the next in one read.
        let end = [frame(0x80, b"]"), frame(0x01, b"[")].concat();
        assert_eq!(feed(&end), Some(4));
        assert_eq!(feed(&frame(0x80, b"]")), None);
        assert_eq!(feed(b"\x89"), Some(6));
        assert_eq!(feed(b"\x80\0\0\0\0"), None);
    }

    #[test]
    fn an_unfinished_message_counts_with_its_memory_and_a_finished_one_has_no_more_than_it_needs() {
        let mut decoder = Decoder::default();
        let mut message = None;
        for part in 0..3_001 {
            let first = if part == 0 { 0x02 } else { 0x00 };
            let part = &mut frame(first, &[b'x'; 100]);
            decoder.feed(part, RULES, |_| ControlFlow::Continue(())).unwrap();
        }
        decoder.note_time(Instant::now);
        let unfinished = decoder.unfinished().unwrap();
        assert!(unfinished.bytes >= 300_100, "{unfinished:?}");
        let end = &mut frame(0x80, b"");
        let taken = decoder.feed(end, RULES, |input| {
            message = Some(input);
            ControlFlow::Continue(())
        });
        assert!(taken.is_ok());
        let Some(Input::Message(Incoming::Binary(bytes))) = message else {
            panic!("{message:?}")
        };
        let len = bytes.len();
        assert_eq!(Vec::from(bytes).capacity(), len);
    }

    #[test]
    fn some_fragments_may_be_empty_and_many_may_not() {
        for (count, expected) in [(MAX_EMPTY, Ok(())), (MAX_EMPTY + 1, Err(ProtocolError::Empty))] {
            let mut bytes = [
                frame(0x01, b"["),
                frame(0x00, b"").repeat(count.into()),
                frame(0x80, b"]"),
            ]
            .concat();
            let fed = Decoder::default().feed(&mut bytes, RULES, |_| ControlFlow::Continue(()));
            assert_eq!(fed.map(drop), expected);
        }
    }
}
