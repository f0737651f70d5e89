//! What one client says to the others: an event of its own and a payload, inside of the event `broadcast`.
//!
//! With a JSON payload it is JSON in the server, `{"type":"broadcast","event":…,"payload":…}`, whatever brought it. With bytes it
//! is an *envelope*, a binary payload: the lengths of event and metadata in a byte each, both texts, and the bytes. A plugin
//! passes on either without a look inside.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use crate::message::Payload;
use crate::serializer::json::{self, Scanner};

/// The lengths at the start of an envelope.
const LENGTHS: usize = 2;
/// What `type` is.
const BROADCAST: &str = "\"broadcast\"";

/// One of them, as slices of where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserBroadcast<'a> {
    /// The client's own event.
    pub(super) event: Cow<'a, str>,
    /// Metadata, a JSON object; `None`: there is none.
    pub(super) meta: Option<&'a str>,
    /// What it says.
    pub(super) content: Content<'a>,
}

/// The payload inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// JSON text.
    Json(&'a str),
    /// Anything.
    Bytes(&'a [u8]),
}

impl<'a> UserBroadcast<'a> {
    /// Reads it out of the payload of a `broadcast`. `None`: it is something else, which can only be sent as it is.
    pub(super) fn of(payload: &'a Payload) -> Option<Self> {
        match payload {
            Payload::Json(json) => Self::of_json(std::str::from_utf8(json).ok()?),
            Payload::Binary(envelope) => Self::of_envelope(envelope),
        }
    }

    fn of_json(text: &'a str) -> Option<Self> {
        let (mut event, mut meta, mut content, mut kind) = (None, None, None, BROADCAST);
        json::members(text, |key, value| {
            match key {
                "type" => kind = value,
                "event" => event = Some(value),
                "payload" => content = Some(value),
                "meta" => meta = Some(value),
                _ => return false,
            }
            true
        })?;
        let event = event.filter(|event| event.starts_with('"'))?;
        if kind != BROADCAST {
            return None;
        }
        Some(Self {
            event: json::unescape(event).ok()?,
            meta,
            content: Content::Json(content?),
        })
    }

    fn of_envelope(envelope: &'a [u8]) -> Option<Self> {
        let (&[event, meta], rest) = envelope.split_first_chunk::<LENGTHS>()?;
        let (event, rest) = rest.split_at_checked(event.into())?;
        let (meta, bytes) = rest.split_at_checked(meta.into())?;
        let meta = std::str::from_utf8(meta).ok()?;
        Some(Self {
            event: std::str::from_utf8(event).ok()?.into(),
            meta: (!meta.is_empty()).then_some(meta),
            content: Content::Bytes(bytes),
        })
    }

    /// As the server has it.
    ///
    /// # Errors
    ///
    /// If the metadata is no JSON object, the payload is no JSON although it should be, or bytes have an event or metadata of
    /// more than 255 bytes.
    pub(super) fn into_payload(self) -> Result<Payload, &'static str> {
        if self
            .meta
            .is_some_and(|meta| !is_value(meta) || !meta.trim_start().starts_with('{'))
        {
            return Err("the metadata of a broadcast is a JSON object");
        }
        match self.content {
            Content::Json(json) if is_value(json) => {
                let text = self.text(json);
                // As a part of it, the payload is nested one level deeper.
                if is_value(&text) {
                    Ok(Payload::Json(text.into()))
                } else {
                    Err("nested too deeply")
                }
            }
            Content::Json(_) => Err("a broadcast that is said to be JSON is not"),
            Content::Bytes(bytes) => self.envelope(bytes),
        }
    }

    fn envelope(&self, bytes: &[u8]) -> Result<Payload, &'static str> {
        let meta = self.meta.unwrap_or("");
        let len =
            |text: &str| u8::try_from(text.len()).map_err(|_| "the event of a binary broadcast has at most 255 bytes");
        let lengths = [len(&self.event)?, len(meta)?];
        let mut envelope = BytesMut::with_capacity(LENGTHS + self.event.len() + meta.len() + bytes.len());
        envelope.put_slice(&lengths);
        envelope.put_slice(self.event.as_bytes());
        envelope.put_slice(meta.as_bytes());
        envelope.put_slice(bytes);
        Ok(Payload::Binary(envelope.freeze()))
    }

    /// As a JSON object, for clients that have only text: bytes become `{"_binary":"…"}`, in standard base64.
    pub(super) fn as_text(&self) -> Payload {
        let text = match self.content {
            Content::Json(json) => self.text(json),
            Content::Bytes(bytes) => self.text(&format!(r#"{{"_binary":"{}"}}"#, STANDARD.encode(bytes))),
        };
        Payload::Json(text.into())
    }

    fn text(&self, payload: &str) -> String {
        let event = json::escape(&self.event);
        let mut text = String::with_capacity(payload.len() + event.len() + self.meta.map_or(0, str::len) + 64);
        for part in [r#"{"type":"broadcast","event":""#, &event, r#"","payload":"#, payload] {
            text.push_str(part);
        }
        if let Some(meta) = self.meta {
            text.push_str(r#","meta":"#);
            text.push_str(meta);
        }
        text.push('}');
        text
    }
}

/// The payload of a `broadcast` that brings bytes from a backend.
///
/// # Errors
///
/// If the event has more than 255 bytes.
pub(super) fn of_bytes(event: &str, bytes: &[u8]) -> Result<Payload, &'static str> {
    let broadcast = UserBroadcast {
        event: event.into(),
        meta: None,
        content: Content::Bytes(bytes),
    };
    broadcast.into_payload()
}

/// The payload of a `broadcast` that brings JSON from a backend.
///
/// # Errors
///
/// If it is not JSON, or nested too deeply.
pub(super) fn of_json(event: &str, json: &Bytes) -> Result<Payload, &'static str> {
    let text = std::str::from_utf8(json).map_err(|_| "the payload is not UTF-8")?;
    let broadcast = UserBroadcast {
        event: event.into(),
        meta: None,
        content: Content::Json(text),
    };
    broadcast.into_payload()
}

fn is_value(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.value().is_ok() && scanner.peek().is_none()
}
