//! What was sent, and how it is looked through.

use std::fmt;

use super::body::{self, Expect};
use super::core::Message;

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9} `{}` {}", self.kind, self.event, self.body)
    }
}

pub(super) fn position(messages: &[Message], event: &str, payload: &impl Expect) -> Option<usize> {
    let is = |message: &Message| message.event == event && body::is(&message.body, payload);
    messages.iter().position(is)
}

pub(super) fn listed(messages: &[Message]) -> String {
    if messages.is_empty() {
        return " nothing".to_owned();
    }
    messages.iter().map(|message| format!("\n    {message}")).collect()
}
