//! A client that was closed or refused, in plain words.

use serde_json::Value;

use super::{heading, traffic};
use crate::cli::plugins::shown;
use crate::server::closes::{Meaning, meaning_of};

/// An entry of `/closes` in plain words.
pub(super) fn as_text(close: &Value) -> String {
    let reason = close["reason"].as_str().unwrap_or("");
    let mut lines = Vec::new();
    if close["outcome"] == "refused" {
        lines.push(heading(close, "refused"));
        let status = match close["status"].as_u64() {
            Some(status) => format!("HTTP {status}"),
            None => "no answer".to_owned(),
        };
        lines.push(format!("  by server, reason {reason}, {status}{}", detail(close)));
    } else {
        lines.push(heading(close, "closed"));
        let code = match close["code"].as_u64() {
            Some(code) => format!("close code {code}"),
            None => "no close code (long polling has none: the next request gets 410)".to_owned(),
        };
        let (by, lasted) = (shown(&close["by"]), shown(&close["lasted_ms"]));
        lines.push(format!(
            "  by {by}, reason {reason}, {code}{}; it was open for {lasted} ms",
            detail(close)
        ));
        lines.push(traffic(close));
    }
    match meaning_of(reason) {
        Some(Meaning { what, remedy }) => {
            lines.push(format!("  What happened: {what}"));
            lines.push(format!("  What to do:    {remedy}"));
        }
        None => lines.push(format!("  This version of bennu does not know the reason `{reason}`.")),
    }
    lines.join("\n")
}

fn detail(close: &Value) -> String {
    match close["detail"].as_str() {
        Some(detail) => format!(" ({detail})"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_says_what_happened_who_did_it_and_what_to_do() {
        let text = as_text(&json!({
            "connection": 7, "peer": "10.0.0.1:5", "mount": "/socket", "socket_id": "user:1", "transport": "websocket",
            "vsn": "2.0.0", "outcome": "closed", "by": "server", "code": 1009, "reason": "message_too_large",
            "detail": "message too big", "lasted_ms": 12,
        }));
        for part in [
            "connection 7, socket id user:1, from 10.0.0.1:5, at /socket, by websocket (vsn 2.0.0)",
            "by server, reason message_too_large, close code 1009 (message too big); it was open for 12 ms",
            "What to do:    Send less per message, or raise `[limits] max_message_bytes`.",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let unknown = as_text(&json!({ "outcome": "closed", "reason": "from_the_future" }));
        assert!(
            unknown.contains("does not know the reason `from_the_future`"),
            "{unknown}"
        );
    }
}
