//! Frames over either transport.

use std::time::Duration;

use bytes::Bytes;

use super::longpoll::LongPoll;
use super::websocket::WebSocket;
use super::{ClientError, Options, Transport};

/// What is sent, and what comes: text or binary, not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Binary.
    Binary(Bytes),
}

/// What [`RawClient::next`] brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A frame.
    Frame(Frame),
    /// The server has ended the connection: nothing follows.
    Closed {
        /// The close code of a WebSocket (1005: it gave none, 1006: it just went); the status of a long-poll response, 410
        /// most often.
        code: u16,
    },
}

/// A connection that carries frames. Dropped, it hangs up without a goodbye; a long-poll session then ends by itself, when
/// the server misses its polls.
#[derive(Debug)]
pub struct RawClient {
    options: Options,
    connection: Connection,
}

#[derive(Debug)]
enum Connection {
    WebSocket(Box<WebSocket>),
    LongPoll(Box<LongPoll>),
}

impl RawClient {
    /// Connects. Needs tokio's I/O and timers, as all of this.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses this client.
    pub async fn connect(options: &Options) -> Result<Self, ClientError> {
        let connect = async {
            Ok(match options.transport {
                Transport::WebSocket => Connection::WebSocket(Box::new(WebSocket::connect(options).await?)),
                Transport::LongPoll => Connection::LongPoll(Box::new(LongPoll::connect(options).await?)),
            })
        };
        let connection = options.within(connect).await?;
        let options = options.clone();
        Ok(Self { options, connection })
    }

    /// Sends one frame. Over long polling, returns when the server has taken it.
    ///
    /// # Errors
    ///
    /// If the connection is gone, or a long-poll server does not take the frame; its session may go on then.
    pub async fn send(&mut self, frame: Frame) -> Result<(), ClientError> {
        self.send_all(vec![frame]).await
    }

    /// Sends frames: at once over a WebSocket, in one request over long polling, of which a server reads a hundred.
    ///
    /// # Errors
    ///
    /// As [`RawClient::send`].
    pub async fn send_all(&mut self, frames: Vec<Frame>) -> Result<(), ClientError> {
        let Self { options, connection } = self;
        match connection {
            Connection::WebSocket(websocket) => options.within(websocket.send(frames)).await,
            Connection::LongPoll(longpoll) => options.within(longpoll.send(&frames)).await,
        }
    }

    /// Waits for the next frame. May be given up and called again; nothing is lost.
    ///
    /// # Errors
    ///
    /// If none comes within the deadline, or the server breaks the rules of the transport.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        let Self { options, connection } = self;
        match connection {
            Connection::WebSocket(websocket) => options.within(websocket.next()).await,
            Connection::LongPoll(longpoll) => options.within(longpoll.next()).await,
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.options.deadline
    }

    /// Says goodbye and waits for the server's: a WebSocket's close code. A long-poll client has no way to say it.
    ///
    /// # Errors
    ///
    /// If the server does not answer within the deadline.
    pub async fn close(self) -> Result<(), ClientError> {
        match self.connection {
            Connection::WebSocket(websocket) => self.options.within(websocket.close()).await,
            Connection::LongPoll(_) => Ok(()),
        }
    }
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
