//! `/connections` and `/closes`: which clients are connected, and why others were closed or not let in; and how an operator closes
//! connections.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Admin;
use super::access::Operator;
use crate::runtime::refused_ids::Full;
use crate::server::closes::{CloseReason, Meaning, Peer, RefusalReason, Wanted, meanings, unix_ms};
use crate::server::io::{Entry, Inboxes, ListRequest, Listed, OpenConnection};
use crate::server::state::State as Server;

/// How many entries a page has, if nobody says how many.
pub(super) const PAGE: usize = 100;
/// How many entries a page may have.
pub(super) const MOST: usize = 1_000;
/// How many steps of I/O threads a request may take. A search that finds little goes on with the cursor.
const STEPS: usize = 200;
/// How long an I/O thread may take for a step.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    wanted: Wanted,
    reason: Option<String>,
    pub(super) limit: Option<usize>,
    cursor: Option<Cursor>,
    pub(super) client: Option<String>,
    refuse_ms: Option<u64>,
}

/// Where the next page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    thread: usize,
    place: usize,
}

/// A page of open connections.
pub(super) struct Page {
    pub(super) connections: Vec<OpenConnection>,
    /// Where the next one begins, unless this is the last.
    pub(super) next: Option<Cursor>,
}

/// An I/O thread has not answered in time.
pub(super) struct Silent(usize);

/// Lists open connections, page by page, in no order that means anything.
pub(super) async fn connections(State(admin): State<Admin>, uri: Uri) -> Response {
    let asked = match Asked::read(uri.query(), &["cursor"]) {
        Ok(asked) => asked,
        Err(mistake) => return mistaken(&mistake),
    };
    let (from, limit) = (asked.cursor.unwrap_or_default(), asked.limit.unwrap_or(PAGE));
    match look(&admin.inboxes, &asked.wanted, from, limit, None).await {
        Ok(Page { connections, next }) => {
            let connections: Vec<_> = connections.iter().map(shown).collect();
            let cursor = next.map(|next| format!("{}.{}", next.thread, next.place));
            Json(json!({ "connections": connections, "cursor": cursor })).into_response()
        }
        Err(silent) => silent.into_response(),
    }
}

