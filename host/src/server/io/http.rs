//! HTTP on an I/O thread: hyper reads requests, and the axum router answers them.
//!
//! The head of a request has a deadline. Between two requests a connection has an idle time of its own, which each response
//! announces: load balancers keep connections for later requests, and a request that meets a closing connection is lost.

mod deadline;
mod keep_alive;
mod open;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::CONNECTION;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;

pub(super) use self::deadline::Deadline;
pub(super) use self::keep_alive::Phases;
use self::keep_alive::{Limits, Phase};
use self::open::{Opened, open};
use super::{Accepted, HttpStream};
use crate::server::ambiguous::HadContentLength;
use crate::server::closes::{RefusalReason, Refused};
use crate::server::state::State;

/// Who sent a request, and which thread serves it. Each request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The I/O thread that the connection belongs to.
    pub(crate) thread: u8,
    /// The client's address, as trusted proxies say it.
    pub(crate) peer: SocketAddr,
    /// Whether the client speaks TLS, with the server or with a trusted proxy.
    pub(crate) is_secure: bool,
    /// The number of the connection that the request may become.
    pub(crate) connection: u64,
    /// Its address has more connections than it may have.
    pub(crate) is_crowded: bool,
}

/// The HTTP of one thread.
#[derive(Debug)]
pub(super) struct Http {
    thread: u8,
    state: Arc<State>,
    /// Shared by all connections of the thread.
    app: Router,
}

impl Http {
    pub(super) fn new(thread: u8, state: Arc<State>, app: Router) -> Self {
        Self { thread, state, app }
    }

    /// Serves one connection until it ends or becomes a WebSocket. On the thread's own runtime.
    pub(super) fn serve(&self, accepted: Accepted) {
        let thread = self.thread;
        let (app, held) = (
            TowerToHyperService::new(self.app.clone()),
            Held::new(&self.state, thread),
        );
        let limits = &self.state.routing().config.limits;
        let bounds = Bounds {
            max_head_bytes: limits.max_header_bytes,
            head: limits.header_timeout,
            idle: limits.keep_alive_timeout,
            write: limits.response_timeout,
        };
        let state = Arc::clone(&self.state);
        tokio::task::spawn_local(async move {
            let _held = held;
            let peer = accepted.peer;
            let opened = match open(accepted, bounds, &state).await {
                Ok(opened) => opened,
                Err(Some(refused)) => return state.note_refused(peer, refused),
                Err(None) => return,
            };
            let Opened {
                stream,
                sender,
                is_trusted,
                place,
                is_crowded,
            } = opened;
            let place = place.map(Arc::new);
            let notes = Arc::clone(&state);
            let answer = move |mut request: Request<Incoming>| {
                let closes = state.is_stopping();
                let sender = sender.behind(&state.routing().config.proxies, is_trusted, request.headers());
                request.extensions_mut().insert(Client {
                    thread,
                    peer: sender.address,
                    is_secure: sender.is_secure,
                    connection: state.next_connection(),
                    is_crowded,
                });
                if let Some(place) = &place {
                    request.extensions_mut().insert(Arc::clone(place));
                }
                let answer = app.call(request);
                async move {
                    let Ok(response) = answer.await;
                    (response, closes || is_crowded)
                }
            };
            let peer = sender.address;
            match serve(stream, bounds, answer, std::future::pending()).await {
                Ended::NoHttp(what) => {
                    notes.note_refused(peer, Refused::new(RefusalReason::BadHttp, 400, Some(&what)));
                }
                Ended::SlowHead => notes.note_refused(peer, Refused::new(RefusalReason::RequestTimeout, None, None)),
                Ended::Otherwise => {}
            }
        });
    }
}

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The size of a request's head.
    pub(crate) max_head_bytes: usize,
    /// How long the head of a request may take; for the first request from the start of the connection.
    pub(crate) head: Duration,
    /// How long the connection may wait for its next request.
    pub(crate) idle: Duration,
    /// How long the client may take nothing of a response.
    pub(crate) write: Duration,
}

/// How a connection has ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// What came is not HTTP.
    NoHttp(String),
    /// The head of a request took too long.
    SlowHead,
    /// With an answer, by its client, or as something else than HTTP.
    Otherwise,
}

/// How long a connection that stops waits for a client that still sends, so that it gets the answer.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, or becomes something else. Once `stopped` is done, it ends after the request at work. A
/// request whose head has not come by then is not at work.
///
/// An answer comes with whether the connection ends with it. If its headers say so already, that is because nobody has read the rest
/// of the request: the connection then waits until its client has the answer.
pub(crate) async fn serve<F>(
    stream: HttpStream,
    bounds: Bounds,
    answer: impl Fn(Request<Incoming>) -> F,
    stopped: impl Future<Output = ()>,
) -> Ended
where
    F: Future<Output = (Response<Body>, bool)>,
{
    let limits = Limits::from(&bounds);
    let mut http = hyper::server::conn::http1::Builder::new();
    // hyper takes no buffer below 8 KiB, and its deadline for a head would end idle connections, too.
    http.header_read_timeout(None)
        .max_buf_size(bounds.max_head_bytes.max(8192));
    let phases = stream.phases();
    let content_length = stream.content_length();
    let service = {
        let phases = Arc::clone(&phases);
        service_fn(move |mut request| {
            let serving = phases.serve();
            let asks_to_close = keep_alive::closes(&request);
            if content_length.is_seen() {
                request.extensions_mut().insert(HadContentLength);
            }
            let (answer, phases) = (answer(request), Arc::clone(&phases));
            async move {
                let (mut response, closes) = answer.await;
                if response.headers().get(CONNECTION).is_some_and(|value| value == "close") {
                    phases.linger();
                }
                keep_alive::announce(&mut response, closes || asks_to_close, limits);
                Ok::<_, Infallible>(response.map(|body| serving.until_written(body)))
            }
        })
    };
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let (mut connection, mut stopped) = (pin!(connection), pin!(stopped));
    let mut deadline = Deadline::new(limits.head);
    let (mut seen, mut stops, mut lingered) = (phases.current(), false, false);
    poll_fn(|cx| {
        if !stops && stopped.as_mut().poll(cx).is_ready() {
            stops = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(served) = connection.as_mut().poll(cx) {
            if let Err(error) = served {
                tracing::trace!(error = &error as &dyn std::error::Error, "HTTP connection failed");
                if error.is_parse() {
                    return Poll::Ready(Ended::NoHttp(error.to_string()));
                }
            }
            return Poll::Ready(Ended::Otherwise);
        }
        let now = phases.current();
        let lingers = stops && phases.lingers();
        if now != seen || lingers != lingered {
            (seen, lingered) = (now, lingers);
            let limit = limits.of(now.phase);
            deadline.reset(if lingers { limit.min(LAST_MOMENTS) } else { limit });
        }
        match now.phase {
            Phase::Serving => Poll::Pending,
            Phase::Head if stops => Poll::Ready(Ended::Otherwise),
            Phase::Head => deadline.poll(cx).map(|()| Ended::SlowHead),
            Phase::Idle => deadline.poll(cx).map(|()| Ended::Otherwise),
        }
    })
    .await
}

/// The place of a connection among those of its thread, until it ends.
struct Held {
    state: Arc<State>,
    thread: u8,
}

impl Held {
    /// The place was taken when the connection was accepted.
    fn new(state: &Arc<State>, thread: u8) -> Self {
        let state = Arc::clone(state);
        Self { state, thread }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.release(self.thread);
    }
}
