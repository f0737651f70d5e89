//! The header of the PROXY protocol, versions 1 and 2, with which a proxy begins a connection.

use std::net::SocketAddr;

use ppp::v1::Addresses as Addresses1;
use ppp::v2::{Addresses as Addresses2, Command, PROTOCOL_PREFIX};
use ppp::{HeaderResult, v1, v2};

/// How version 1 begins, which is text.
const TEXT: &[u8] = b"PROXY ";
/// The longest header of version 1.
const MAX_TEXT: usize = 107;
/// The part of version 2 that says how long the rest is.
const FIXED: usize = 16;
/// The longest header of version 2 that is taken. Proxies may add what they know of the client's certificate.
const MAX_BINARY: usize = 4096;

/// A header, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// All of it: where the client is, if the proxy says so, and how long the header is.
    Whole(Option<SocketAddr>, usize),
    /// More bytes are needed.
    Partial,
    /// It is none.
    Bad(String),
}

impl Preamble {
    /// Reads the header at the start of a connection.
    #[must_use]
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, with)| byte == with);
        if begins(TEXT) {
            return Self::text(bytes);
        }
        if begins(PROTOCOL_PREFIX) {
            return Self::binary(bytes);
        }
        Self::Bad("the connection does not begin with a header of the PROXY protocol".to_owned())
    }

    fn text(bytes: &[u8]) -> Self {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
            return match bytes.len() < MAX_TEXT {
                true => Self::Partial,
                false => Self::Bad("the header of the PROXY protocol does not end".to_owned()),
            };
        };
        let end = end + 2;
        match v1::Header::try_from(&bytes[..end]) {
            Ok(header) => {
                let client = match header.addresses {
                    Addresses1::Unknown => None,
                    Addresses1::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
                    Addresses1::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
                };
                Self::Whole(client, end)
            }
            Err(error) => Self::Bad(error.to_string()),
        }
    }

    fn binary(bytes: &[u8]) -> Self {
        let Some(length) = bytes.get(FIXED - 2..FIXED) else {
            return Self::Partial;
        };
        let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if end > MAX_BINARY {
            return Self::Bad(format!("the header of the PROXY protocol has {end} bytes"));
        }
        let Some(whole) = bytes.get(..end) else {
            return Self::Partial;
        };
        match HeaderResult::parse(whole) {
            HeaderResult::V2(Ok(header)) => Self::Whole(client(&header), end),
            HeaderResult::V2(Err(error)) => Self::Bad(error.to_string()),
            HeaderResult::V1(_) => Self::Bad("it is no header of the PROXY protocol".to_owned()),
        }
    }
}

/// The client's address. A proxy that speaks for itself, to see whether the server is there, has no client.
fn client(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (header.command, header.addresses) {
        (Command::Local, _) | (Command::Proxy, Addresses2::Unspecified | Addresses2::Unix(_)) => None,
        (Command::Proxy, Addresses2::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (Command::Proxy, Addresses2::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &[u8], client: Option<&str>) {
        let client = client.map(|client| client.parse().expect("an address"));
        let expected = Preamble::Whole(client, header.len());
        let with_more = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(Preamble::read(&with_more), expected, "{header:?}");
        for cut in 0..header.len() {
            assert_eq!(
                Preamble::read(&header[..cut]),
                Preamble::Partial,
                "{header:?}, cut at {cut}"
            );
        }
    }

    #[track_caller]
    fn check_bad(bytes: &[u8]) {
        let read = Preamble::read(bytes);
        assert!(matches!(read, Preamble::Bad(_)), "{bytes:?}: {read:?}");
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [PROTOCOL_PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    #[test]
    fn the_client_of_a_text_header_is_read_however_it_is_cut() {
        check(
            b"PROXY TCP4 203.0.113.7 10.0.0.1 51312 443\r\n",
            Some("203.0.113.7:51312"),
        );
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 5 443\r\n", Some("[2001:db8::7]:5"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN what ever this is\r\n", None);
    }

    #[test]
    fn the_client_of_a_binary_header_is_read_however_it_is_cut() {
        let ipv4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x70, 1, 0xbb];
        check(&binary(1, 0x11, &ipv4), Some("203.0.113.7:51312"));
        let with_tlv = [&ipv4[..], &[4, 0, 2, 0, 0]].concat();
        check(&binary(1, 0x11, &with_tlv), Some("203.0.113.7:51312"));
        let mut ipv6 = [0; 36];
        ipv6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().expect("one").octets());
        ipv6[33] = 9;
        check(&binary(1, 0x21, &ipv6), Some("[2001:db8::7]:9"));
        check(&binary(0, 0x00, &[]), None);
        check(&binary(0, 0x11, &ipv4), None);
        check(&binary(1, 0x31, &[0; 216]), None);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        check_bad(b"GET / HTTP/1.1\r\n\r\n");
        check_bad(b"\x16\x03\x01\x02\x00");
        check_bad(b"PROXY TCP4 here there 1 2\r\n");
        check_bad(b"PROXY TCP4 203.0.113.7 10.0.0.1 99999 443\r\n");
        check_bad(&[b"PROXY TCP4 ", &[b'1'; 200][..]].concat());
        check_bad(&binary(1, 0x11, &[0; 3]));
        check_bad(&binary(7, 0x11, &[0; 12]));
        check_bad(&binary(1, 0x11, &[0; MAX_BINARY]));
    }
}
