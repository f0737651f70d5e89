//! Carries the requests of long polling to the I/O thread that owns the session, and its answers back. Both dialects use it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, HttpBody as _};
use axum::response::Response;
use bennu_wire::serializer::Incoming;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Endpoint;
use crate::config::LongPoll;
use crate::runtime::clock;
use crate::server::held::Share;
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
    /// There were none within the window.
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

/// Whether the session is alive: asked before its client's body is read. `None` if its thread does not answer in time.
pub(super) async fn is_alive(endpoint: &Arc<Endpoint>, config: &LongPoll, position: &Position) -> Option<bool> {
    let (reply, found) = oneshot::channel();
    let Some(inbox) = endpoint.inboxes.get(usize::from(position.io_thread)) else {
        return Some(false);
    };
    inbox.push_now(Entry::Session(SessionRequest::Find(position.session, reply)));
    let found = clock::timeout(config.pubsub_timeout, found).await.ok()?;
    Some(found.unwrap_or(false))
}

/// Has messages dispatched. `None` if the outcome is not known in time.
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
/// If it is longer than `limit`, takes longer than the configuration allows, ends too early, or takes too much of what is held for
/// all clients: the `status` of the answer.
pub(super) async fn collect(endpoint: &Endpoint, body: Body, limit: usize) -> Result<(Bytes, Share), u16> {
    let limits = &endpoint.state.routing().config.limits;
    let total = limits.max_inbound_total_bytes;
    let share = endpoint.state.bodies.share();
    match clock::timeout(limits.header_timeout, read(body, limit, share, total)).await {
        Err(_) => Err(408),
        Ok(read) => read,
    }
}

/// Copies the pieces of a body together: each of them may keep a buffer of hyper's that is much larger.
async fn read(mut body: Body, limit: usize, mut share: Share, total: usize) -> Result<(Bytes, Share), u16> {
    if body.size_hint().lower() > limit as u64 {
        return Err(413);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| 400_u16)?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(413);
        }
        let before = bytes.capacity();
        bytes.extend_from_slice(&data);
        if bytes.capacity() > before {
            share.set(bytes.capacity(), total).map_err(|_| 503_u16)?;
        }
    }
    bytes.shrink_to_fit();
    Ok((bytes.into(), share))
}

/// A response with these messages, which counts as unsent until the client has taken it, or 503 if too much is unsent.
pub(super) fn messages(endpoint: &Endpoint, body: Bytes) -> Result<Response, u16> {
    let total = endpoint.state.routing().config.limits.max_outbound_total_bytes;
    let held = endpoint.state.responses.hold(body, total);
    held.map(json).map_err(|_| 503)
}

/// A response that no cache may keep.
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
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::server::held::Pool;

    /// A body in as many pieces as it has bytes. Each of them is a slice of a buffer that is much larger.
    fn pieces(count: usize) -> Body {
        let buffer = Bytes::from(vec![b'x'; 1 << 20]);
        let piece = move |at| Ok::<_, Infallible>(Frame::data(buffer.slice(at..=at)));
        Body::new(StreamBody::new(stream::iter((0..count).map(piece))))
    }

    #[tokio::test]
    async fn a_body_in_small_pieces_is_one_copy_and_counts_with_what_it_takes() {
        const COUNT: usize = 100_000;
        let pool = Arc::new(Pool::default());
        let (body, share) = read(pieces(COUNT), COUNT, pool.share(), COUNT * 2)
            .await
            .expect("short enough");
        assert_eq!(body.len(), COUNT);
        assert_eq!(Vec::from(body).capacity(), COUNT, "it keeps no buffer but its own");
        // Its share is given back with it.
        assert!(pool.hold(Bytes::from(vec![0; COUNT * 2]), COUNT * 2).is_err());
        drop(share);
        assert!(pool.hold(Bytes::from(vec![0; COUNT * 2]), COUNT * 2).is_ok());
    }

    #[tokio::test]
    async fn a_body_is_refused_when_it_is_too_long_or_too_much_is_held() {
        let pool = Arc::new(Pool::default());
        let refused = async |limit, total| read(pieces(1_000), limit, pool.share(), total).await.err();
        assert_eq!(refused(999, 10_000).await, Some(413));
        assert_eq!(refused(1_000, 500).await, Some(503));
        assert_eq!(refused(1_000, 10_000).await, None);
    }

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
