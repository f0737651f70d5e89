//! The payloads of a test: [`Body`].

use std::fmt;

use serde_json::Value;

use crate::payload::IntoPayload;

/// A payload on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Whether it is binary, not JSON.
    pub binary: bool,
    /// The bytes, or the JSON text.
    pub bytes: Vec<u8>,
}

impl Body {
    pub(super) fn of(payload: &impl IntoPayload) -> Self {
        let mut scratch = Vec::new();
        let payload = payload.lend(&mut scratch);
        Self {
            binary: payload.is_binary(),
            bytes: payload.bytes().to_vec(),
        }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self {
            binary: false,
            bytes: value.to_string().into_bytes(),
        }
    }

    /// `{}`.
    pub(super) fn empty() -> Self {
        Self::json(&serde_json::json!({}))
    }

    pub(super) fn reason(reason: &str) -> Self {
        Self::json(&serde_json::json!({ "reason": reason }))
    }

    /// The JSON; binary as an array of its bytes.
    pub(super) fn value(&self) -> Value {
        if self.binary {
            return self.bytes.clone().into();
        }
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Whether a client can be sent this as the payload of a push.
    pub(super) fn is_object_or_binary(&self) -> bool {
        self.is_valid() && (self.binary || self.bytes.trim_ascii_start().starts_with(b"{"))
    }

    /// Whether it is JSON or binary at all.
    pub(super) fn is_valid(&self) -> bool {
        let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&self.bytes).is_ok();
        self.binary || (str::from_utf8(&self.bytes).is_ok() && is_json())
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.binary {
            write!(f, "binary {:?}", self.bytes)
        } else {
            f.write_str(&String::from_utf8_lossy(&self.bytes))
        }
    }
}