/// Asks one I/O thread after the other for connections, and has them closed if there is a reason to. A search that finds little ends
/// after some steps.
pub(super) async fn look(
    inboxes: &Inboxes,
    wanted: &Wanted,
    from: Cursor,
    limit: usize,
    close: Option<CloseReason>,
) -> Result<Page, Silent> {
    let mut cursor = from;
    let mut found = Vec::new();
    for _ in 0..STEPS {
        let Some(inbox) = inboxes.get(cursor.thread) else {
            break;
        };
        let (reply, listed) = oneshot::channel();
        inbox.push_now(Entry::List(ListRequest {
            from: cursor.place,
            most: limit - found.len(),
            wanted: wanted.clone(),
            close,
            reply,
        }));
        let Ok(Ok(Listed { connections, next })) = tokio::time::timeout(PATIENCE, listed).await else {
            return Err(Silent(cursor.thread));
        };
        found.extend(connections);
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
    let more = inboxes.get(cursor.thread).is_some();
    Ok(Page {
        connections: found,
        next: more.then_some(cursor),
    })
}

/// Lists the last clients that were closed or refused, the newest first.
pub(super) async fn closes(State(admin): State<Admin>, uri: Uri) -> Response {
    let asked = match Asked::read(uri.query(), &["reason"]) {
        Ok(asked) => asked,
        Err(mistake) => return mistaken(&mistake),
    };
    let limit = asked.limit.unwrap_or(PAGE);
    let (closes, kept) = closed(&admin.state, &asked.wanted, asked.reason.as_deref(), limit);
    let most = admin.state.routing().config.admin.max_closes;
    Json(json!({ "closes": closes, "kept": kept, "max_closes": most })).into_response()
}

/// The last clients that were closed or refused, and how many are remembered in all.
pub(super) fn closed(server: &Server, wanted: &Wanted, reason: Option<&str>, limit: usize) -> (Vec<Value>, usize) {
    let (found, kept) = server.closes.newest(
        |record| {
            wanted.includes(record.connection, record.socket_id(), record.peer)
                && reason.is_none_or(|reason| reason == record.reason())
        },
        limit,
    );
    (found.iter().map(|record| record.shown()).collect(), kept)
}

/// What each reason means, and what to do.
pub(super) async fn reasons() -> Json<Value> {
    let shown = |(name, Meaning { what, remedy }): (&'static str, Meaning)| {
        (name.to_owned(), json!({ "what": what, "remedy": remedy }))
    };
    Json(Value::Object(meanings().map(shown).collect()))
}

/// Closes the connections that the query chooses, and says how many there were. With `refuse_ms`, a socket id is kept away for a
/// while.
pub(super) async fn disconnect(
    State(admin): State<Admin>,
    Extension(Operator(operator)): Extension<Operator>,
    uri: Uri,
) -> Response {
    let asked = match Asked::read(uri.query(), &["refuse_ms"]).and_then(|asked| refusal(&admin, &asked).map(|()| asked))
    {
        Ok(asked) => asked,
        Err(mistake) => return mistaken(&mistake),
    };
    let mut count = 0;
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        match look(
            &admin.inboxes,
            &asked.wanted,
            cursor,
            MOST,
            Some(CloseReason::DisconnectedByOperator),
        )
        .await
        {
            Ok(page) => {
                count += page.connections.len();
                from = page.next;
            }
            Err(silent) => return silent.into_response(),
        }
    }
    let (whom, refuse_ms) = (asked.wanted.to_string(), asked.refuse_ms);
    tracing::info!(
        by = &*operator,
        whom,
        count,
        refuse_ms,
        "clients disconnected by an operator"
    );
    let clients = if count == 1 { "client" } else { "clients" };
    let away = refuse_ms.map_or(String::new(), |wait| format!(", kept away for {} s", wait / 1_000));
    let text = format!("{count} {clients} disconnected ({whom}){away}");
    admin.state.changes.note_by(&operator, None, &text);
    admin.forget();
    Json(json!({ "disconnected": count })).into_response()
}

/// Checks a request to disconnect, and keeps its socket id away if it asks for that.
fn refusal(admin: &Admin, asked: &Asked) -> Result<(), String> {
    if asked.wanted == Wanted::default() {
        return Err("say whom to disconnect: `socket_id`, `connection` or `peer`".to_owned());
    }
    let Some(refuse_ms) = asked.refuse_ms else {
        return Ok(());
    };
    let routing = admin.state.routing();
    let (wait, api) = (Duration::from_millis(refuse_ms), &routing.config.api);
    let socket_id = asked.wanted.socket_id.clone();
    let socket_id = socket_id.ok_or("`refuse_ms` needs a `socket_id`")?;
    if wait > api.max_refuse {
        let most = api.max_refuse.as_millis();
        return Err(format!("`refuse_ms` may be {most} at most (`[api] max_refuse_ms`)"));
    }
    let (refused, most) = (&admin.state.hub.pubsub.refused, api.max_refused_ids);
    // Before anybody is closed: whoever comes back at once is refused already.
    refused
        .refuse(socket_id.clone(), wait, most, Instant::now())
        .map_err(|Full| format!("{most} socket ids are refused already (`[api] max_refused_ids`)"))?;
    if let Some(homes) = admin.state.hub.homes() {
        homes.refuse(socket_id, wait);
    }
    Ok(())
}

pub(super) fn mistaken(mistake: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{mistake}\n")).into_response()
}

impl IntoResponse for Silent {
    fn into_response(self) -> Response {
        let text = format!("I/O thread {} does not answer\n", self.0);
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

pub(super) fn shown(connection: &OpenConnection) -> Value {
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
    pub(super) fn read(query: Option<&str>, more: &[&str]) -> Result<Self, String> {
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
                "client" if more.contains(&name) => asked.client = Some(value.into_owned()),
                "refuse_ms" if more.contains(&name) => asked.refuse_ms = Some(number(name, &value)?),
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
