//! HTTP on an I/O thread: hyper reads requests, the axum router answers them.

use std::net::TcpStream;
use std::sync::Arc;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use crate::endpoint::{self, Shared};

/// Serves one connection until it ends or becomes a WebSocket. On the thread's own runtime.
pub(super) fn serve(stream: TcpStream, thread: u8, shared: &Arc<Shared>) {
    let limits = shared.routing().config.limits.clone();
    let (peer, stream) = match (stream.peer_addr(), tokio::net::TcpStream::from_std(stream)) {
        (Ok(peer), Ok(stream)) => (peer, stream),
        (_, Err(error)) | (Err(error), _) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a connection was gone before it was served"
            );
            return shared.release(thread);
        }
    };
    let app = endpoint::app(Arc::clone(shared), thread, peer);
    let shared = Arc::clone(shared);
    tokio::task::spawn_local(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            // hyper takes no buffer below 8 KiB.
            .max_buf_size(limits.max_header_bytes.max(8192))
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::trace!(error = &error as &dyn std::error::Error, "a connection ended badly");
        }
        shared.release(thread);
    });
}
