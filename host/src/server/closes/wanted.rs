//! Which clients somebody asks for: by number, by socket id, by address.

use std::net::{IpAddr, SocketAddr};

use bytestring::ByteString;

/// A choice of clients. Without any of these, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The number of the connection.
    pub(crate) connection: Option<u64>,
    /// The socket id.
    pub(crate) socket_id: Option<ByteString>,
    /// The address of the client.
    pub(crate) peer: Option<Peer>,
}

/// An address of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// With any port.
    Ip(IpAddr),
    /// One connection.
    Address(SocketAddr),
}

impl Peer {
    /// Reads an IP address, with or without a port.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let ip = text.parse().map(Self::Ip).ok();
        ip.or_else(|| text.parse().map(Self::Address).ok())
    }

    fn is(self, peer: SocketAddr) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical() == peer.ip().to_canonical(),
            Self::Address(address) => {
                (address.ip().to_canonical(), address.port()) == (peer.ip().to_canonical(), peer.port())
            }
        }
    }
}

impl Wanted {
    /// Whether it includes this client.
    #[must_use]
    pub(crate) fn includes(&self, connection: u64, socket_id: Option<&str>, peer: SocketAddr) -> bool {
        self.connection.is_none_or(|wanted| wanted == connection)
            && self.socket_id.as_deref().is_none_or(|wanted| Some(wanted) == socket_id)
            && self.peer.is_none_or(|wanted| wanted.is(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &str, peer: &str, expected: bool) {
        let wanted = Wanted {
            peer: Some(Peer::parse(wanted).expect("an address")),
            ..Wanted::default()
        };
        assert_eq!(
            wanted.includes(1, None, peer.parse().expect("a peer")),
            expected,
            "{wanted:?}"
        );
    }

    #[test]
    fn an_address_without_a_port_means_all_its_connections() {
        check("10.0.0.1", "10.0.0.1:5000", true);
        check("10.0.0.1", "10.0.0.2:5000", false);
        check("10.0.0.1:5000", "10.0.0.1:5000", true);
        check("10.0.0.1:5001", "10.0.0.1:5000", false);
        check("::1", "[::1]:5000", true);
        check("10.0.0.1", "[::ffff:10.0.0.1]:5000", true);
        assert_eq!(Peer::parse("user:1"), None);
    }

    #[test]
    fn what_is_asked_for_must_all_be_true() {
        let wanted = Wanted {
            connection: Some(3),
            socket_id: Some("user:1".into()),
            peer: None,
        };
        let peer = ([127, 0, 0, 1], 1).into();
        assert!(wanted.includes(3, Some("user:1"), peer));
        assert!(!wanted.includes(4, Some("user:1"), peer));
        assert!(!wanted.includes(3, Some("user:2"), peer));
        assert!(!wanted.includes(3, None, peer));
        assert!(Wanted::default().includes(3, None, peer));
    }
}
