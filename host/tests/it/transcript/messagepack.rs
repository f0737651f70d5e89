//! What a transcript says, in MessagePack: not by the serializer that is tested, the two check each other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bennu_tools::client::{Frame, Message, Payload};
use rmpv::Value as Packed;
use serde_json::{Value, json};

use super::version::hex;

/// The same message; what is none stays what it is, as bytes.
pub(super) fn say(frame: Frame) -> Frame {
    let packed = match &frame {
        Frame::Text(text) => serde_json::from_str(text).ok(),
        Frame::Binary(bytes) => push(bytes),
    };
    match (packed, frame) {
        (Some(packed), _) => {
            let mut bytes = Vec::new();
            rmpv::encode::write_value(&mut bytes, &packed).expect("memory grows");
            Frame::Binary(bytes.into())
        }
        (None, Frame::Text(text)) => Frame::Binary(text.into()),
        (None, bytes) => bytes,
    }
}

/// A client's binary frame of version 2.
fn push(frame: &[u8]) -> Option<Packed> {
    let (&[0, lengths @ ..], mut rest) = frame.split_first_chunk::<5>()? else {
        return None;
    };
    let mut parts = Vec::new();
    for length in lengths {
        let (part, tail) = rest.split_at_checked(length.into())?;
        parts.push(std::str::from_utf8(part).ok()?.into());
        rest = tail;
    }
    parts.push(Packed::Binary(rest.to_vec()));
    Some(Packed::Array(parts))
}

/// What [`hear`] gives for what a server's binary frame of version 2 says.
pub(super) fn expect(frame: &[u8]) -> Option<Value> {
    let message = Message::decode(&Frame::Binary(frame.to_vec().into())).ok()?;
    let Payload::Binary(bytes) = &message.payload else {
        return None;
    };
    let payload = match &message.status {
        Some(status) => json!({"response": hex(bytes), "status": status}),
        None => hex(bytes),
    };
    Some(json!([
        message.join_ref,
        message.msg_ref,
        message.topic,
        message.event,
        payload
    ]))
}

/// A message as JSON. Over long polling it comes as base64.
pub(super) fn hear(frame: &Frame) -> Option<Value> {
    let bytes = match frame {
        Frame::Text(base64) => STANDARD.decode(base64).ok()?,
        Frame::Binary(bytes) => bytes.to_vec(),
    };
    let mut rest = &bytes[..];
    let message = rmpv::decode::read_value(&mut rest).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut message = json(&message);
    // Binary frames of version 2 hold a number's digits, and that is what is expected where there are bytes.
    let msg_ref = &message[1];
    if msg_ref.is_number() && message[4].to_string().contains("\"bytes\"") {
        message[1] = msg_ref.to_string().into();
    }
    Some(message)
}

fn json(packed: &Packed) -> Value {
    match packed {
        Packed::Binary(bytes) => hex(bytes),
        Packed::Array(parts) => parts.iter().map(json).collect(),
        Packed::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), json(value)))
            .collect(),
        other => serde_json::to_value(other).expect("a scalar"),
    }
}
