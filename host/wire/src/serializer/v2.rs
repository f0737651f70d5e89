//! Protocol version 2: arrays `[join_ref, ref, topic, event, payload]` as text, and binary frames with a header of lengths.
//!
//! The topic, event and payload of a decoded [`Message`] are slices of its frame: whoever keeps one of them keeps the whole frame
//! in memory. Refs are copies.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::json::{self, Scanner};
use super::text::{LONG_REF, put_string, string, text_ref};
use super::{DecodeError, EncodeError, Incoming, Kind, Serializer};
use crate::message::{Message, Outgoing, PHOENIX, Payload, RefText, TopicName, event};

/// The serializer for `vsn` 2.0.x.
#[derive(Clone, Copy, Debug)]
pub struct V2;

impl Serializer for V2 {
    fn vsn(&self) -> &'static str {
        "2.0.0"
    }

    fn takes_binary(&self) -> bool {
        true
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        match frame {
            Incoming::Text(text) => decode_text(&text).map_err(DecodeError::Malformed),
            Incoming::Binary(bytes) => decode_binary(&bytes).map_err(DecodeError::Malformed),
        }
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        match message.payload() {
            Payload::Json(json) => {
                encode_text(message, json, out);
                Ok(Kind::Text)
            }
            Payload::Binary(data) => {
                encode_binary(message, data, out)?;
                Ok(Kind::Binary)
            }
        }
    }
}

fn decode_text(text: &ByteString) -> Result<Message, &'static str> {
    let mut scanner = Scanner::new(text);
    if !scanner.take(b'[') {
        return Err("a message is a JSON array");
    }
    let mut elements: [&str; 5] = [""; 5];
    for (index, element) in elements.iter_mut().enumerate() {
        if index > 0 && !scanner.take(b',') {
            return Err("a message has five elements");
        }
        *element = &text[scanner.value()?];
    }
    // Phoenix ignores further elements. They have to be JSON all the same.
    while scanner.take(b',') {
        scanner.value()?;
    }
    if !scanner.take(b']') || scanner.peek().is_some() {
        return Err("expected the end of the array and of the message");
    }
    let [join_ref, msg_ref, topic, event, payload] = elements;
    Ok(Message {
        join_ref: text_ref(join_ref)?,
        msg_ref: text_ref(msg_ref)?,
        topic: match string(text, topic)? {
            Some(name) => TopicName::Text(name),
            None => TopicName::Other(text.slice_ref(topic)),
        },
        event: match string(text, event)? {
            Some(name) => name,
            None => text.slice_ref(event),
        },
        payload: Payload::Json(text.slice_ref(payload).into_bytes()),
    })
}

/// The kinds of binary frames.
mod kind {
    pub(super) const PUSH: u8 = 0;
    pub(super) const REPLY: u8 = 1;
    pub(super) const BROADCAST: u8 = 2;
}

fn decode_binary(frame: &Bytes) -> Result<Message, &'static str> {
    let (&[kind, lens @ ..], rest) = frame
        .split_first_chunk::<5>()
        .ok_or("a binary frame starts with its kind and four lengths")?;
    if kind != kind::PUSH {
        return Err("unknown kind of binary frame");
    }
    let mut rest = frame.slice_ref(rest);
    let mut field = |len: u8| {
        if rest.len() < usize::from(len) {
            return Err("a binary frame ends inside its header");
        }
        ByteString::try_from(rest.split_to(len.into())).map_err(|_| "a header field is not UTF-8")
    };
    let [join_ref, msg_ref, topic, event] = lens;
    Ok(Message {
        join_ref: Some(binary_ref(&field(join_ref)?)?),
        msg_ref: Some(binary_ref(&field(msg_ref)?)?),
        topic: TopicName::Text(field(topic)?),
        event: field(event)?,
        payload: Payload::Binary(rest),
    })
}

/// A ref of a binary frame is always a string, also the empty one: never null, never a number.
pub(super) fn binary_ref(content: &str) -> Result<RefText, &'static str> {
    let content = json::escape(content);
    let mut quoted = String::with_capacity(content.len() + 2);
    quoted.push('"');
    quoted.push_str(&content);
    quoted.push('"');
    RefText::new(&quoted).map_err(|_| LONG_REF)
}

fn encode_text(message: &Outgoing<'_>, json: &[u8], out: &mut BytesMut) {
    match *message {
        Outgoing::Reply {
            join_ref,
            msg_ref,
            topic,
            status,
            ..
        } => reply(out, join_ref, msg_ref, Topic::of(topic), status, json),
        Outgoing::Heartbeat { msg_ref } => reply(out, None, msg_ref, Topic::Name(PHOENIX), "ok", json),
        Outgoing::Push {
            join_ref, topic, event, ..
        } => {
            head(out, join_ref, None, Topic::Name(topic), event, json.len());
            out.put_slice(json);
        }
        Outgoing::Broadcast { topic, event, .. } => {
            head(out, None, None, Topic::Name(topic), event, json.len());
            out.put_slice(json);
        }
        Outgoing::End {
            join_ref, topic, event, ..
        } => {
            head(out, join_ref, join_ref, Topic::Name(topic), event, json.len());
            out.put_slice(json);
        }
    }
    out.put_u8(b']');
}

