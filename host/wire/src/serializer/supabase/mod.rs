//! The wire of Supabase's Realtime clients, in their versions 1.0.0 and 2.0.0.
//!
//! Their text is that of Phoenix ([`V1`], [`V2`]). Their binary frames are not: in version 2.0.0 a
//! client sends what it broadcasts as a frame of kind 3, and takes frames of kind 4, and no others.
//!
//! ```text
//! 3, lengths of join_ref, ref, topic, event and metadata, encoding; these five texts; the payload
//! 4, lengths of topic, event and metadata, encoding; these three texts; the payload
//! ```
//!
//! The encoding is 0 for bytes and 1 for JSON. To a plugin, either is the event `broadcast`: [`user_broadcast`] says with which
//! payload. A client calls a room by its topic, private or not: see [`Dialect::room`](crate::dialect::Dialect::room).

mod user_broadcast;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use self::user_broadcast::{Content, UserBroadcast};
use super::text::LONG_REF;
use super::v1::V1;
use super::v2::{V2, binary_ref};
use super::{DecodeError, EncodeError, Incoming, Kind, Serializer};
use crate::dialect::Dialect;
use crate::message::{Message, Outgoing, Payload, Ref, TopicName};

/// The event that carries what clients say to each other.
pub const BROADCAST: &str = "broadcast";

/// The longest text in a binary frame.
const MOST: usize = 255;

/// The kinds of binary frames.
mod kind {
    pub(super) const FROM_CLIENT: u8 = 3;
    pub(super) const TO_CLIENT: u8 = 4;
}

/// What the payload of a binary frame is.
mod encoding {
    pub(super) const BYTES: u8 = 0;
    pub(super) const JSON: u8 = 1;
}

/// The serializer of Supabase's clients for `vsn` 1.0.x: text only.
#[derive(Clone, Copy, Debug)]
pub struct SupabaseV1;

/// The serializer of Supabase's clients for `vsn` 2.0.x.
#[derive(Clone, Copy, Debug)]
pub struct SupabaseV2;

impl Serializer for SupabaseV1 {
    fn vsn(&self) -> &'static str {
        "1.0.0"
    }

    /// It writes them as text itself.
    fn takes_binary(&self) -> bool {
        true
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        V1.decode(frame)
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        let name = reply_topic(message);
        let message = in_clients_words(message, name.as_ref());
        let text = as_text(&message);
        V1.encode(&text.as_ref().map_or(message, |text| message.with_payload(text)), out)
    }
}

impl Serializer for SupabaseV2 {
    fn vsn(&self) -> &'static str {
        "2.0.0"
    }

    /// Other bytes than those of broadcasts it writes as text.
    fn takes_binary(&self) -> bool {
        true
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        match frame {
            Incoming::Text(_) => V2.decode(frame),
            Incoming::Binary(bytes) => decode_broadcast(&bytes).map_err(DecodeError::Malformed),
        }
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        let name = reply_topic(message);
        let message = in_clients_words(message, name.as_ref());
        if let Some((topic, broadcast)) = broadcast_of(&message) {
            match put_broadcast(topic, &broadcast, out) {
                // As text there is room for it.
                Err(_) if matches!(broadcast.content, Content::Json(_)) => {}
                written => return written.map(|()| Kind::Binary),
            }
        }
        let text = as_text(&message);
        V2.encode(&text.as_ref().map_or(message, |text| message.with_payload(text)), out)
    }
}

/// The topic of a reply as its client knows it, where that is not the name of the room.
fn reply_topic(message: &Outgoing<'_>) -> Option<TopicName> {
    let Outgoing::Reply {
        topic: TopicName::Text(room),
        ..
    } = message
    else {
        return None;
    };
    let name = Dialect::Supabase.topic_of(room);
    (name.len() < room.len()).then(|| TopicName::Text(room.slice_ref(name)))
}

/// The message with the topic that its client knows.
fn in_clients_words<'a>(message: &Outgoing<'a>, reply_topic: Option<&'a TopicName>) -> Outgoing<'a> {
    let mut message = *message;
    match &mut message {
        Outgoing::Push { topic, .. } | Outgoing::Broadcast { topic, .. } | Outgoing::End { topic, .. } => {
            *topic = Dialect::Supabase.topic_of(topic);
        }
        Outgoing::Reply { topic, .. } => *topic = reply_topic.unwrap_or(topic),
        Outgoing::Heartbeat { .. } => {}
    }
    message
}

