//! What is served at a path.

use std::sync::Arc;

use bennu_wire::dialect::Dialect;

use super::phoenix_0_11::LongPoller;
use crate::config::{Config, Mount};

/// What is served at a path.
#[derive(Debug)]
pub(super) enum Served {
    /// WebSocket at a mount.
    WebSocket(Arc<Mount>, Dialect),
    /// A WebSocket that sends back what it gets, at a mount.
    Echo(Arc<Mount>),
    /// Long polling at a mount.
    LongPoll(Arc<Mount>),
    /// Long polling in the Phoenix 0.11 dialect.
    LongPoll011(LongPoller),
}

impl Served {
    /// What is served at a path, if anything is.
    pub(super) fn find(config: &Config, path: &str) -> Option<Self> {
        config
            .mounts
            .iter()
            .find_map(|mount| match path.strip_prefix(&*mount.path)? {
                "/websocket" if mount.websocket => Some(Self::WebSocket(Arc::clone(mount), Dialect::Modern)),
                "/longpoll" if mount.longpoll.is_some() => Some(Self::LongPoll(Arc::clone(mount))),
                "" if mount.echo => Some(Self::Echo(Arc::clone(mount))),
                "" if mount.websocket && mount.phoenix_0_11.is_some() => {
                    Some(Self::WebSocket(Arc::clone(mount), Dialect::Phoenix011))
                }
                "/poll" => Some(Self::LongPoll011(LongPoller::init(mount)?)),
                _ => None,
            })
    }
}
