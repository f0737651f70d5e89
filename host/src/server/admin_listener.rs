//! Serves the admin pages, within the same deadlines as clients and backends have.
//!
//! Whoever connects takes one of the files that the server may have open, and needs no secret for that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::accept_trouble::{AcceptTrouble, PAUSE};
use super::admin::{self, Caller};
use super::io::{Bounds, HttpStream, serve};
use super::running::AdminPages;
use crate::config::Config;

/// Serves the admin pages from now on, and before they are there, that the server is not ready.
///
/// # Errors
///
/// If the system does not say where the listener is.
pub(super) fn start(listener: TcpListener, pages: &AdminPages, config: &Config) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let app = admin::from_start(Arc::clone(pages));
    let bounds = Bounds {
        max_head_bytes: config.limits.max_header_bytes,
        head: config.limits.header_timeout,
        idle: config.limits.keep_alive_timeout,
        write: config.limits.response_timeout,
    };
    let places = Arc::new(Semaphore::new(config.admin.max_connections));
    tracing::info!(%address, "admin listener started");
    tokio::spawn(async move {
        let mut trouble = AcceptTrouble::of("the admin listener");
        loop {
            match listener.accept().await {
                // Without a place the connection is closed at once.
                Ok((stream, peer)) => {
                    trouble.went_well();
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        begin(stream, peer, bounds, &app, place);
                    }
                }
                Err(error) => {
                    trouble.failed(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    Ok(address)
}

fn begin(stream: TcpStream, peer: SocketAddr, bounds: Bounds, app: &Router, place: OwnedSemaphorePermit) {
    let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else {
        return;
    };
    let app = TowerToHyperService::new(app.clone());
    let answer = move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Caller(peer));
        let answer = app.call(request);
        async move {
            let Ok(response) = answer.await;
            (response, false)
        }
    };
    tokio::spawn(async move {
        serve(
            HttpStream::plain(stream, &bounds),
            bounds,
            answer,
            std::future::pending(),
        )
        .await;
        drop(place);
    });
}