/// What a client says to others, with its topic.
fn broadcast_of<'a>(message: &Outgoing<'a>) -> Option<(&'a str, UserBroadcast<'a>)> {
    match *message {
        Outgoing::Push {
            topic, event, payload, ..
        }
        | Outgoing::Broadcast { topic, event, payload }
            if event == BROADCAST =>
        {
            Some((topic, UserBroadcast::of(payload)?))
        }
        _ => None,
    }
}

/// The payload as text, if it is bytes.
fn as_text(message: &Outgoing<'_>) -> Option<Payload> {
    let payload = message.payload();
    if !payload.is_binary() {
        return None;
    }
    Some(match broadcast_of(message) {
        Some((_, broadcast)) => broadcast.as_text(),
        None => payload.as_text(),
    })
}

fn put_broadcast(topic: &str, broadcast: &UserBroadcast<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (encoding, payload) = match broadcast.content {
        Content::Bytes(bytes) => (encoding::BYTES, bytes),
        Content::Json(json) => (encoding::JSON, json.as_bytes()),
    };
    let texts = [
        ("topic", topic),
        ("event", &*broadcast.event),
        ("metadata", broadcast.meta.unwrap_or("")),
    ];
    let mut lengths = [0; 3];
    for (length, (field, text)) in lengths.iter_mut().zip(texts) {
        let len = text.len();
        *length = u8::try_from(len).map_err(|_| EncodeError::TooLong { field, len })?;
    }
    out.reserve(5 + texts.iter().map(|(_, text)| text.len()).sum::<usize>() + payload.len());
    out.put_u8(kind::TO_CLIENT);
    out.put_slice(&lengths);
    out.put_u8(encoding);
    for (_, text) in texts {
        out.put_slice(text.as_bytes());
    }
    out.put_slice(payload);
    Ok(())
}

fn decode_broadcast(frame: &Bytes) -> Result<Message, &'static str> {
    let (&[kind, join_ref, msg_ref, topic, event, meta, encoding], rest) = frame
        .split_first_chunk::<7>()
        .ok_or("a binary frame starts with its kind, five lengths and an encoding")?;
    if kind != kind::FROM_CLIENT {
        return Err("the only binary frames that a client of Supabase sends are of kind 3");
    }
    let mut rest = frame.slice_ref(rest);
    let mut field = |len: u8| {
        if rest.len() < usize::from(len) {
            return Err("a binary frame ends inside its header");
        }
        Ok(header_text(rest.split_to(len.into())))
    };
    let (join_ref, msg_ref) = (own_ref(&field(join_ref)?)?, own_ref(&field(msg_ref)?)?);
    let (topic, event, meta) = (field(topic)?, field(event)?, field(meta)?);
    let broadcast = UserBroadcast {
        event: (&*event).into(),
        meta: (!meta.is_empty()).then_some(&*meta),
        content: match encoding {
            encoding::BYTES => Content::Bytes(&rest),
            encoding::JSON => Content::Json(
                std::str::from_utf8(&rest).map_err(|_| "a broadcast that is said to be JSON is not UTF-8")?,
            ),
            _ => return Err("the encoding of a broadcast is 0 (bytes) or 1 (JSON)"),
        },
    };
    Ok(Message {
        join_ref,
        msg_ref,
        topic: TopicName::Text(topic),
        event: ByteString::from_static(BROADCAST),
        payload: broadcast.into_payload()?,
    })
}

/// A text of a header. supabase-js writes one byte for each character, so that `ü` is no UTF-8; read as UTF-8 alone, it would
/// not be the topic that was joined.
fn header_text(bytes: Bytes) -> ByteString {
    ByteString::try_from(bytes.clone()).unwrap_or_else(|_| {
        let latin: String = bytes.iter().copied().map(char::from).collect();
        latin.into()
    })
}

/// A ref of a binary frame is a string. The empty one stands for none.
fn own_ref(content: &str) -> Result<Ref, &'static str> {
    if content.is_empty() {
        return Ok(None);
    }
    // In Latin-1, fewer than 255 characters may be more than 255 bytes.
    if content.len() > MOST {
        return Err(LONG_REF);
    }
    binary_ref(content).map(Some)
}

/// The payload of the event [`BROADCAST`] for what a backend says: an event of its own with JSON.
///
/// # Errors
///
/// If it is not JSON, or nested too deeply.
pub fn broadcast_json(event: &str, json: &Bytes) -> Result<Payload, &'static str> {
    user_broadcast::of_json(event, json)
}

/// The same with bytes.
///
/// # Errors
///
/// If the event has more than 255 bytes.
pub fn broadcast_bytes(event: &str, bytes: &[u8]) -> Result<Payload, &'static str> {
    user_broadcast::of_bytes(event, bytes)
}

#[cfg(test)]
mod tests;
