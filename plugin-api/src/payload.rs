//! Payloads: JSON text or bytes, from a client or to one.
//!
//! Nothing parses a payload before a handler asks for it, and nothing copies one that a handler passes on unchanged.

mod event;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::de::SliceRead;

use crate::reply::Refusal;

/// The payload of an event. A callback borrows it until it returns.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    binary: bool,
    /// It is the payload of the current event.
    same: bool,
}

impl<'a> Payload<'a> {
    pub(crate) fn of_event(bytes: &'a [u8], binary: bool) -> Self {
        Self {
            bytes,
            binary,
            same: true,
        }
    }

    /// A payload of this JSON text. The host refuses text that is not JSON.
    #[must_use]
    pub fn json_text(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            binary: false,
            same: false,
        }
    }

    /// Reads the JSON as a `T`, which may borrow from it.
    ///
    /// # Errors
    ///
    /// If it is not a `T`, or binary. Returned with `?` from `join` or `handle_in`, the error answers the client with
    /// `{"reason":"invalid payload","field":"user.name","message":"…"}`.
    pub fn parse<T: Deserialize<'a>>(self) -> Result<T, Refusal> {
        self.json_bytes().and_then(read_json).map_err(ReadError::into_refusal)
    }

    /// The JSON, unless the payload is binary.
    pub(crate) fn json_bytes(self) -> Result<&'a [u8], ReadError> {
        if self.binary {
            return Err(ReadError {
                path: String::new(),
                message: "expected JSON, got binary".to_owned(),
            });
        }
        Ok(self.bytes)
    }

    /// The JSON text, or `None` if the payload is binary.
    #[must_use]
    pub fn json(self) -> Option<&'a str> {
        if self.binary {
            None
        } else {
            str::from_utf8(self.bytes).ok()
        }
    }

    /// The bytes, or `None` if the payload is JSON.
    #[must_use]
    pub fn binary(self) -> Option<&'a [u8]> {
        self.binary.then_some(self.bytes)
    }

    /// Whether it is binary.
    #[must_use]
    pub fn is_binary(self) -> bool {
        self.binary
    }

    /// The bytes of either kind.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// Bytes to send as a binary payload: `cx.push("frame", Binary(&pixels))`.
#[derive(Clone, Copy, Debug)]
pub struct Binary<'a>(
    /// The bytes.
    pub &'a [u8],
);

/// A value that can be sent: anything that serde can write as JSON, [`Binary`], or a [`Payload`].
///
/// # Panics
///
/// Sending panics if serde cannot write the value as JSON, for example a map whose keys are not strings.
pub trait IntoPayload {
    /// Lends the bytes to send; writes JSON to `scratch`.
    #[doc(hidden)]
    fn lend<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Payload<'a>;
    /// The bytes to send after the callback.
    #[doc(hidden)]
    fn into_body(self) -> Body;
}

impl<T: Serialize> IntoPayload for T {
    fn lend<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Payload<'a> {
        scratch.clear();
        write_json(self, scratch);
        Payload {
            bytes: scratch,
            binary: false,
            same: false,
        }
    }

    fn into_body(self) -> Body {
        let mut bytes = Vec::with_capacity(64);
        write_json(&self, &mut bytes);
        Body::Bytes {
            bytes: bytes.into(),
            binary: false,
        }
    }
}

impl IntoPayload for Payload<'_> {
    fn lend<'a>(&'a self, _: &'a mut Vec<u8>) -> Payload<'a> {
        *self
    }

    fn into_body(self) -> Body {
        if self.same {
            return Body::Same;
        }
        Body::Bytes {
            bytes: self.bytes.to_vec().into(),
            binary: self.binary,
        }
    }
}

impl IntoPayload for Binary<'_> {
    fn lend<'a>(&'a self, _: &'a mut Vec<u8>) -> Payload<'a> {
        Payload {
            bytes: self.0,
            binary: true,
            same: false,
        }
    }

    fn into_body(self) -> Body {
        Body::Bytes {
            bytes: self.0.to_vec().into(),
            binary: true,
        }
    }
}

/// A payload on its way out of a callback.
#[doc(hidden)]
#[derive(Debug)]
pub enum Body {
    /// That of the current event: the host gets its own bytes back and copies nothing.
    Same,
    /// Other bytes.
    Bytes {
        /// Bytes if `binary`, otherwise JSON text.
        bytes: Cow<'static, [u8]>,
        /// Whether they are binary.
        binary: bool,
    },
}

