//! How long a connection may take for what: the phases of its life, and what its responses say of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::Bounds;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// A request that leaves its client at the last announced moment still arrives in time.
const MARGIN: Duration = Duration::from_secs(1);

/// The deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the first byte of a request's head to its end; for the first request from the start of the connection.
    pub(super) head: Duration,
    /// From one response to the first byte of the next request, as announced.
    idle: Duration,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The head of a request is being read.
    Head,
    /// A request is being answered.
    Serving,
    /// The next request may come.
    Idle,
}

/// A phase, and how many there were before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) phase: Phase,
    number: u64,
}

/// The phase of one connection. Its stream, its service and its task share it; all three run on one thread.
#[derive(Debug, Default)]
pub(in crate::server::io) struct Phases {
    /// How many there were.
    number: AtomicU64,
    /// The last answer was given before all of its request had come.
    lingers: AtomicBool,
}

/// A request is being answered as long as this is there.
#[derive(Debug)]
pub(super) struct Serving(Arc<Phases>);

/// The body of a response. Its connection is busy until all of it is written to hyper.
#[derive(Debug)]
pub(super) struct Written {
    body: Body,
    _serving: Serving,
}

impl From<&Bounds> for Limits {
    fn from(bounds: &Bounds) -> Self {
        Self {
            head: bounds.head,
            idle: bounds.idle,
        }
    }
}

impl Limits {
    /// How long a phase may last. (There is none for an answer: what takes its time there has deadlines of its own.)
    pub(super) fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Head => self.head,
            Phase::Idle => self.idle + MARGIN,
            Phase::Serving => Duration::ZERO,
        }
    }
}

impl Phases {
    pub(super) fn current(&self) -> Current {
        let number = self.number.load(Ordering::Relaxed);
        let phase = match number % 3 {
            0 => Phase::Head,
            1 => Phase::Serving,
            _ => Phase::Idle,
        };
        Current { phase, number }
    }

    /// Something was read.
    pub(in crate::server::io) fn read(&self) {
        if self.current().phase == Phase::Idle {
            self.next();
        }
    }

    /// A request is there.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        // Its head may have come together with the request before.
        while self.current().phase != Phase::Serving {
            self.next();
        }
        Serving(Arc::clone(self))
    }

    fn next(&self) {
        self.number.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection ends with an answer that its client may read late: it still sends its request.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    /// Whether to wait until the client has read the last answer.
    pub(in crate::server::io) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }
}

impl Serving {
    pub(super) fn until_written(self, body: Body) -> Written {
        Written { body, _serving: self }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.next();
    }
}

impl HttpBody for Written {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the connection ends with the answer to this request, or with HTTP.
pub(super) fn closes<B>(request: &Request<B>) -> bool {
    let says = |name: &str| {
        let values = request.headers().get_all(header::CONNECTION).iter();
        let mut words = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(name))
    };
    says("close") || (request.version() < Version::HTTP_11 && !says("keep-alive"))
}

/// Says how long the connection waits for the next request, or that it ends here.
pub(super) fn announce<B>(response: &mut Response<B>, closes: bool, limits: Limits) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS || response.headers().contains_key(header::CONNECTION) {
        return;
    }
    let headers = response.headers_mut();
    if closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        return;
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    let seconds = format!("timeout={}", limits.idle.as_secs());
    headers.insert(KEEP_ALIVE, HeaderValue::try_from(seconds).expect("digits and letters"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_reads_a_head_serves_and_is_idle_in_turn() {
        let phases = Arc::new(Phases::default());
        let phase = || phases.current().phase;
        phases.read();
        assert_eq!(phase(), Phase::Head, "the first byte of a connection changes nothing");
        let body = phases.serve().until_written(Body::empty());
        phases.read();
        assert_eq!(phase(), Phase::Serving, "a body is read meanwhile");
        drop(body);
        assert_eq!(phase(), Phase::Idle);
        phases.read();
        assert_eq!(phase(), Phase::Head);
    }

    #[test]
    fn a_request_that_came_with_the_one_before_starts_a_new_idle_time() {
        let phases = Arc::new(Phases::default());
        drop(phases.serve());
        let before = phases.current();
        drop(phases.serve());
        let after = phases.current();
        assert_eq!((before.phase, after.phase), (Phase::Idle, Phase::Idle));
        assert_ne!(before, after);
    }

    #[test]
    fn a_connection_that_stays_is_announced_with_its_time_and_one_that_ends_is_not() {
        let limits = Limits {
            head: Duration::from_secs(10),
            idle: Duration::from_millis(75_900),
        };
        for (version, connection, expected) in [
            (Version::HTTP_11, None, Some("timeout=75")),
            (Version::HTTP_11, Some("TE, Close"), None),
            (Version::HTTP_10, None, None),
            (Version::HTTP_10, Some("Keep-Alive"), Some("timeout=75")),
        ] {
            let mut request = Request::new(());
            *request.version_mut() = version;
            if let Some(connection) = connection {
                let connection = HeaderValue::from_static(connection);
                request.headers_mut().insert(header::CONNECTION, connection);
            }
            let mut response = Response::new(());
            announce(&mut response, closes(&request), limits);
            let said = response.headers().get(KEEP_ALIVE).map(|value| value.to_str().unwrap());
            assert_eq!(said, expected, "{version:?} {connection:?}");
            let stays = if expected.is_some() { "keep-alive" } else { "close" };
            assert_eq!(response.headers()[header::CONNECTION], stays);
        }
    }
}
