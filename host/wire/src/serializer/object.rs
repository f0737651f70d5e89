//! Finds the values in messages that are JSON objects, as in version 1 and before.

use super::json::{self, Fault, Scanner};

/// The error for a message that lacks a key.
pub(super) const MISSING: Fault = "a message has the keys topic, event, payload and ref";

/// The values of one message, as slices of its text. If a key is repeated, the last one counts.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) event: Option<&'a str>,
    pub(super) payload: Option<&'a str>,
    pub(super) msg_ref: Option<&'a str>,
    pub(super) join_ref: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Finds them in the text of one object.
    ///
    /// # Errors
    ///
    /// If the text is no JSON object.
    pub(super) fn of(text: &'a str) -> Result<Self, Fault> {
        let mut scanner = Scanner::new(text);
        if !scanner.take(b'{') {
            return Err("a message is a JSON object");
        }
        let mut parts = Self::default();
        if !scanner.take(b'}') {
            loop {
                let key = json::unescape(&text[scanner.key()?])?;
                let value = Some(&text[scanner.value()?]);
                match &*key {
                    "topic" => parts.topic = value,
                    "event" => parts.event = value,
                    "payload" => parts.payload = value,
                    "ref" => parts.msg_ref = value,
                    "join_ref" => parts.join_ref = value,
                    _ => {}
                }
                if scanner.take(b'}') {
                    break;
                }
                if !scanner.take(b',') {
                    return Err("expected a comma or the end of the object");
                }
            }
        }
        if scanner.peek().is_some() {
            return Err("expected the end of the message");
        }
        Ok(parts)
    }
}
