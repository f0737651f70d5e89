//! Finds what is served at a path.

use std::borrow::Cow;
use std::sync::Arc;

use bennu_wire::dialect::Dialect;

use super::phoenix_0_11::LongPoller;
use super::supabase::Target;
use crate::config::{Config, Mount};

/// What is served at a path.
#[derive(Debug)]
pub(super) enum Served {
    /// WebSocket at a mount.
    WebSocket(Arc<Mount>, Dialect),
    /// A WebSocket that echoes, at a mount.
    Echo(Arc<Mount>),
    /// Long polling at a mount.
    LongPoll(Arc<Mount>),
    /// Long polling in the Phoenix 0.11 dialect.
    LongPoll011(LongPoller),
    /// Messages for topics over HTTP, at a mount for clients of Supabase.
    Broadcast(Arc<Mount>, Target),
}

impl Served {
    /// What is served at a path, if anything is.
    pub(super) fn find(config: &Config, path: &str) -> Option<Self> {
        let path = segments(path);
        config
            .mounts
            .iter()
            .find_map(|mount| match path.strip_prefix(&*mount.path)? {
                "/websocket" if mount.websocket => {
                    let is_modern = mount.speaks(Dialect::Modern);
                    let dialect = if is_modern { Dialect::Modern } else { Dialect::Supabase };
                    Some(Self::WebSocket(Arc::clone(mount), dialect))
                }
                "/longpoll" if mount.longpoll.is_some() => Some(Self::LongPoll(Arc::clone(mount))),
                "" if mount.echo => Some(Self::Echo(Arc::clone(mount))),
                "" if mount.websocket && mount.phoenix_0_11.is_some() => {
                    Some(Self::WebSocket(Arc::clone(mount), Dialect::Phoenix011))
                }
                "/poll" => Some(Self::LongPoll011(LongPoller::init(mount)?)),
                // A connect handler sees no such request, so it could not decide.
                below if mount.supabase.is_some() && mount.connect.is_none() => {
                    Some(Self::Broadcast(Arc::clone(mount), Target::of(below)?))
                }
                _ => None,
            })
    }
}

impl Served {
    /// The mount where it is.
    pub(super) fn mount(&self) -> &Arc<Mount> {
        match self {
            Self::WebSocket(mount, _) | Self::Echo(mount) | Self::LongPoll(mount) | Self::Broadcast(mount, _) => mount,
            Self::LongPoll011(poller) => poller.mount(),
        }
    }
}

/// A path without its empty segments. Phoenix ignores these, and `new Socket("/socket/")` asks for `/socket//websocket`.
fn segments(path: &str) -> Cow<'_, str> {
    if !path.contains("//") && !path.ends_with('/') {
        return path.into();
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.flat_map(|segment| ["/", segment]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_of_a_path_are_ignored() {
        for path in [
            "/socket/websocket",
            "/socket//websocket",
            "//socket/websocket",
            "/socket/websocket/",
            "///socket///websocket//",
        ] {
            assert_eq!(segments(path), "/socket/websocket", "{path}");
        }
        assert_eq!(segments("/a b%2F/c"), "/a b%2F/c");
        assert_eq!(segments("/"), "");
        assert_eq!(segments(""), "");
    }
}
