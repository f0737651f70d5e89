//! The words for a refused effect: in the host's log, and in the log of the test kit.

use crate::abi::{effect, error};

/// The name of an effect in log lines.
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
        effect::SEND_TO => "message to another topic",
        effect::CANCEL => "cancel",
        effect::FORGET => "forget",
        effect::STATE => "state",
        effect::CONNECT_ACCEPT | effect::CONNECT_REFUSE => "answer to a connect",
        effect::PROMISE_READ | effect::PROMISE_WRITTEN => "news of a promise",
        effect::SPAN_BEGIN | effect::SPAN_END => "span",
        _ => "unknown effect",
    }
}

/// Whether an effect may be refused with this error though the plugin is right: a member may be gone, for example. Nothing logs
/// that.
#[must_use]
pub fn is_usual(error: i64) -> bool {
    matches!(error, error::TRACKED | error::UNTRACKED | error::GONE)
}

/// Why an effect is refused. `name` and `topic` are the lengths of these in bytes.
#[must_use]
pub fn why(kind: u32, error: i64, name: usize, topic: usize) -> String {
    let limits = match kind {
        effect::LATER => "max_promises_per_topic",
        effect::TRACK | effect::UPDATE | effect::DESCRIBE => {
            "max_presence_bytes, max_effects_per_event or max_effect_bytes_per_event"
        }
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
            format!("its {field} has {bytes} bytes; a binary message has room for 255")
        }
        error::MISPLACED
            if matches!(
                kind,
                effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE
            ) =>
        {
            "a plugin cannot change the presence of another topic".to_owned()
        }
        other => text(other),
    }
}

/// What an error means for any effect.
#[must_use]
pub fn text(error: i64) -> String {
    match error {
        error::UNKNOWN => "this host does not know it".to_owned(),
        error::INVALID => {
            "it is not UTF-8, not JSON, not a JSON object although one is required, or too long".to_owned()
        }
        error::LIMIT => "a limit of the host is reached".to_owned(),
        error::MISPLACED => "it is not allowed at this point".to_owned(),
        other => format!("error {other}"),
    }
}
