//! The address of a server, as people write it.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, Uri};
use percent_encoding::percent_decode_str;

use crate::client::{Client, ClientError, Options, Tls, TlsError, Transport, Trust, host_and_port};

/// The mount if the address has no path.
const MOUNT: &str = "/socket";

/// Where to connect, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    authority: Authority,
    /// Whether the scheme is `wss` or `https`.
    has_tls: bool,
    mount: String,
    /// The one that the path ends in.
    transport: Option<Transport>,
    /// From the query.
    params: Vec<(String, String)>,
}

impl Target {
    /// Parses `http://127.0.0.1:4000/socket?name=value`. Scheme, mount and query are optional. `/websocket` or
    /// `/longpoll` may follow the mount.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let example = "write an address such as http://127.0.0.1:4000/socket";
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = with_scheme.parse().map_err(|error| format!("{error}: {example}"))?;
        let has_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(example.to_owned()),
        };
        let authority = uri.authority().cloned().ok_or(example)?;
        let path = uri.path().trim_end_matches('/');
        let ends = [("/websocket", Transport::WebSocket), ("/longpoll", Transport::LongPoll)];
        let end = ends
            .into_iter()
            .find_map(|(end, transport)| Some((path.strip_suffix(end)?, transport)));
        let (mount, transport) = end.map_or((path, None), |(mount, transport)| (mount, Some(transport)));
        let pairs = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Ok(Self {
            authority,
            has_tls,
            mount: if mount.is_empty() { MOUNT } else { mount }.to_owned(),
            transport,
            params: pairs.map(decoded_pair).collect(),
        })
    }

    /// TLS to this server, if its URL asks for that.
    ///
    /// # Errors
    ///
    /// If there is nobody to trust, or if the host can have no certificate.
    pub(super) fn tls(&self, trust: &Trust) -> Result<Option<Tls>, TlsError> {
        let (host, _) = self.host_and_port();
        self.has_tls.then(|| Tls::new(host, trust)).transpose()
    }

    fn host_and_port(&self) -> (&str, u16) {
        host_and_port(&self.authority, if self.has_tls { 443 } else { 80 })
    }

    /// Connects to the first of the server's addresses that answers.
    pub(super) async fn connect(&self, how: How) -> Result<Client, ClientError> {
        let mut last = None;
        for address in self.addresses().await? {
            match Client::connect(&self.options(address, how.clone())).await {
                Err(error @ ClientError::Transport { .. }) => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| unknown(std::io::Error::other("the name has no address"))))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, ClientError> {
        Ok(tokio::net::lookup_host(self.host_and_port())
            .await
            .map_err(unknown)?
            .collect())
    }

    fn options(&self, address: SocketAddr, how: How) -> Options {
        let How {
            tls,
            transport,
            params,
            mut headers,
            deadline,
        } = how;
        let transport = transport.or(self.transport).unwrap_or(Transport::WebSocket);
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            headers.entry(HOST).or_insert(host);
        }
        Options {
            tls,
            mount: self.mount.clone(),
            params: self.params.iter().cloned().chain(params).collect(),
            headers,
            deadline,
            ..Options::new(address, transport)
        }
    }

    /// The path of the mount.
    pub(super) fn mount(&self) -> &str {
        &self.mount
    }
}

/// What the command line says about a connection besides the address.
#[derive(Clone, Debug)]
pub(super) struct How {
    pub(super) tls: Option<Tls>,
    pub(super) transport: Option<Transport>,
    pub(super) params: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) deadline: Duration,
}

fn unknown(source: std::io::Error) -> ClientError {
    ClientError::Transport {
        what: "cannot resolve the host name",
        source: source.into(),
    }
}

/// Decodes `name=value` of a query.
fn decoded_pair(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (decoded(name), decoded(value))
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, url: &str) {
        let target = Target::parse(text).expect("an address");
        let how = How {
            tls: target.tls(&Trust::Anything).expect("a host"),
            transport: None,
            params: Vec::new(),
            headers: HeaderMap::new(),
            deadline: Duration::ZERO,
        };
        assert_eq!(target.options(([127, 0, 0, 1], 4000).into(), how).url(), url);
    }

    #[test]
    fn an_address_is_read_in_all_the_ways_people_write_it() {
        let socket = "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0";
        for text in [
            "localhost:4000",
            "http://localhost:4000/",
            "ws://h/socket",
            "h/socket/websocket",
        ] {
            check(text, socket);
        }
        check(
            "http://h/live/longpoll",
            "http://127.0.0.1:4000/live/longpoll?vsn=2.0.0",
        );
        check(
            "h/a?name=a%20b+c&x",
            "ws://127.0.0.1:4000/a/websocket?vsn=2.0.0&name=a%20b%20c&x=",
        );
        check("wss://h", "wss://127.0.0.1:4000/socket/websocket?vsn=2.0.0");
        check("https://h/a/longpoll", "https://127.0.0.1:4000/a/longpoll?vsn=2.0.0");
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in ["", "http://", "ftp://h/socket", "a b"] {
            let refused = Target::parse(text).expect_err("refused");
            assert!(
                refused.contains("such as http://127.0.0.1:4000/socket"),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn the_port_is_that_of_the_scheme_if_the_address_names_none() {
        for (text, host, port) in [
            ("ws://h", "h", 80),
            ("h", "h", 80),
            ("wss://h", "h", 443),
            ("https://h:4000", "h", 4000),
            ("wss://[::1]", "::1", 443),
        ] {
            assert_eq!(
                Target::parse(text).expect("an address").host_and_port(),
                (host, port),
                "{text}"
            );
        }
    }
}
