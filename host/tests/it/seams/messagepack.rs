//! A serializer that the host does not have: `[join_ref, ref, topic, event, payload]` as in version 2, in MessagePack.

use bennu_wire::message::{Message, Outgoing, Payload, Ref, RefText, TopicName, event};
use bennu_wire::serializer::{DecodeError, EncodeError, Incoming, Kind, Serializer};
use bytes::{BufMut as _, BytesMut};
use rmpv::{Value, decode::read_value_with_max_depth, encode::write_value};

/// Less than JSON may have here, so that whatever was read can be written.
const MAX_DEPTH: usize = 100;

#[derive(Debug)]
pub(crate) struct MessagePack;

impl Serializer for MessagePack {
    fn vsn(&self) -> &'static str {
        "2.0.0"
    }

    fn takes_binary(&self) -> bool {
        true
    }

    fn decode(&self, frame: Incoming) -> Result<Message, DecodeError> {
        let Incoming::Binary(bytes) = frame else {
            return Err(DecodeError::Malformed("a message is binary"));
        };
        let message = read_value_with_max_depth(&mut &bytes[..], MAX_DEPTH).ok();
        let parts = message.as_ref().and_then(Value::as_array).map(Vec::as_slice);
        let Some([join_ref, msg_ref, topic, event, payload, ..]) = parts else {
            return Err(DecodeError::Malformed("a message is an array of five"));
        };
        Ok(Message {
            join_ref: reference(join_ref)?,
            msg_ref: reference(msg_ref)?,
            topic: match topic.as_str() {
                Some(name) => TopicName::Text(name.into()),
                None => TopicName::Other(json(topic)?.into()),
            },
            event: event
                .as_str()
                .map_or_else(|| json(event), |name| Ok(name.into()))?
                .into(),
            payload: match payload {
                Value::Binary(bytes) => Payload::Binary(bytes.clone().into()),
                payload => Payload::Json(json(payload)?.into()),
            },
        })
    }

    fn encode(&self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<Kind, EncodeError> {
        let payload = match message.payload() {
            Payload::Binary(bytes) => Value::Binary(bytes.to_vec()),
            Payload::Json(json) => value(json),
        };
        let or_null = |json: Option<&str>| json.map_or(Value::Nil, |json| value(json.as_bytes()));
        let (join_ref, msg_ref, topic, event, payload) = match *message {
            Outgoing::Reply {
                join_ref,
                msg_ref,
                topic,
                status,
                ..
            } => {
                let topic = match topic {
                    TopicName::Text(name) => Value::from(&**name),
                    TopicName::Other(json) => value(json.as_bytes()),
                };
                (join_ref, msg_ref, topic, event::REPLY, reply(status, payload))
            }
            Outgoing::Heartbeat { msg_ref } => (None, msg_ref, "phoenix".into(), event::REPLY, reply("ok", payload)),
            Outgoing::Push {
                join_ref, topic, event, ..
            } => (join_ref, None, topic.into(), event, payload),
            Outgoing::Broadcast { topic, event, .. } => (None, None, topic.into(), event, payload),
            Outgoing::End {
                join_ref, topic, event, ..
            } => (join_ref, join_ref, topic.into(), event, payload),
        };
        let message = vec![or_null(join_ref), or_null(msg_ref), topic, event.into(), payload];
        write_value(&mut out.writer(), &Value::Array(message)).expect("memory grows");
        Ok(Kind::Binary)
    }
}

fn reply(status: &str, response: Value) -> Value {
    Value::Map(vec![("response".into(), response), ("status".into(), status.into())])
}

fn reference(value: &Value) -> Result<Ref, DecodeError> {
    if value.is_nil() {
        return Ok(None);
    }
    let text = RefText::new(&json(value)?);
    text.map(Some).map_err(|_| DecodeError::Malformed("a ref is too long"))
}

fn json(value: &Value) -> Result<String, DecodeError> {
    serde_json::to_string(value).map_err(|_| DecodeError::Malformed("the keys of a map are strings"))
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("the host carries JSON")
}
