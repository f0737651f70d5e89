//! HTTP on an I/O thread: hyper reads requests, the axum router answers them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use super::LazyStream;
use crate::server::ambiguous::HadContentLength;
use crate::server::state::State;

/// Whose request it is, and where it is served. Each request brings it along as an extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The I/O thread that the connection belongs to.
    pub(crate) thread: u8,
    /// The client's address.
    pub(crate) peer: SocketAddr,
}

/// The HTTP of one thread.
#[derive(Debug)]
pub(super) struct Http {
    thread: u8,
    state: Arc<State>,
    /// Made once: every connection has a handle to it.
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
        let limits = &routing.config.limits;
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            // hyper takes no buffer below 8 KiB.
            .max_buf_size(limits.max_header_bytes.max(8192));
        let app = TowerToHyperService::new(self.app.clone());
        let stream = LazyStream::new(stream, limits.response_timeout);
        let content_length = stream.content_length();
        let service = service_fn(move |mut request| {
            let extensions = request.extensions_mut();
            extensions.insert(Client { thread, peer });
            if content_length.is_seen() {
                extensions.insert(HadContentLength);
            }
            app.call(request)
        });
        let state = Arc::clone(&self.state);
        tokio::task::spawn_local(async move {
            let served = http
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::trace!(error = &error as &dyn std::error::Error, "HTTP connection failed");
            }
            state.release(thread);
        });
    }
}
