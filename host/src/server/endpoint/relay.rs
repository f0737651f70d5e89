//! Carries the requests of long polling to the I/O thread that owns the session, and its answers back. Both dialects use it. If the
//! session is at another node of the cluster, [`elsewhere`](super::elsewhere) carries them there.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, HttpBody as _};
use axum::response::Response;
use bennu_wire::dialect::Dialect;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Endpoint;
use super::elsewhere::Elsewhere;
use crate::config::LongPoll;
use crate::runtime::clock;
use crate::server::held::Share;
use crate::server::io::{Entry, SessionRequest};
use crate::server::socket::NewSocket;
use crate::server::transport::longpoll::body::{self, BodyLimits};
use crate::server::transport::longpoll::token::Position;
use crate::server::transport::longpoll::{PollAnswer, PollRequest, PublishRequest, Published};

/// The session that a request belongs to, here or at another node.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// The path of its mount.
    pub(super) mount: &'a str,
    pub(super) dialect: Dialect,
    pub(super) config: &'a LongPoll,
    /// From the token of the request.
    pub(super) position: &'a Position,
}

/// The outcome of a poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// There are messages, as [`body::message`] gives them, up to this position.
    Messages(Vec<Bytes>, u64),
    /// There were none within the window.
    Nothing,
    /// The session has ended.
    Gone,
    /// The node of the session cannot be asked now.
    Unavailable,
}

/// Why a session has not taken a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failed {
    /// It has ended.
    Gone,
    /// The outcome is not known in time.
    Late,
    /// The node of the session cannot be asked now.
    Unavailable,
    /// The body holds no messages: the `status` to answer with.
    Body(u16),
}

/// The outcome of a POST.
pub(super) type Posted = Result<Published, Failed>;

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

impl Session<'_> {
    /// Acks what the client has received, and waits for more until the window ends.
    pub(super) async fn poll(&self) -> Polled {
        match self.elsewhere() {
            Some(node) => node.poll(self).await,
            None => self.poll_here().await,
        }
    }

    /// Looks whether the session is alive, before its client's body is read.
    ///
    /// # Errors
    ///
    /// If it is not, or nobody says so in time.
    pub(super) async fn find(&self) -> Result<(), Failed> {
        match self.elsewhere() {
            Some(node) => node.find(self).await,
            None => self.find_here().await,
        }
    }

    /// Has the messages of a body dispatched: one a line, or one.
    ///
    /// # Errors
    ///
    /// If it holds none, or the outcome is not known in time.
    pub(super) async fn publish(&self, has_lines: bool, body: Bytes) -> Posted {
        match self.elsewhere() {
            Some(node) => node.publish(self, has_lines, &body).await,
            None => self.publish_here(has_lines, body).await,
        }
    }

    /// The cluster, if the session is at another node.
    fn elsewhere(&self) -> Option<Elsewhere<'_>> {
        let is_here = self.position.node == self.endpoint.node;
        { self.endpoint.state.cluster.get() }
            .filter(|_| !is_here)
            .map(|cluster| Elsewhere(cluster))
    }

    async fn poll_here(&self) -> Polled {
        let (reply, answer) = oneshot::channel();
        let request = SessionRequest::Poll(PollRequest {
            session: self.position.session,
            position: self.position.last,
            reply,
        });
        if self.tell(request).is_none() {
            return Polled::Gone;
        }
        let end = Instant::now() + self.config.window;
        match timeout_at(end, answer).await {
            Ok(Ok(PollAnswer::Messages(answer))) => {
                let messages = answer.messages.iter().map(body::message);
                Polled::Messages(messages.collect(), answer.position)
            }
            Ok(Ok(PollAnswer::Gone)) => Polled::Gone,
            // A newer poll has taken over, so this one gets nothing. Most likely its client is gone.
            Ok(Err(_)) => {
                sleep_until(end).await;
                Polled::Nothing
            }
            Err(_) => Polled::Nothing,
        }
    }

    async fn find_here(&self) -> Result<(), Failed> {
        let (reply, found) = oneshot::channel();
        self.tell(SessionRequest::Find(self.position.session, reply))
            .ok_or(Failed::Gone)?;
        let found = clock::timeout(self.config.pubsub_timeout, found).await;
        let found = found.map_err(|_| Failed::Late)?;
        found.unwrap_or(false).then_some(()).ok_or(Failed::Gone)
    }

    async fn publish_here(&self, has_lines: bool, body: Bytes) -> Posted {
        let limits = BodyLimits {
            message_bytes: self.endpoint.state.routing().config.limits.max_message_bytes,
            lines: self.config.max_batch_messages,
        };
        let frames = body::messages(has_lines, &body, limits).map_err(|error| Failed::Body(error.status()))?;
        // Each line was copied.
        drop(body);
        let (reply, published) = oneshot::channel();
        let request = SessionRequest::Publish(PublishRequest {
            session: self.position.session,
            position: self.position.last,
            frames,
            reply,
        });
        self.tell(request).ok_or(Failed::Gone)?;
        let published = clock::timeout(self.config.pubsub_timeout, published).await;
        Ok(published.map_err(|_| Failed::Late)?.unwrap_or(Published::Gone))
    }

    /// Gives a request to the I/O thread of the session. `None`: there is no such thread.
    fn tell(&self, request: SessionRequest) -> Option<()> {
        let inbox = self.endpoint.inboxes.get(usize::from(self.position.io_thread))?;
        inbox.push_now(Entry::Session(request));
        Some(())
    }
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

/// The time for tokens of sessions, in milliseconds. No session outlives the process, so a clock that somebody sets ends none.
pub(super) fn now_ms() -> u64 {
    static START: LazyLock<std::time::Instant> = LazyLock::new(clock::now);
    u64::try_from(clock::since(*START).as_millis()).unwrap_or(u64::MAX)
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
