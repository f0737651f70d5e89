//! Frames over a WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::stream::Stream;
use super::{ABNORMAL, ClientError, Frame, Incoming, Options, refused};

/// The server's close frame has no code.
const NO_CODE: u16 = 1005;
const HANDSHAKE: &str = "the WebSocket handshake failed";

#[derive(Debug)]
pub(super) struct WebSocket(WebSocketStream<Stream>);

impl WebSocket {
    pub(super) async fn connect(options: &Options) -> Result<Self, ClientError> {
        let mut request: Request<()> = options.url().into_client_request().map_err(failed(HANDSHAKE))?;
        request.headers_mut().extend(options.headers.clone());
        let stream = Stream::connect(options).await?;
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(Error::Http(response)) => {
                let (parts, body) = response.into_parts();
                Err(refused(parts.status, body.unwrap_or_default().into()))
            }
            Err(error) => Err(failed(HANDSHAKE)(error)),
        }
    }

    pub(super) async fn send(&mut self, frames: Vec<Frame>) -> Result<(), ClientError> {
        for frame in frames {
            let message = match frame {
                Frame::Text(text) => Message::text(text),
                Frame::Binary(bytes) => Message::Binary(bytes),
            };
            self.0
                .feed(message)
                .await
                .map_err(failed("cannot send to the server"))?;
        }
        self.0.flush().await.map_err(failed("cannot send to the server"))
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            let frame = match self.0.next().await {
                Some(Ok(Message::Text(text))) => Frame::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
                // tungstenite answers pings itself, on the next read or write.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(NO_CODE, |frame| frame.code.into());
                    return Ok(Incoming::Closed { code });
                }
                None
                | Some(Err(
                    Error::Io(_)
                    | Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )) => return Ok(Incoming::Closed { code: ABNORMAL }),
                Some(Err(error)) => return Err(failed("cannot receive from the server")(error)),
            };
            return Ok(Incoming::Frame(frame));
        }
    }

    pub(super) async fn close(mut self) -> Result<(), ClientError> {
        self.0
            .close(None)
            .await
            .map_err(failed("cannot close the connection"))?;
        while !matches!(self.next().await?, Incoming::Closed { .. }) {}
        Ok(())
    }
}

fn failed(what: &'static str) -> impl FnOnce(Error) -> ClientError {
    move |error| ClientError::transport(what)(error.into())
}