impl Body {
    /// `{}`.
    pub(crate) const EMPTY: Self = Self::Bytes {
        bytes: Cow::Borrowed(b"{}"),
        binary: false,
    };

    /// The payload, given the `event` payload that [`Body::Same`] stands for.
    pub(crate) fn lend<'a>(&'a self, event: Payload<'a>) -> Payload<'a> {
        match self {
            Self::Same => event,
            Self::Bytes { bytes, binary } => Payload {
                bytes,
                binary: *binary,
                same: false,
            },
        }
    }
}

/// Where and why JSON cannot be read.
#[derive(Debug)]
pub(crate) struct ReadError {
    /// Keys joined by dots; empty for the whole value.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl ReadError {
    /// The answer to the client.
    pub(crate) fn into_refusal(self) -> Refusal {
        Refusal::field(&self.field(), &self.message)
    }

    /// The path of the field at fault. A missing field is one level below `path`.
    fn field(&self) -> String {
        let missing = self
            .message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        match missing {
            Some(name) if self.path.is_empty() => name.to_owned(),
            Some(name) => format!("{}.{name}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Reads JSON; an error says where.
pub(crate) fn read_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ReadError> {
    read_json_with(bytes, |reader| T::deserialize(reader))
}

/// A deserializer of JSON that keeps track of its path.
pub(crate) type Reader<'r, 'a> =
    serde_path_to_error::Deserializer<'r, 'r, &'r mut serde_json::Deserializer<SliceRead<'a>>>;

/// Reads JSON with `read`; an error says where.
pub(crate) fn read_json_with<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(Reader<'_, 'a>) -> serde_json::Result<T>,
) -> Result<T, ReadError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    read(serde_path_to_error::Deserializer::new(&mut json, &mut track)).map_err(|error| {
        let path = track.path().to_string();
        let text = error.to_string();
        // Nobody wrote this JSON by hand: line and column say nothing.
        let message = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(message, _)| message);
        ReadError {
            path: if path == "." { String::new() } else { path },
            message: in_clients_words(message),
        }
    })
}

/// Replaces `struct Params` and `struct variant Event::Say` by `an object`: the names of the plugin's types say nothing to a
/// client.
fn in_clients_words(message: &str) -> String {
    let message = message.replace("expected struct variant ", "expected struct ");
    match message.split_once("expected struct ") {
        Some((before, name)) => {
            let behind = name.find([' ', ',']).map_or("", |end| &name[end..]);
            format!("{before}expected an object{behind}")
        }
        None => message,
    }
}

fn write_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    if let Err(error) = serde_json::to_writer(out, value) {
        panic!(
            "cannot write a payload of type {} as JSON: {error}",
            std::any::type_name::<T>()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Params {
        user: User,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct User {
        name: String,
    }

    #[track_caller]
    fn check(payload: Payload<'_>, expected: &str) {
        let refusal = payload.parse::<Params>().expect_err("no such params");
        let body = refusal.into_body();
        assert_eq!(body.lend(payload).json(), Some(expected));
    }

    #[test]
    fn a_wrong_payload_is_refused_by_the_name_of_the_field() {
        check(
            Payload::json_text(r#"{"user":{"name":7}}"#),
            r#"{"reason":"invalid payload","field":"user.name","message":"invalid type: integer `7`, expected a string"}"#,
        );
        check(
            Payload::json_text(r#"{"user":{}}"#),
            r#"{"reason":"invalid payload","field":"user.name","message":"missing field `name`"}"#,
        );
        check(
            Payload::json_text("{}"),
            r#"{"reason":"invalid payload","field":"user","message":"missing field `user`"}"#,
        );
        check(
            Payload::json_text("7"),
            r#"{"reason":"invalid payload","message":"invalid type: integer `7`, expected an object"}"#,
        );
        check(
            Payload::json_text(r#"{"user":"ann"}"#),
            r#"{"reason":"invalid payload","field":"user","message":"invalid type: string \"ann\", expected an object"}"#,
        );
        check(
            Payload::of_event(&[1], true),
            r#"{"reason":"invalid payload","message":"expected JSON, got binary"}"#,
        );
    }
}
