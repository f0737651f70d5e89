//! A connection that carries frames, over either transport.

use std::time::Duration;

use bytes::Bytes;

use super::longpoll::LongPoll;
use super::websocket::WebSocket;
use super::{ClientError, Options, Transport};

/// A WebSocket frame, or what stands for one over long polling. Nothing here interprets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Binary.
    Binary(Bytes),
}

/// What [`RawClient::next`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A frame.
    Frame(Frame),
    /// The server closed the connection. Nothing follows.
    Closed {
        /// Over WebSocket the close code, with 1005 for a close frame without one and 1006 for a connection that ended
        /// without a close frame. Over long polling the status of the last response, mostly 410.
        code: u16,
    },
}

/// A connection that carries frames.
///
/// Dropping it closes the connection without a close frame. A long-poll session then ends once the server misses its
/// polls.
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
    /// Connects. Like all methods here, it needs a tokio runtime with I/O and timers.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or rejects the connection.
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

    /// Sends one frame. Over long polling, returns once the server has accepted it.
    ///
    /// # Errors
    ///
    /// If the connection is closed, or if the server rejects the frame over long polling. The session may survive that.
    pub async fn send(&mut self, frame: Frame) -> Result<(), ClientError> {
        self.send_all(vec![frame]).await
    }

    /// Sends frames: in one write over WebSocket, in one request over long polling. A server reads at most 100 of a
    /// request.
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

    /// Waits for the next frame. Cancel safe: dropping the future loses no frame.
    ///
    /// # Errors
    ///
    /// If no frame arrives within the deadline, or if the server breaks the rules of the transport.
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

    /// Sends a close frame and waits for the server's. Over long polling, this only drops the connection.
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
