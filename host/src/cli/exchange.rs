//! One HTTP request to a running server, for commands that ask it something.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// How long the server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a request with a bearer secret, and returns the status and the body of the answer. `None`: no server answers in time.
pub(super) async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    secret: Option<&str>,
    body: Bytes,
    patience: Duration,
) -> Option<(StatusCode, Bytes)> {
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    if let Some(secret) = secret {
        request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let exchange = async {
        let response = http.request(request.body(Full::new(body)).ok()?).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    };
    tokio::time::timeout(patience, exchange).await.ok()?
}

/// The address by which this machine reaches a listener.
pub(super) fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    listen
}
