//! `/connections` and `/closes`: which clients are connected, and why others were closed or not let in.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Admin;
use crate::server::closes::{CloseReason, Peer, RefusalReason, Wanted, unix_ms};
use crate::server::io::{Entry, ListRequest, Listed, OpenConnection};

/// How many entries a page has, if nobody says how many.
const PAGE: usize = 100;
/// How many entries a page may have.
const MOST: usize = 1_000;
/// How many steps of I/O threads a request may take. A search that finds little goes on with the cursor.
const STEPS: usize = 200;
/// How long an I/O thread may take for a step.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    wanted: Wanted,
    reason: Option<String>,
    limit: Option<usize>,
    cursor: Option<Cursor>,
}

/// Where the next page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    thread: usize,
    place: usize,
}

/// Lists open connections, page by page, in no order that means anything.
pub(super) async fn connections(State(admin): State<Admin>, uri: Uri) -> Response {
    let asked = match Asked::read(uri.query(), &["cursor"]) {
        Ok(asked) => asked,
        Err(mistake) => return (StatusCode::BAD_REQUEST, format!("{mistake}\n")).into_response(),
    };
    let limit = asked.limit.unwrap_or(PAGE);
    let mut cursor = asked.cursor.unwrap_or_default();
    let mut found = Vec::new();
    for _ in 0..STEPS {
        let Some(inbox) = admin.inboxes.get(cursor.thread) else {
            break;
        };
        let (reply, listed) = oneshot::channel();
        inbox.push_now(Entry::List(ListRequest {
            from: cursor.place,
            most: limit - found.len(),
            wanted: asked.wanted.clone(),
            reply,
        }));
        let Ok(Ok(Listed { connections, next })) = tokio::time::timeout(PATIENCE, listed).await else {
            let text = format!("I/O thread {} does not answer\n", cursor.thread);
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        found.extend(connections.iter().map(shown));
        cursor = match next {
            Some(place) => Cursor { place, ..cursor },
            None => Cursor {
                thread: cursor.thread + 1,
                place: 0,
            },
        };
        if found.len() >= limit {
            break;
        }
    }
    let more = admin.inboxes.get(cursor.thread).is_some();
    let cursor = more.then(|| format!("{}.{}", cursor.thread, cursor.place));
    Json(json!({ "connections": found, "cursor": cursor })).into_response()
}

/// Lists the last clients that were closed or refused, the newest first.
pub(super) async fn closes(State(admin): State<Admin>, uri: Uri) -> Response {
    let asked = match Asked::read(uri.query(), &["reason"]) {
        Ok(asked) => asked,
        Err(mistake) => return (StatusCode::BAD_REQUEST, format!("{mistake}\n")).into_response(),
    };
    let Asked {
        wanted, reason, limit, ..
    } = asked;
    let (found, kept) = admin.state.closes.newest(
        |record| {
            wanted.includes(record.connection, record.socket_id(), record.peer)
                && reason.as_deref().is_none_or(|reason| reason == record.reason())
        },
        limit.unwrap_or(PAGE),
    );
    let closes: Vec<Value> = found.iter().map(|record| record.shown()).collect();
    let most = admin.state.routing().config.admin.max_closes;
    Json(json!({ "closes": closes, "kept": kept, "max_closes": most })).into_response()
}

fn shown(connection: &OpenConnection) -> Value {
    json!({
        "connection": connection.number, "peer": connection.peer, "mount": connection.mount,
        "socket_id": connection.socket_id.as_deref(), "transport": connection.transport, "vsn": connection.vsn,
        "since_unix_ms": unix_ms().saturating_sub(connection.open_ms), "open_ms": connection.open_ms,
        "silent_ms": connection.silent_ms, "topics": connection.topics, "unsent_bytes": connection.unsent_bytes,
        "messages_in": connection.traffic.messages_in, "bytes_in": connection.traffic.bytes_in,
        "messages_out": connection.traffic.messages_out, "bytes_out": connection.traffic.bytes_out,
    })
}

impl Asked {
    /// Reads a query. Besides what both pages take, it may have the parameters in `more`.
    fn read(query: Option<&str>, more: &[&str]) -> Result<Self, String> {
        let mut asked = Self::default();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| format!("`{name}` is not UTF-8"))?;
            match name {
                "connection" => asked.wanted.connection = Some(number(name, &value)?),
                "socket_id" => asked.wanted.socket_id = Some((&*value).into()),
                "peer" => {
                    let peer = Peer::parse(&value);
                    asked.wanted.peer = Some(peer.ok_or("`peer` is not an IP address, with or without a port")?);
                }
                "limit" => {
                    let limit = usize::try_from(number(name, &value)?).unwrap_or(usize::MAX);
                    asked.limit = Some(limit.clamp(1, MOST));
                }
                "reason" if more.contains(&name) => asked.reason = Some(reason(&value)?),
                "cursor" if more.contains(&name) => {
                    asked.cursor = Some(Cursor::parse(&value).ok_or("`cursor` is not the `cursor` of a page")?);
                }
                _ => {
                    let known = ["connection", "socket_id", "peer", "limit"];
                    let known: Vec<_> = known.iter().chain(more).copied().collect();
                    return Err(format!(
                        "there is no parameter `{name}`; there are: {}",
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(asked)
    }
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("`{name}` is not a number"))
}

/// A reason that clients can be closed or refused for.
fn reason(name: &str) -> Result<String, String> {
    let closed = CloseReason::ALL.map(CloseReason::name);
    let refused = RefusalReason::ALL.map(RefusalReason::name);
    let all: Vec<_> = closed.into_iter().chain(refused).collect();
    match all.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("there is no reason `{name}`; there are: {}", all.join(", "))),
    }
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (thread, place) = text.split_once('.')?;
        Some(Self {
            thread: thread.parse().ok()?,
            place: place.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(query: &str, why: &str) {
        let refused = Asked::read(Some(query), &["cursor", "reason"]).expect_err("refused");
        assert!(refused.contains(why), "{query}: {refused}");
    }

    #[test]
    fn a_query_is_read_with_its_escapes() {
        let query = "socket_id=user%3A1+a&peer=127.0.0.1&limit=5000&cursor=1.20&connection=7";
        let asked = Asked::read(Some(query), &["cursor"]).expect("a query");
        assert_eq!(asked.wanted.socket_id.as_deref(), Some("user:1 a"));
        assert_eq!(asked.wanted.peer, Peer::parse("127.0.0.1"));
        assert_eq!((asked.wanted.connection, asked.limit), (Some(7), Some(MOST)));
        assert_eq!(asked.cursor, Some(Cursor { thread: 1, place: 20 }));
        assert_eq!(Asked::read(None, &[]), Ok(Asked::default()));
    }

    #[test]
    fn a_mistake_in_a_query_is_named() {
        check_refused(
            "sokcet_id=1",
            "there is no parameter `sokcet_id`; there are: connection, socket_id, peer",
        );
        check_refused("peer=user:1", "`peer` is not an IP address");
        check_refused("limit=many", "`limit` is not a number");
        check_refused("cursor=1", "`cursor` is not");
        check_refused("reason=idel", "there is no reason `idel`; there are: client_closed,");
        check_refused("socket_id=%ff", "`socket_id` is not UTF-8");
    }
}
