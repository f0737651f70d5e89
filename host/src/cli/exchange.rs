//! One HTTP request to a running server, for commands that ask it something.

#[cfg(feature = "tls")]
mod secure;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::uri::{Scheme, Uri};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::args::{ConfigArg, address};
use super::complain;
use crate::config::{Config, Mode};

/// How long the server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Where a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(super) address: SocketAddr,
    /// Its name and port, if it is reached by `https`: a proxy in front of it has a certificate for that name.
    secure: Option<(String, u16)>,
}

/// What a server answers.
type Answer = (StatusCode, Bytes);

impl Place {
    /// Reads `127.0.0.1:4001`, `localhost:4001`, or a URL such as `https://bennu.example.com`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some((_, rest)) = text.split_once("://") else {
            return address(text).map(Self::from);
        };
        let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let host = url.host().unwrap_or_default().to_owned();
        let is_bare = rest.trim_end_matches('/') == url.authority().map_or("", |authority| authority.as_str());
        match url.scheme() {
            _ if !is_bare => Err("write only the host and the port of the server".to_owned()),
            Some(scheme) if *scheme == Scheme::HTTP => {
                address(&format!("{host}:{}", url.port_u16().unwrap_or(80))).map(Self::from)
            }
            Some(scheme) if *scheme == Scheme::HTTPS && !cfg!(feature = "tls") => Err(
                "this `bennu` was built without TLS; build it with `cargo build --release --features tls`".to_owned(),
            ),
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let port = url.port_u16().unwrap_or(443);
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let found = (name, port).to_socket_addrs().map_err(|error| error.to_string())?;
                let address = found.min_by_key(SocketAddr::is_ipv6).ok_or("the name has no address")?;
                Ok(Self {
                    address,
                    secure: Some((name.to_owned(), port)),
                })
            }
            _ => Err("write an address and a port, or a URL with http:// or https://".to_owned()),
        }
    }

    /// As requests to it name it.
    fn host(&self) -> String {
        match &self.secure {
            Some((name, 443)) => name.clone(),
            Some((name, port)) if name.contains(':') => format!("[{name}]:{port}"),
            Some((name, port)) => format!("{name}:{port}"),
            None => self.address.to_string(),
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        let secure = None;
        Self { address, secure }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.secure {
            Some(_) => write!(f, "https://{}", self.host()),
            None => self.address.fmt(f),
        }
    }
}

/// Sends a request with a bearer secret, and returns the status and the body of the answer. `None`: no server is there.
///
/// # Errors
///
/// If the server cannot prove its name, or does not answer in time.
pub(super) async fn exchange(
    place: &Place,
    method: Method,
    path: &str,
    secret: Option<&str>,
    body: Bytes,
    patience: Duration,
) -> anyhow::Result<Option<Answer>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, place.host());
    if let Some(secret) = secret {
        request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body))?;
    let exchange = async {
        let Ok(stream) = TcpStream::connect(place.address).await else {
            return Ok(None);
        };
        match &place.secure {
            None => Ok(ask(stream, request).await),
            #[cfg(feature = "tls")]
            Some((name, _)) => Ok(ask(secure::connect(stream, name).await?, request).await),
            #[cfg(not(feature = "tls"))]
            Some(_) => Ok(None),
        }
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(answered) => answered,
        Err(_) => bail!("the server at {place} has not answered for {} s", patience.as_secs()),
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Option<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    Some((status, body))
}

/// The configuration, if there is one: the commands that ask a server take its address from there. Says so if it cannot be read and no
/// address is named, because the server is then looked for elsewhere.
pub(super) fn configuration(config: &ConfigArg, named: bool, otherwise: SocketAddr) -> Option<Config> {
    let file = config.find().ok()?;
    let read = Config::read(&file, Mode::Dev);
    if read.is_err() && !named {
        complain(&format!(
            "warning: {} has mistakes, which `bennu check` shows; so the server is looked for at {otherwise}",
            file.display()
        ));
    }
    read.ok()
}

/// The address by which this machine reaches a listener.
pub(super) fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_address_or_by_a_url() {
        #[track_caller]
        fn check(text: &str, address: &str, host: &str) {
            let place = Place::parse(text).expect("a place");
            assert_eq!(
                (place.address.to_string(), place.host()),
                (address.to_owned(), host.to_owned()),
                "{text}"
            );
        }
        check("127.0.0.1:4001", "127.0.0.1:4001", "127.0.0.1:4001");
        check("http://127.0.0.1:4001/", "127.0.0.1:4001", "127.0.0.1:4001");
        check("http://127.0.0.1", "127.0.0.1:80", "127.0.0.1:80");
        if cfg!(feature = "tls") {
            check("https://localhost", "127.0.0.1:443", "localhost");
            check("https://localhost:4001/", "127.0.0.1:4001", "localhost:4001");
            check("https://[::1]:4001", "[::1]:4001", "[::1]:4001");
        }
        for text in ["ftp://127.0.0.1", "http://127.0.0.1/plugins", "localhost", "https://"] {
            Place::parse(text).expect_err(text);
        }
    }
}
