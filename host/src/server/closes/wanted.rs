//! Which clients somebody asks for: by number, by socket id, by address.

use std::fmt;
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
    /// The choices that a name of a client may mean, one after the other until one includes somebody: a number may be a socket id as
    /// well.
    #[must_use]
    pub(crate) fn by_name(name: &str) -> Vec<Self> {
        let connection = name.parse().ok().map(|number| Self {
            connection: Some(number),
            ..Self::default()
        });
        let peer = Peer::parse(name).map(|peer| Self {
            peer: Some(peer),
            ..Self::default()
        });
        let socket_id = Self {
            socket_id: Some(name.into()),
            ..Self::default()
        };
        connection.into_iter().chain(peer).chain([socket_id]).collect()
    }

    /// Whether it includes this client.
    #[must_use]
    pub(crate) fn includes(&self, connection: u64, socket_id: Option<&str>, peer: SocketAddr) -> bool {
        self.connection.is_none_or(|wanted| wanted == connection)
            && self.socket_id.as_deref().is_none_or(|wanted| Some(wanted) == socket_id)
            && self.peer.is_none_or(|wanted| wanted.is(peer))
    }
}

/// As an operator reads it.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.connection.map(|number| format!("connection {number}"));
        let socket_id = self.socket_id.as_deref().map(|id| format!("socket id {id}"));
        let peer = self.peer.map(|peer| match peer {
            Peer::Ip(ip) => format!("address {ip}"),
            Peer::Address(address) => format!("address {address}"),
        });
        let all: Vec<_> = [connection, socket_id, peer].into_iter().flatten().collect();
        f.write_str(&all.join(", "))
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
    fn a_client_is_looked_for_by_whatever_its_name_may_be() {
        let shown = |name: &str| {
            let all: Vec<_> = Wanted::by_name(name).iter().map(Wanted::to_string).collect();
            all.join("; ")
        };
        assert_eq!(shown("42"), "connection 42; socket id 42");
        assert_eq!(shown("10.0.0.1"), "address 10.0.0.1; socket id 10.0.0.1");
        assert_eq!(shown("[::1]:5"), "address [::1]:5; socket id [::1]:5");
        assert_eq!(shown("user:1&x"), "socket id user:1&x");
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
