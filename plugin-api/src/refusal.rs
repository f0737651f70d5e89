//! What is said of an effect that is refused to a plugin: by the host in its log, by the test kit in the test's.

use crate::abi::{effect, error};

/// What the effect is called where people read of it.
#[must_use]
pub fn word(kind: u32) -> &'static str {
    match kind {
        effect::ACCEPT | effect::REFUSE => "answer to a join",
        effect::LATER => "promise",
        effect::REPLY => "reply",
        effect::PUSH => "push",
        effect::BROADCAST => "broadcast",
        effect::TRACK => "track",
        effect::UPDATE => "update",
        effect::UNTRACK => "untrack",
        effect::DESCRIBE => "describe",
        effect::PRESENCE => "push_presence",
        effect::STOP => "stop",
        effect::SEND => "message to itself",
        effect::CANCEL => "cancel",
        effect::STATE => "state",
        effect::CONNECT_ACCEPT | effect::CONNECT_REFUSE => "answer to a connect",
        effect::PROMISE_READ | effect::PROMISE_WRITTEN => "news of a promise",
        _ => "unknown effect",
    }
}

/// Whether the plugin can have meant what is refused with this error: a member may be gone, and nothing is said of that.
#[must_use]
pub fn is_usual(error: i64) -> bool {
    matches!(error, error::TRACKED | error::UNTRACKED | error::GONE)
}

/// Why an effect is refused, whose `name` and topic have so many bytes.
#[must_use]
pub fn why(kind: u32, error: i64, name: usize, topic: usize) -> String {
    let limits = match kind {
        effect::LATER => "max_promises_per_topic",
        effect::SEND => "max_timers_per_topic, max_effects_per_event or max_effect_bytes_per_event",
        _ => "max_effects_per_event or max_effect_bytes_per_event",
    };
    match error {
        error::LIMIT => format!("{limits} is reached"),
        error::FIELD => {
            let (field, bytes) = match kind {
                _ if topic > 255 => ("topic", topic),
                effect::REPLY => ("status", name),
                _ => ("event", name),
            };
            format!("its {field} has {bytes} bytes, a binary message has room for 255")
        }
        error::MISPLACED
            if matches!(
                kind,
                effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE
            ) =>
        {
            "presence of another topic cannot be changed".to_owned()
        }
        other => text(other),
    }
}

/// What an error means, whatever was asked for.
#[must_use]
pub fn text(error: i64) -> String {
    match error {
        error::UNKNOWN => "this host does not know it".to_owned(),
        error::INVALID => "not UTF-8, not JSON, no object where one is needed, or too long".to_owned(),
        error::LIMIT => "a bound of the host is reached".to_owned(),
        error::MISPLACED => "not at this point".to_owned(),
        other => format!("error {other}"),
    }
}