fn reply(
    out: &mut BytesMut,
    join_ref: Option<&str>,
    msg_ref: Option<&str>,
    topic: Topic<'_>,
    status: &str,
    json: &[u8],
) {
    let tail = json.len() + status.len() + 27;
    head(out, join_ref, msg_ref, topic, event::REPLY, tail);
    out.put_slice(b"{\"response\":");
    out.put_slice(json);
    out.put_slice(b",\"status\":");
    put_string(out, status);
    out.put_u8(b'}');
}

/// A topic to write: a name, or the JSON text of something else that a client sent as its topic.
#[derive(Clone, Copy)]
enum Topic<'a> {
    Name(&'a str),
    Raw(&'a str),
}

impl<'a> Topic<'a> {
    fn of(name: &'a TopicName) -> Self {
        match name {
            TopicName::Text(name) => Self::Name(name),
            TopicName::Other(raw) => Self::Raw(raw),
        }
    }

    fn text(self) -> &'a str {
        match self {
            Self::Name(text) | Self::Raw(text) => text,
        }
    }
}

/// Writes the first four elements and the comma behind them. `tail` estimates the length of the rest.
fn head(out: &mut BytesMut, join_ref: Option<&str>, msg_ref: Option<&str>, topic: Topic<'_>, event: &str, tail: usize) {
    let join_ref = join_ref.unwrap_or("null");
    let msg_ref = msg_ref.unwrap_or("null");
    out.reserve(join_ref.len() + msg_ref.len() + topic.text().len() + event.len() + tail + 10);
    out.put_u8(b'[');
    out.put_slice(join_ref.as_bytes());
    out.put_u8(b',');
    out.put_slice(msg_ref.as_bytes());
    out.put_u8(b',');
    match topic {
        Topic::Name(name) => put_string(out, name),
        Topic::Raw(raw) => out.put_slice(raw.as_bytes()),
    }
    out.put_u8(b',');
    put_string(out, event);
    out.put_u8(b',');
}

fn encode_binary(message: &Outgoing<'_>, data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    match *message {
        Outgoing::Reply {
            join_ref,
            msg_ref,
            topic,
            status,
            ..
        } => {
            let (join_ref, msg_ref) = (ref_text(join_ref), ref_text(msg_ref));
            let topic = Topic::of(topic).text();
            frame(
                out,
                kind::REPLY,
                [
                    ("join_ref", &join_ref),
                    ("ref", &msg_ref),
                    ("topic", topic),
                    ("status", status),
                ],
                data,
            )
        }
        // No binary frame has a place for the ref of an end; Phoenix's `phx_close` and `phx_error` are never binary.
        Outgoing::Push {
            join_ref, topic, event, ..
        }
        | Outgoing::End {
            join_ref, topic, event, ..
        } => frame(
            out,
            kind::PUSH,
            [("join_ref", &*ref_text(join_ref)), ("topic", topic), ("event", event)],
            data,
        ),
        Outgoing::Broadcast { topic, event, .. } => {
            frame(out, kind::BROADCAST, [("topic", topic), ("event", event)], data)
        }
        Outgoing::Heartbeat { msg_ref } => frame(
            out,
            kind::REPLY,
            [
                ("join_ref", ""),
                ("ref", &*ref_text(msg_ref)),
                ("topic", PHOENIX),
                ("status", "ok"),
            ],
            data,
        ),
    }
}

/// A ref as a binary frame holds it: the content of a string, the JSON text of anything else, nothing for null.
fn ref_text(raw: Option<&str>) -> std::borrow::Cow<'_, str> {
    match raw {
        None => "".into(),
        // Half a surrogate pair has no UTF-8; it stays as it is written.
        Some(raw) if raw.starts_with('"') => json::unescape(raw).unwrap_or(raw.into()),
        Some(raw) => raw.into(),
    }
}

fn frame<const N: usize>(
    out: &mut BytesMut,
    kind: u8,
    fields: [(&'static str, &str); N],
    data: &[u8],
) -> Result<(), EncodeError> {
    let mut lens = [0; N];
    for (slot, (field, text)) in lens.iter_mut().zip(fields) {
        let len = text.len();
        *slot = u8::try_from(len).map_err(|_| EncodeError::TooLong { field, len })?;
    }
    out.reserve(1 + N + fields.iter().map(|(_, text)| text.len()).sum::<usize>() + data.len());
    out.put_u8(kind);
    out.put_slice(&lens);
    for (_, text) in fields {
        out.put_slice(text.as_bytes());
    }
    out.put_slice(data);
    Ok(())
}

#[cfg(test)]
#[path = "v2_tests.rs"]
mod tests;
