//! The bodies of long polling: the messages of a POST, and the JSON envelope of every response.
//!
//! A message to a client is a string in the envelope. A binary payload has become text before
//! ([`Payload::as_text`](bennu_wire::message::Payload::as_text)), because phoenix.js reads nothing else here; Phoenix cannot send
//! it this way at all. Only a serializer that writes no text has binary messages here: they travel as base64, as those of clients
//! do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bennu_wire::serializer::{Incoming, Kind};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::server::transport::Frame;

/// The content type of a body with one message per line. It must be spelled exactly so.
const NDJSON: &[u8] = b"application/x-ndjson";

/// Whether a body with this content type has a message a line.
#[must_use]
pub(crate) fn has_lines(content_type: Option<&[u8]>) -> bool {
    content_type == Some(NDJSON)
}

/// What a body may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Bytes of one message.
    pub(crate) message_bytes: usize,
    /// Lines, if it has a message a line.
    pub(crate) lines: usize,
}

/// Takes the messages out of the body of a POST, one a line or one in all: all of them, or none if one of them is bad or there are
/// too many. (Phoenix takes the first hundred lines and drops the rest without a word.)
/// Each line is a copy, because a slice would keep the whole body in memory.
///
/// # Errors
///
/// If the body or one of its lines holds no message. The response then has the status of the error, and the session goes on.
pub(crate) fn messages(has_lines: bool, body: &Bytes, limits: BodyLimits) -> Result<Vec<Incoming>, BodyError> {
    let max_message = limits.message_bytes;
    if !has_lines {
        return text(body.clone(), max_message).map(|message| vec![message]);
    }
    if memchr::memchr_iter(b'\n', body).count() >= limits.lines {
        return Err(BodyError::TooMany);
    }
    body.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .map(|line| match line {
            [] => Err(BodyError::Empty),
            // V2 and V1; base64 knows neither. Phoenix takes V1's lines for base64, and fails.
            [b'[' | b'{', ..] => text(Bytes::copy_from_slice(line), max_message),
            base64 => binary(base64, max_message),
        })
        .collect()
}

/// Why a body holds no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Nothing, or an empty line, also a last one.
    #[error("an empty message")]
    Empty,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A line that begins with neither `[` nor `{`, and is no base64.
    #[error("neither JSON nor base64")]
    Base64,
    /// A message longer than the limit.
    #[error("message too big")]
    TooBig,
    /// More lines than the limit.
    #[error("too many messages")]
    TooMany,
}

impl BodyError {
    /// The `status` to answer with.
    #[must_use]
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooBig | Self::TooMany => 413,
            Self::Empty | Self::Utf8 | Self::Base64 => 400,
        }
    }
}

fn text(bytes: Bytes, max_message: usize) -> Result<Incoming, BodyError> {
    if bytes.is_empty() {
        return Err(BodyError::Empty);
    }
    if bytes.len() > max_message {
        return Err(BodyError::TooBig);
    }
    ByteString::try_from(bytes)
        .map(Incoming::Text)
        .map_err(|_| BodyError::Utf8)
}

fn binary(base64: &[u8], max_message: usize) -> Result<Incoming, BodyError> {
    // Padding, at most two bytes of it, is not part of the message.
    if base64.len() / 4 * 3 > max_message.saturating_add(2) {
        return Err(BodyError::TooBig);
    }
    let bytes = STANDARD.decode(base64).map_err(|_| BodyError::Base64)?;
    if bytes.len() > max_message {
        Err(BodyError::TooBig)
    } else {
        Ok(Incoming::Binary(bytes.into()))
    }
}

/// The text of a message in an envelope.
#[must_use]
pub(crate) fn message(frame: &Frame) -> Bytes {
    match frame.kind() {
        Kind::Text => frame.payload(),
        Kind::Binary => STANDARD.encode(frame.payload()).into(),
    }
}

