//! HTTP on an I/O thread: hyper reads requests, the axum router answers them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use super::LazyStream;
use crate::endpoint::{self, Client, Shared};

/// The HTTP of one thread.
#[derive(Debug)]
pub(super) struct Http {
    thread: u8,
    shared: Arc<Shared>,
    /// Made once: every connection has a handle to it.
    app: Router,
}

impl Http {
    pub(super) fn new(thread: u8, shared: Arc<Shared>) -> Self {
        let app = endpoint::app(Arc::clone(&shared));
        Self { thread, shared, app }
    }

    /// Serves one connection until it ends or becomes a WebSocket. On the thread's own runtime.
    pub(super) fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let thread = self.thread;
        let routing = self.shared.routing();
        let limits = &routing.config.limits;
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            // hyper takes no buffer below 8 KiB.
            .max_buf_size(limits.max_header_bytes.max(8192));
        let app = TowerToHyperService::new(self.app.clone());
        let service = service_fn(move |mut request| {
            request.extensions_mut().insert(Client { thread, peer });
            app.call(request)
        });
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_local(async move {
            let served = http
                .serve_connection(TokioIo::new(LazyStream::new(stream)), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::trace!(error = &error as &dyn std::error::Error, "a connection ended badly");
            }
            shared.release(thread);
        });
    }
}
