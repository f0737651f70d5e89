//! HTTP on an I/O thread: hyper reads requests, and the axum router answers them.
//!
//! The head of a request has a deadline. Between two requests a connection has an idle time of its own, which each response
//! announces: load balancers keep connections for later requests, and a request that meets a closing connection is lost.

mod deadline;
mod keep_alive;

use std::future::{Future as _, poll_fn};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;

pub(super) use self::deadline::Deadline;
pub(super) use self::keep_alive::Phases;
use self::keep_alive::{Limits, Phase};
use super::LazyStream;
use crate::server::ambiguous::HadContentLength;
use crate::server::closes::{RefusalReason, Refused};
use crate::server::state::State;

/// Who sent a request, and which thread serves it. Each request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The I/O thread that the connection belongs to.
    pub(crate) thread: u8,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The number of the connection that the request may become.
    pub(crate) connection: u64,
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
    pub(super) fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let thread = self.thread;
        let routing = self.state.routing();
        let limits = Limits::from(&routing.config.limits);
        let mut http = hyper::server::conn::http1::Builder::new();
        // hyper takes no buffer below 8 KiB, and its deadline for a head would end idle connections, too.
        http.header_read_timeout(None)
            .max_buf_size(routing.config.limits.max_header_bytes.max(8192));
        let (app, held) = (
            TowerToHyperService::new(self.app.clone()),
            Held::new(&self.state, thread),
        );
        let phases = Arc::new(Phases::default());
        let stream = LazyStream::new(stream, routing.config.limits.response_timeout, Arc::clone(&phases));
        let content_length = stream.content_length();
        let state = Arc::clone(&self.state);
        let notes = Arc::clone(&self.state);
        let service = {
            let phases = Arc::clone(&phases);
            service_fn(move |mut request| {
                let serving = phases.serve();
                let closes = keep_alive::closes(&request) || state.is_stopping();
                let extensions = request.extensions_mut();
                extensions.insert(Client {
                    thread,
                    peer,
                    connection: state.next_connection(),
                });
                if content_length.is_seen() {
                    extensions.insert(HadContentLength);
                }
                let answer = app.call(request);
                async move {
                    let mut response = answer.await?;
                    keep_alive::announce(&mut response, closes, limits);
                    Ok::<_, std::convert::Infallible>(response.map(|body| serving.until_written(body)))
                }
            })
        };
        tokio::task::spawn_local(async move {
            let _held = held;
            let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
            let mut connection = pin!(connection);
            let mut deadline = Deadline::new(limits.head);
            let mut seen = phases.current();
            poll_fn(|cx| {
                if let Poll::Ready(served) = connection.as_mut().poll(cx) {
                    if let Err(error) = served {
                        tracing::trace!(error = &error as &dyn std::error::Error, "HTTP connection failed");
                        if error.is_parse() {
                            let what = error.to_string();
                            notes.note_refused(peer, Refused::new(RefusalReason::BadHttp, 400, Some(&what)));
                        }
                    }
                    return Poll::Ready(());
                }
                let now = phases.current();
                if now != seen {
                    seen = now;
                    deadline.reset(limits.of(now.phase));
                }
                match now.phase {
                    Phase::Serving => Poll::Pending,
                    Phase::Head => deadline.poll(cx).map(|()| {
                        notes.note_refused(peer, Refused::new(RefusalReason::RequestTimeout, None, None));
                    }),
                    Phase::Idle => deadline.poll(cx),
                }
            })
            .await;
        });
    }
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