/// The response to a poll: `{"messages":["…"],"status":200,"token":"…"}`.
///
/// `messages` are as [`message`] gives them; `token` is URL-safe.
#[must_use]
pub(crate) fn envelope<'a>(messages: impl IntoIterator<Item = &'a [u8]>, status: u16, token: &str) -> Bytes {
    let mut out = BytesMut::from(&b"{\"messages\":["[..]);
    for (index, message) in messages.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        // What we encode is UTF-8; if it were not, better a replaced character than a response lost.
        put_json(&mut out, &String::from_utf8_lossy(message));
    }
    out.put_slice(format!("],\"status\":{status},\"token\":").as_bytes());
    put_json(&mut out, token);
    out.put_u8(b'}');
    out.freeze()
}

/// The same in the Phoenix 0.11 dialect: `{"status":200,"messages":[{…}],"token":"…","sig":"…"}`.
///
/// Messages are objects in it. Without messages, the key is missing.
#[must_use]
pub(crate) fn phoenix_0_11_envelope<'a>(
    messages: impl IntoIterator<Item = &'a [u8]>,
    status: u16,
    token: &str,
    sig: &str,
) -> Bytes {
    let mut out = BytesMut::from(format!("{{\"status\":{status}").as_bytes());
    let mut separator = &b",\"messages\":["[..];
    let mut end = &b""[..];
    for message in messages {
        out.put_slice(separator);
        out.put_slice(message);
        (separator, end) = (b",", b"]");
    }
    out.put_slice(end);
    out.put_slice(b",\"token\":");
    put_json(&mut out, token);
    out.put_slice(b",\"sig\":");
    put_json(&mut out, sig);
    out.put_u8(b'}');
    out.freeze()
}

/// The response to a POST or a refused request: `{"status":200}`.
#[must_use]
pub(crate) fn status(status: u16) -> Bytes {
    format!("{{\"status\":{status}}}").into()
}

