//! A client of Phoenix Channels: what `bennu call`, the torture run and the tests speak to a server with.
//!
//! Two levels. [`RawClient`] carries frames over either transport and looks into none, so it can also say what no honest
//! client would. [`Client`] joins topics, pushes events and waits for replies, in version 2.0.0 of the protocol;
//! in the seeds' dialect there are frames only.
//!
//! Nothing here reconnects, rejoins or sends heartbeats, and the only timer is one deadline for each call.

mod channel;
mod longpoll;
mod message;
mod raw;
mod websocket;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

pub use channel::{Client, Reply};
pub use message::{MalformedMessage, Message, Payload};
pub use raw::{Frame, Incoming, RawClient};

pub use crate::socket::Dialect;

/// How a client reaches a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Where it mounts its sockets, such as `/socket`.
    pub mount: String,
    /// What carries the messages.
    pub transport: Transport,
    /// Which dialect is spoken. That of the seeds is served at other paths.
    pub dialect: Dialect,
    /// The protocol version to ask for; `None` asks for none.
    pub vsn: Option<String>,
    /// Further parameters, for the connect handler. Encoded when they are sent.
    pub params: Vec<(String, String)>,
    /// Headers of the handshake, and of each request of a long-poll session.
    pub headers: HeaderMap,
    /// How many bytes the system may keep for this client, over WebSocket, before it is read; `None`: what it likes.
    pub receive_buffer_bytes: Option<u32>,
    /// How long each call may take.
    pub deadline: Duration,
}

/// What carries the messages.
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
    /// The server cannot be reached, or does not speak what it should.
    #[error("cannot talk to the server: {what}")]
    Transport {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server does not let this client connect.
    #[error("the server refuses the connection with {status}")]
    Refused {
        /// The status: of HTTP, or of a long-poll response.
        status: u16,
        /// As much of the body as has come with it.
        body: Bytes,
    },
    /// A long-poll server does not take a message.
    #[error("the server refuses the message with {status}")]
    NotTaken {
        /// The `status` of its response.
        status: u16,
    },
    /// The server has closed the connection.
    #[error("the connection is closed with {code}")]
    Closed {
        /// As in [`Incoming::Closed`].
        code: u16,
    },
    /// A frame of the server is no message.
    #[error(transparent)]
    Message(#[from] MalformedMessage),
    /// A push goes to a topic that this client has not joined.
    #[error("{topic} is not joined")]
    NotJoined {
        /// The topic.
        topic: String,
    },
    /// The deadline is over.
    #[error("the server has not answered within {0:?}")]
    Deadline(Duration),
}

impl ClientError {
    fn transport(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Transport { what, source }
    }
}

impl Options {
    /// Connects to `/socket` with version 2.0.0, no params and a deadline of five seconds.
    #[must_use]
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            address,
            mount: "/socket".into(),
            transport,
            dialect: Dialect::Modern,
            vsn: Some("2.0.0".into()),
            params: Vec::new(),
            headers: HeaderMap::new(),
            receive_buffer_bytes: None,
            deadline: Duration::from_secs(5),
        }
    }

    /// The same in the seeds' dialect, at `/ws`. They ask for no version.
    #[must_use]
    pub fn seeds(address: SocketAddr, transport: Transport) -> Self {
        Self {
            mount: "/ws".into(),
            dialect: Dialect::Seeds,
            vsn: None,
            ..Self::new(address, transport)
        }
    }

    /// The address of the transport, with all parameters.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.transport {
            Transport::WebSocket => "ws",
            Transport::LongPoll => "http",
        };
        let Self { address, mount, .. } = self;
        let path = match (self.dialect, self.transport) {
            (Dialect::Modern, transport) => format!("/{}", transport.name()),
            (Dialect::Seeds, Transport::WebSocket) => String::new(),
            (Dialect::Seeds, Transport::LongPoll) => "/poll".to_owned(),
        };
        let mut url = format!("{scheme}://{address}{mount}{path}");
        let vsn = self.vsn.iter().map(|vsn| ("vsn", vsn.as_str()));
        let params = self.params.iter().map(|(name, value)| (&**name, &**value));
        for (at, (name, value)) in vsn.chain(params).enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            encode(name, &mut url);
            url.push('=');
            encode(value, &mut url);
        }
        url
    }

    /// Waits for something, but no longer than it may take.
    async fn within<T>(&self, what: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        match tokio::time::timeout(self.deadline, what).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Deadline(self.deadline)),
        }
    }
}

impl Transport {
    /// Its name, as in URLs and as `transports` of a route lists it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::LongPoll => "longpoll",
        }
    }
}

/// Appends a part of a query; brackets stay as they are, as clients write them.
fn encode(part: &str, url: &mut String) {
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'[' | b']' => {
                url.push(char::from(byte))
            }
            _ => write!(url, "%{byte:02X}").expect("text grows"),
        }
    }
}

fn status_of(status: StatusCode, body: Bytes) -> ClientError {
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
        let seeds = |transport| Options::seeds(options.address, transport).url();
        assert_eq!(seeds(Transport::WebSocket), "ws://127.0.0.1:4000/ws");
        assert_eq!(seeds(Transport::LongPoll), "http://127.0.0.1:4000/ws/poll");
    }
}
