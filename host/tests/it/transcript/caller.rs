//! A client of a conversation, over whatever transport.

use bennu::Entrance;
use bennu_tools::client::{ClientError, Frame, Incoming, Options, RawClient, Transport};

use super::kit;
use crate::seams::client::Client;
use crate::support::within;

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    WebSocket,
    LongPoll,
    Memory,
    /// No server at all: the plugins run in the test kit.
    Kit,
}

/// A client that is connected.
#[derive(Debug)]
pub(super) enum Caller {
    Socket(Box<RawClient>),
    Memory(Client),
    Kit(Box<kit::Client>),
}

/// Where clients connect.
#[derive(Debug)]
pub(super) enum Place {
    /// The address in the options.
    Address,
    Memory(Entrance),
    Kit(kit::Kit),
}

impl Over {
    /// The host's own transport that behaves most like it.
    pub(super) fn own(self) -> Transport {
        match self {
            Self::WebSocket | Self::Memory | Self::Kit => Transport::WebSocket,
            Self::LongPoll => Transport::LongPoll,
        }
    }
}

impl Caller {
    pub(super) async fn connect(options: &Options, place: &Place) -> Result<Self, String> {
        Ok(match place {
            Place::Address => Self::Socket(Box::new(RawClient::connect(options).await.map_err(said)?)),
            Place::Kit(kit) => Self::Kit(Box::new(kit.connect(options)?)),
            Place::Memory(entrance) => {
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
            Self::Kit(client) => client.send(&frame).map(|()| None),
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
            Self::Kit(client) => client.next(),
        }
    }

    pub(super) async fn close(self) -> Result<(), String> {
        match self {
            Self::Socket(client) => client.close().await.map_err(said),
            Self::Memory(client) => {
                within("end of the connection", client.close()).await;
                Ok(())
            }
            Self::Kit(client) => {
                client.close();
                Ok(())
            }
        }
    }
}

fn said(error: ClientError) -> String {
    format!("  error     {error}")
}
