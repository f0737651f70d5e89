//! Carries the requests of long polling to the I/O thread that owns the session, and its answers back. Both dialects use it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use bennu_wire::serializer::Incoming;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Endpoint;
use crate::config::LongPoll;
use crate::runtime::clock;
use crate::server::io::{Entry, SessionRequest};
use crate::server::socket::NewSocket;
use crate::server::transport::Frame;
use crate::server::transport::longpoll::session::Answer;
use crate::server::transport::longpoll::token::Position;
use crate::server::transport::longpoll::{PollAnswer, PollRequest, PublishRequest, Published};

/// The outcome of a poll.
pub(super) enum Polled {
    /// There are messages.
    Messages(Answer<Frame>),
    /// None came within the window.
    Nothing,
    /// The session has ended.
    Gone,
}

/// Opens a session on an I/O thread. `None` if there is no room for it.
pub(super) async fn open(endpoint: &Arc<Endpoint>, thread: u8, socket: NewSocket) -> Option<Position> {
    let (reply, opened) = oneshot::channel();
    endpoint
        .inboxes
        .get(usize::from(thread))?
        .push_now(Entry::Session(SessionRequest::Open(socket, reply)));
    Some(Position {
        node: endpoint.node,
        io_thread: u16::from(thread),
        session: opened.await.ok()??,
        last: 0,
    })
}

/// Acks what the client has received, and waits for more until the window ends.
pub(super) async fn poll(endpoint: &Arc<Endpoint>, config: &LongPoll, position: &Position) -> Polled {
    let (reply, answer) = oneshot::channel();
    let Some(inbox) = endpoint.inboxes.get(usize::from(position.io_thread)) else {
        return Polled::Gone;
    };
    inbox.push_now(Entry::Session(SessionRequest::Poll(PollRequest {
        session: position.session,
        position: position.last,
        reply,
    })));
    let end = Instant::now() + config.window;
    match timeout_at(end, answer).await {
        Ok(Ok(PollAnswer::Messages(answer))) => Polled::Messages(answer),
        Ok(Ok(PollAnswer::Gone)) => Polled::Gone,
        // A newer poll has taken over, so this one gets nothing. Most likely its client is gone.
        Ok(Err(_)) => {
            sleep_until(end).await;
            Polled::Nothing
        }
        Err(_) => Polled::Nothing,
    }
}

/// Whether a session is there. Asked before the body of a POST is read: a client whose session is gone has to know that first
/// of all, and the server takes in no body for it.
pub(super) async fn is_there(endpoint: &Arc<Endpoint>, config: &LongPoll, position: &Position) -> bool {
    publish(endpoint, config, position, Vec::new()).await != Some(Published::Gone)
}

/// Has the session dispatch messages. `None` if it does not answer in time.
pub(super) async fn publish(
    endpoint: &Arc<Endpoint>,
    config: &LongPoll,
    position: &Position,
    frames: Vec<Incoming>,
) -> Option<Published> {
    let (reply, published) = oneshot::channel();
    let Some(inbox) = endpoint.inboxes.get(usize::from(position.io_thread)) else {
        return Some(Published::Gone);
    };
    inbox.push_now(Entry::Session(SessionRequest::Publish(PublishRequest {
        session: position.session,
        position: position.last,
        frames,
        reply,
    })));
    let published = clock::timeout(config.pubsub_timeout, published).await.ok()?;
    Some(published.unwrap_or(Published::Gone))
}

/// Reads the body of a request.
///
/// # Errors
///
/// If it is longer than `limit`, takes longer than `within`, or ends too early: the `status` to answer with.
pub(super) async fn collect(body: Body, limit: usize, within: Duration) -> Result<Bytes, u16> {
    match clock::timeout(within, Limited::new(body, limit).collect()).await {
        Err(_) => Err(408),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(413),
        Ok(Err(_)) => Err(400),
    }
}

/// A JSON response, which no cache may keep.
pub(super) fn json(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The CORS headers of a response: any page may read it, and send the headers that it asked for.
pub(super) fn cors(asked: &HeaderMap) -> HeaderMap {
    let headers: Vec<&[u8]> = asked
        .get_all(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // What came in header values fits in one.
    let headers = HeaderValue::from_bytes(&headers.join(&b", "[..])).unwrap_or(HeaderValue::from_static(""));
    HeaderMap::from_iter([
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("get, post, options"),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_headers_that_a_preflight_asks_for_are_allowed() {
        let name = header::ACCESS_CONTROL_REQUEST_HEADERS;
        let mut asked = HeaderMap::new();
        assert_eq!(cors(&asked)[header::ACCESS_CONTROL_ALLOW_HEADERS], "");
        asked.append(name.clone(), HeaderValue::from_static("X-A"));
        asked.append(name, HeaderValue::from_static("X-B"));
        assert_eq!(cors(&asked)[header::ACCESS_CONTROL_ALLOW_HEADERS], "X-A, X-B");
    }
}