fn put_json(out: &mut BytesMut, text: &str) {
    // Messages are JSON with many quotes, which are escaped here.
    out.reserve(text.len() + text.len() / 4 + 2);
    serde_json::to_writer(out.writer(), text).expect("text is JSON, and memory grows");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 30;
    const LIMITS: BodyLimits = BodyLimits {
        message_bytes: LIMIT,
        lines: 150,
    };

    fn check(content_type: &str, body: &[u8], expected: Result<&[Incoming], BodyError>) {
        let has_lines = has_lines(Some(content_type.as_bytes()));
        let found = messages(has_lines, &Bytes::copy_from_slice(body), LIMITS);
        assert_eq!(found.as_deref(), expected.as_ref().copied(), "{content_type} {body:?}");
    }

    fn lines(body: &[u8], expected: Result<&[Incoming], BodyError>) {
        check("application/x-ndjson", body, expected);
    }

    fn text(text: &str) -> Incoming {
        Incoming::Text(text.into())
    }

    fn binary(bytes: &'static [u8]) -> Incoming {
        Incoming::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn lines_are_text_or_base64() {
        lines(b"[1]", Ok(&[text("[1]")]));
        lines(
            b"[1]\n[2]\r\nAAEB\n/+8=",
            Ok(&[text("[1]"), text("[2]"), binary(b"\0\x01\x01"), binary(b"\xff\xef")]),
        );
    }

    #[test]
    fn a_line_may_be_of_version_1() {
        lines(b"{}\n[1]", Ok(&[text("{}"), text("[1]")]));
    }

    #[test]
    fn only_the_exact_content_type_means_lines() {
        for content_type in [
            "application/x-ndjson; charset=utf-8",
            "Application/X-NDJSON",
            "application/json",
            "",
        ] {
            check(content_type, b"[1]\n[2]", Ok(&[text("[1]\n[2]")]));
        }
        assert_eq!(
            messages(has_lines(None), &Bytes::from_static(b"{}\n"), LIMITS),
            Ok(vec![text("{}\n")])
        );
    }

    #[test]
    fn an_empty_message_is_refused() {
        for body in [&b""[..], b"\n", b"[1]\n", b"[1]\r\n", b"\n[1]", b"[1]\n\n[2]", b"\r\n"] {
            lines(body, Err(BodyError::Empty));
        }
        check("", b"", Err(BodyError::Empty));
        assert_eq!(BodyError::Empty.status(), 400);
    }

    #[test]
    fn what_is_no_text_and_no_base64_is_refused() {
        for body in [&b"AAE"[..], b"AA==A", b"A-_A", b" [1]", b"AAEB\r\r", b"\"\"", b"AB=="] {
            lines(body, Err(BodyError::Base64));
        }
        lines(b"[\"\xff\"]", Err(BodyError::Utf8));
        check("", b"\xff", Err(BodyError::Utf8));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_and_the_body_may_be_longer() {
        let most = format!("[{}]", " ".repeat(LIMIT - 2));
        lines(format!("{most}\n{most}").as_bytes(), Ok(&[text(&most), text(&most)]));
        lines(format!("{most} ").as_bytes(), Err(BodyError::TooBig));
        check("", format!("{most} ").as_bytes(), Err(BodyError::TooBig));
        lines(STANDARD.encode([0; LIMIT]).as_bytes(), Ok(&[binary(&[0; LIMIT])]));
        lines(STANDARD.encode([0; LIMIT + 1]).as_bytes(), Err(BodyError::TooBig));
        assert_eq!(BodyError::TooBig.status(), 413);
    }

    #[test]
    fn a_body_with_more_lines_than_the_limit_is_refused_whole() {
        let most = vec!["[1]"; LIMITS.lines];
        lines(most.join("\n").as_bytes(), Ok(&vec![text("[1]"); LIMITS.lines]));
        lines(format!("{}\n[1]", most.join("\n")).as_bytes(), Err(BodyError::TooMany));
        lines("\n".repeat(1000).as_bytes(), Err(BodyError::TooMany));
        check(
            "",
            format!("[{}]", "\n".repeat(LIMIT - 2)).as_bytes(),
            Ok(&[text(&format!("[{}]", "\n".repeat(LIMIT - 2)))]),
        );
        assert_eq!(BodyError::TooMany.status(), 413);
    }

    #[test]
    fn an_envelope_holds_messages_as_strings() {
        let reply = br#"["1","1","room:a","phx_reply",{"response":{},"status":"ok"}]"#;
        assert_eq!(
            envelope([&reply[..], b"[null]"], 200, "tok"),
            &br#"{"messages":["[\"1\",\"1\",\"room:a\",\"phx_reply\",{\"response\":{},\"status\":\"ok\"}]","[null]"],"status":200,"token":"tok"}"#[..]
        );
        assert_eq!(
            envelope([], 204, "tok"),
            &br#"{"messages":[],"status":204,"token":"tok"}"#[..]
        );
        assert_eq!(status(403), &br#"{"status":403}"#[..]);
    }

    #[test]
    fn an_envelope_of_phoenix_0_11_holds_messages_as_objects() {
        assert_eq!(
            phoenix_0_11_envelope([&br#"{"a":1}"#[..], b"{}"], 200, "tok", "sig"),
            &br#"{"status":200,"messages":[{"a":1},{}],"token":"tok","sig":"sig"}"#[..]
        );
        assert_eq!(
            phoenix_0_11_envelope([], 204, "tok", "sig"),
            &br#"{"status":204,"token":"tok","sig":"sig"}"#[..]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_bodies_do_no_harm(body in proptest::collection::vec(prop::sample::select(&b"[]AB=\r\n\xff"[..]), 0..40)) {
            if let Ok(messages) = messages(true, &body.into(), LIMITS) {
                prop_assert!(!messages.is_empty() && messages.len() <= LIMITS.lines);
            }
        }

        #[test]
        fn an_envelope_is_json_whatever_it_holds(message: Vec<u8>, text: String) {
            let body = envelope([text.as_bytes(), &message], 200, "tok");
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(json["messages"][0].as_str(), Some(text.as_str()));
        }
    }
}
