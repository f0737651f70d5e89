//! Messages of protocol version 2.0.0, from a client's side.
//!
//! This does not use the serializers of `bennu-wire`, so that the tests of the server check those against it.

use bytes::Bytes;
use serde_json::{Value, json};

use bennu_wire::message::event::REPLY;

use super::Frame;

/// A message, in either direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The `ref` of the join that the message belongs to.
    pub join_ref: Option<String>,
    /// The `ref` of the message. A reply repeats that of its request.
    pub msg_ref: Option<String>,
    /// The topic.
    pub topic: String,
    /// The event.
    pub event: String,
    /// The status of a reply: `ok`, `error`, or a word of the plugin's choice. `None` if the message is no reply.
    pub status: Option<String>,
    /// The payload; of a reply, the response.
    pub payload: Payload,
}

/// The payload of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// JSON.
    Json(Value),
    /// Bytes.
    Binary(Bytes),
}

/// A frame is not a message.
#[derive(Debug, thiserror::Error)]
#[error("the server sent a frame that is not a message: {0}")]
pub struct MalformedMessage(String);

impl Message {
    /// Encodes it into a frame.
    ///
    /// # Panics
    ///
    /// If the payload is binary and a field has more than 255 bytes.
    #[must_use]
    pub fn encode(&self) -> Frame {
        let Self {
            join_ref,
            msg_ref,
            topic,
            event,
            ..
        } = self;
        match &self.payload {
            Payload::Json(payload) => Frame::Text(json!([join_ref, msg_ref, topic, event, payload]).to_string()),
            Payload::Binary(bytes) => {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                let fields = [text(join_ref), text(msg_ref), topic.clone(), event.clone()];
                let mut out = vec![0];
                out.extend(fields.iter().map(|field| {
                    u8::try_from(field.len()).expect("a field of a binary message has at most 255 bytes")
                }));
                out.extend(fields.iter().flat_map(|field| field.as_bytes()));
                out.extend_from_slice(bytes);
                Frame::Binary(out.into())
            }
        }
    }

    /// Decodes a frame.
    ///
    /// # Errors
    ///
    /// If the frame is not a message.
    pub fn decode(frame: &Frame) -> Result<Self, MalformedMessage> {
        let decoded = match frame {
            Frame::Text(text) => Self::from_text(text),
            Frame::Binary(bytes) => Self::from_binary(bytes),
        };
        decoded.ok_or_else(|| MalformedMessage(format!("{frame:?}")))
    }

    fn from_text(text: &str) -> Option<Self> {
        type Array = (Option<String>, Option<String>, String, String, Value);
        let (join_ref, msg_ref, topic, event, mut payload): Array = serde_json::from_str(text).ok()?;
        let mut status = None;
        if event == REPLY {
            status = Some(payload.get("status")?.as_str()?.to_owned());
            payload = payload.get_mut("response")?.take();
        }
        let payload = Payload::Json(payload);
        Some(Self {
            join_ref,
            msg_ref,
            topic,
            event,
            status,
            payload,
        })
    }

    fn from_binary(bytes: &Bytes) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        // How many fields there are: a push has join_ref, topic, event; a reply join_ref, ref, topic, status; a
        // broadcast topic, event.
        let count = match kind {
            0 => 3,
            1 => 4,
            2 => 2,
            _ => return None,
        };
        let (lengths, mut rest) = rest.split_at_checked(count)?;
        let mut fields = Vec::with_capacity(count);
        for length in lengths {
            let (field, tail) = rest.split_at_checked(usize::from(*length))?;
            fields.push(std::str::from_utf8(field).ok()?.to_owned());
            rest = tail;
        }
        let present = |field: String| Some(field).filter(|field| !field.is_empty());
        let mut fields = fields.into_iter();
        let join_ref = if *kind == 2 { None } else { present(fields.next()?) };
        let msg_ref = if *kind == 1 { present(fields.next()?) } else { None };
        let (topic, last) = (fields.next()?, fields.next()?);
        let (event, status) = if *kind == 1 {
            (REPLY.into(), Some(last))
        } else {
            (last, None)
        };
        let payload = Payload::Binary(bytes.slice_ref(rest));
        Some(Self {
            join_ref,
            msg_ref,
            topic,
            event,
            status,
            payload,
        })
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &'static [u8], join_ref: Option<&str>, msg_ref: Option<&str>, event: &str, status: Option<&str>) {
        let message = Message::decode(&Frame::Binary(Bytes::from_static(bytes))).expect("a message");
        assert_eq!(
            (message.join_ref.as_deref(), message.msg_ref.as_deref()),
            (join_ref, msg_ref)
        );
        assert_eq!((&*message.topic, &*message.event), ("r:a", event));
        assert_eq!(message.status.as_deref(), status);
        assert_eq!(message.payload, Payload::Binary(Bytes::from_static(&[7])));
    }

    #[test]
    fn the_three_kinds_of_binary_messages_are_read() {
        check(b"\0\x02\x03\x0211r:apb\x07", Some("11"), None, "pb", None);
        check(
            b"\x01\x01\x01\x03\x0212r:aok\x07",
            Some("1"),
            Some("2"),
            REPLY,
            Some("ok"),
        );
        check(b"\x02\x03\x02r:abb\x07", None, None, "bb", None);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = b"\x01\x01\x01\x03\x0212r:aok";
        for length in 0..whole.len() {
            let frame = Frame::Binary(Bytes::from_static(&whole[..length]));
            assert!(Message::decode(&frame).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_reply_is_read_with_its_status() {
        let text = r#"["1","2","r:a","phx_reply",{"response":{"n":1},"status":"ok"}]"#;
        let reply = Message::decode(&text.into()).expect("a message");
        assert_eq!(reply.status.as_deref(), Some("ok"));
        assert_eq!(reply.payload, json!({"n": 1}).into());
    }
}
