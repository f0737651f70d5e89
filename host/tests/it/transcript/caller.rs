//! A client of a conversation, whatever carries what it says.

use bennu::Entrance;
use bennu_tools::client::{ClientError, Frame, Incoming, Options, RawClient, Transport};

use crate::seams::client::Client;
use crate::support::within;

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    WebSocket,
    LongPoll,
    Memory,
}

/// A client that is connected.
#[derive(Debug)]
pub(super) enum Caller {
    Socket(Box<RawClient>),
    Memory(Client),
}

impl Over {
    /// The host's own transport that behaves most like it.
    pub(super) fn own(self) -> Transport {
        match self {
            Self::WebSocket | Self::Memory => Transport::WebSocket,
            Self::LongPoll => Transport::LongPoll,
        }
    }
}

impl Caller {
    /// Connects: over a socket, or where there is an entrance, by it.
    pub(super) async fn connect(options: &Options, entrance: Option<&Entrance>) -> Result<Self, String> {
        Ok(match entrance {
            None => Self::Socket(Box::new(RawClient::connect(options).await.map_err(said)?)),
            Some(entrance) => {
                let client = within("connection", Client::connect(entrance, options)).await;
                Self::Memory(client.map_err(|denied| format!("  error     {denied}"))?)
            }
        })
    }

    /// Sends a message. Long polling says with which status it was taken.
    pub(super) async fn send(&mut self, frame: Frame) -> Result<Option<u16>, String> {
        match self {
            Self::Memory(client) => {
                client.send(frame).await;
                Ok(None)
            }
            Self::Socket(client) => match client.send(frame).await {
                Ok(()) => Ok(None),
                Err(ClientError::NotTaken { status }) => Ok(Some(status)),
                Err(error) => Err(said(error)),
            },
        }
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, String> {
        match self {
            Self::Socket(client) => client.next().await.map_err(said),
            Self::Memory(client) => {
                let next = within("message", client.next()).await;
                next.ok_or_else(|| "  error     the server has hung up".into())
            }
        }
    }

    pub(super) async fn close(self) -> Result<(), String> {
        match self {
            Self::Socket(client) => client.close().await.map_err(said),
            Self::Memory(client) => {
                within("end of the connection", client.close()).await;
                Ok(())
            }
        }
    }
}

fn said(error: ClientError) -> String {
    format!("  error     {error}")
}
