//! Other ways in than a plain port: TLS, Unix sockets, sockets of systemd, proxies.

#[cfg(feature = "tls")]
mod asked;
#[cfg(feature = "tls")]
mod certificates;
mod checked;
mod local;
#[cfg(feature = "tls")]
mod programs;
mod proxies;
#[cfg(feature = "tls")]
mod secure;

use std::net::SocketAddr;

use crate::support::server::Server;

/// Where the server says that a listener is: `https://`, behind the one of `[server]`.
#[cfg(feature = "tls")]
async fn secure_address(server: &Server) -> SocketAddr {
    address_of(server, "https").await
}

/// Where the last listener with this scheme is.
async fn address_of(server: &Server, scheme: &str) -> SocketAddr {
    let words = format!("listening on {scheme}://");
    // That of `[server]` comes first.
    let line = server.log.nth_line(usize::from(scheme == "http"), &[&words]).await;
    line.trim_start_matches(&words).parse().expect("an address")
}
