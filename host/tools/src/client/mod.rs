//! A Phoenix Channels client, for `bennu call`, `bennu torture` and the tests of the server.
//!
//! It has two levels. [`RawClient`] carries frames over either transport and does not interpret them, so tests can also
//! send frames that no proper client would. [`Client`] joins topics, pushes events and waits for replies, in version
//! 2.0.0 of the protocol. For the Phoenix 0.11 dialect there is only [`RawClient`].
//!
//! Nothing here reconnects, rejoins or sends heartbeats by itself. The only timer is the deadline of a call.

mod channel;
mod longpoll;
mod message;
mod raw;
mod stream;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use channel::{Client, Reply};
pub use message::{MalformedMessage, Message, Payload};
pub use raw::{Frame, Incoming, RawClient};
pub use tls::{Tls, TlsError, Trust};

pub use bennu_wire::dialect::Dialect;

/// The close code of a connection that ended without a close frame.
const ABNORMAL: u16 = 1006;
/// What to percent-encode in a query. Not brackets: Phoenix's clients leave them as they are.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'[')
    .remove(b']');

/// How to reach a server, and what to ask it for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address of the server.
    pub address: SocketAddr,
    /// TLS, if the server is to be reached by `wss` or `https`.
    pub tls: Option<Tls>,
    /// The path of the mount, such as `/socket`.
    pub mount: String,
    /// The transport.
    pub transport: Transport,
    /// The dialect of the protocol. It also decides the paths: see [`Options::url`].
    pub dialect: Dialect,
    /// The `vsn` parameter: the protocol version. `None` leaves it out.
    pub vsn: Option<String>,
    /// Further parameters, for the connect handler, not yet percent-encoded.
    pub params: Vec<(String, String)>,
    /// Headers of the WebSocket handshake, or of each long-poll request.
    pub headers: HeaderMap,
    /// The size of the WebSocket's receive buffer in the kernel. `None` leaves it to the system.
    pub receive_buffer_bytes: Option<u32>,
    /// How long each call may take before it fails with [`ClientError::Deadline`].
    pub deadline: Duration,
}

/// A transport, and the path that it adds to a mount in the modern dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `<mount>/websocket`.
    WebSocket,
    /// `<mount>/longpoll`.
    LongPoll,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server cannot be reached, or breaks the rules of the transport.
    #[error("{what}")]
    Transport {
        /// What failed, such as `cannot connect to the server`.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server does not speak TLS, or has no certificate that the client accepts.
    #[error("the TLS handshake failed")]
    Tls {
        /// Why.
        source: std::io::Error,
    },
    /// The server rejected the connection.
    #[error("the server rejected the connection with status {status}")]
    Refused {
        /// The HTTP status, or the `status` of a long-poll response.
        status: u16,
        /// The body of the response, as far as it has arrived.
        body: Bytes,
    },
    /// The server rejected a message that was sent over long polling.
    #[error("the server rejected the message with status {status}")]
    NotTaken {
        /// The `status` of the response.
        status: u16,
    },
    /// The server closed the connection.
    #[error("the connection is closed with {code}")]
    Closed {
        /// As in [`Incoming::Closed`].
        code: u16,
    },
    /// The server sent a frame that is not a message.
    #[error(transparent)]
    Message(#[from] MalformedMessage),
    /// The client has not joined the topic that it pushes to.
    #[error("the client has not joined {topic}")]
    NotJoined {
        /// The topic.
        topic: String,
    },
    /// The call took longer than [`Options::deadline`].
    #[error("no answer from the server within {0:?}")]
    Deadline(Duration),
}

impl ClientError {
    fn transport(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Transport { what, source }
    }
}

impl Options {
    /// The mount `/socket`, version 2.0.0, no parameters, a deadline of 20 seconds.
    #[must_use]
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            address,
            tls: None,
            mount: "/socket".into(),
            transport,
            dialect: Dialect::Modern,
            vsn: Some("2.0.0".into()),
            params: Vec::new(),
            headers: HeaderMap::new(),
            receive_buffer_bytes: None,
            deadline: Duration::from_secs(20),
        }
    }

    /// The same for the Phoenix 0.11 dialect, at `/ws`. Its clients ask for no version.
    #[must_use]
    pub fn phoenix_0_11(address: SocketAddr, transport: Transport) -> Self {
        Self {
            mount: "/ws".into(),
            dialect: Dialect::Phoenix011,
            vsn: None,
            ..Self::new(address, transport)
        }
    }

    /// The URL of the transport, with all parameters.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match (self.transport, &self.tls) {
            (Transport::WebSocket, None) => "ws",
            (Transport::WebSocket, Some(_)) => "wss",
            (Transport::LongPoll, None) => "http",
            (Transport::LongPoll, Some(_)) => "https",
        };
        let Self { address, mount, .. } = self;
        let path = match (self.dialect, self.transport) {
            (Dialect::Modern | Dialect::Supabase, transport) => format!("/{}", transport.name()),
            (Dialect::Phoenix011, Transport::WebSocket) => String::new(),
            (Dialect::Phoenix011, Transport::LongPoll) => "/poll".to_owned(),
        };
        let mut url = format!("{scheme}://{address}{mount}{path}");
        let vsn = self.vsn.iter().map(|vsn| ("vsn", vsn.as_str()));
        let params = self.params.iter().map(|(name, value)| (&**name, &**value));
        for (at, (name, value)) in vsn.chain(params).enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.extend(utf8_percent_encode(name, QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        url
    }

    /// Fails if `what` takes longer than the deadline.
    async fn within<T>(&self, what: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        match tokio::time::timeout(self.deadline, what).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Deadline(self.deadline)),
        }
    }
}

impl Transport {
    /// The name that URLs end in and that `transports` of a route lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::LongPoll => "longpoll",
        }
    }
}

/// The host and the port of a URL, in the form that name resolution takes.
pub(crate) fn host_and_port(authority: &Authority, default_port: u16) -> (&str, u16) {
    let host = authority.host().trim_matches(['[', ']']);
    (host, authority.port_u16().unwrap_or(default_port))
}

fn refused(status: StatusCode, body: Bytes) -> ClientError {
    let status = status.as_u16();
    ClientError::Refused { status, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded_into_the_url() {
        let mut options = Options::new(([127, 0, 0, 1], 4000).into(), Transport::LongPoll);
        options.params = vec![("user[name]".into(), "a&b ü".into())];
        assert_eq!(
            options.url(),
            "http://127.0.0.1:4000/socket/longpoll?vsn=2.0.0&user[name]=a%26b%20%C3%BC"
        );
        options.vsn = None;
        options.params.clear();
        assert_eq!(options.url(), "http://127.0.0.1:4000/socket/longpoll");
        let phoenix_0_11 = |transport| Options::phoenix_0_11(options.address, transport).url();
        assert_eq!(phoenix_0_11(Transport::WebSocket), "ws://127.0.0.1:4000/ws");
        assert_eq!(phoenix_0_11(Transport::LongPoll), "http://127.0.0.1:4000/ws/poll");
    }
}
