//! The headers in which a proxy says who its client is: `X-Forwarded-For` with `X-Forwarded-Proto`, or `Forwarded`.
//!
//! Each proxy adds an entry at the end, and clients can send any entries. So they are read from the end, as long as they stand for
//! trusted proxies: the first other one is the client.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::config::{Proxies, ProxyHeader};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How many entries are read: no request comes by more proxies.
const MAX_ENTRIES: usize = 32;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Where the client is. Its port is 0 if a proxy does not name it.
    pub(crate) address: SocketAddr,
    /// Whether it speaks TLS.
    pub(crate) is_secure: bool,
}

impl Sender {
    /// Who sent the request with these headers over a connection from `self`, which is believed if it is a trusted proxy, or
    /// `is_trusted` for another reason.
    #[must_use]
    pub(crate) fn behind(self, proxies: &Proxies, is_trusted: bool, headers: &HeaderMap) -> Self {
        if !is_trusted && !proxies.trusts(self.address.ip()) {
            return self;
        }
        match proxies.header {
            ProxyHeader::None => self,
            ProxyHeader::XForwardedFor => self.behind_x_forwarded(proxies, headers),
            ProxyHeader::Forwarded => self.behind_forwarded(proxies, headers),
        }
    }

    fn behind_x_forwarded(self, proxies: &Proxies, headers: &HeaderMap) -> Self {
        let entries = entries(headers, &X_FORWARDED_FOR, ',').into_iter();
        let address = first_other(self.address, proxies, entries.map(|entry| node(&entry)));
        // The proxy that the connection comes from has written this one.
        let scheme = entries_last(headers, &X_FORWARDED_PROTO);
        Self {
            address,
            is_secure: scheme.map_or(self.is_secure, |scheme| is_secure(&scheme)),
        }
    }

    fn behind_forwarded(self, proxies: &Proxies, headers: &HeaderMap) -> Self {
        let entries = entries(headers, &http::header::FORWARDED, ',');
        let pair = |entry: &str, name: &str| -> Option<String> {
            let pairs = split(entry, ';').into_iter();
            { pairs }.find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let is_it = key.trim().eq_ignore_ascii_case(name);
                is_it.then(|| unquoted(value.trim()))
            })
        };
        let nodes = entries.iter().map(|entry| node(&pair(entry, "for")?));
        let address = first_other(self.address, proxies, nodes);
        let scheme = entries.first().and_then(|entry| pair(entry, "proto"));
        Self {
            address,
            is_secure: scheme.map_or(self.is_secure, |scheme| is_secure(&scheme)),
        }
    }
}

/// The client: the first of these that is not a trusted proxy. What cannot be read ends the search, as nobody knows who is behind it.
fn first_other(
    connection: SocketAddr,
    proxies: &Proxies,
    nodes: impl Iterator<Item = Option<SocketAddr>>,
) -> SocketAddr {
    let mut last = connection;
    for node in nodes {
        let Some(node) = node else { return last };
        last = node;
        if !proxies.trusts(node.ip()) {
            return last;
        }
    }
    last
}

/// The entries of a header, the last one first, as all lines of it together have them.
fn entries(headers: &HeaderMap, name: &HeaderName, separator: char) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    // A line that is not text ends the search, as an entry that cannot be read does.
    let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap_or("?")).collect();
    let mut entries: Vec<String> = lines.iter().flat_map(|line| split(line, separator)).collect();
    entries.reverse();
    entries.truncate(MAX_ENTRIES);
    entries
}

fn entries_last(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    entries(headers, name, ',').into_iter().next()
}

fn is_secure(scheme: &str) -> bool {
    ["https", "wss"]
        .iter()
        .any(|secure| scheme.eq_ignore_ascii_case(secure))
}

/// Parts of a text, without blanks around them. A separator inside quotes separates nothing.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if c == separator && !quoted {
            parts.push(std::mem::take(&mut part).trim().to_owned());
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        part.push(c);
    }
    parts.push(part.trim().to_owned());
    parts
}

/// The value of `"value"`.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace('\\', ""))
}

/// The address of `203.0.113.7`, `203.0.113.7:80`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:80`. `None` for `unknown`, for a made
/// up name, and for anything else.
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, 0).into());
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<IpAddr>().ok().map(|ip| (ip, 0).into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ProxyHeader) -> Proxies {
        Proxies {
            trusted: ["127.0.0.0/8", "10.0.0.0/8", "2001:db8:1::/48"]
                .iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
            header,
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[track_caller]
    fn check(header: ProxyHeader, from: &str, lines: &[(&'static str, &str)], expected: &str, is_secure: bool) {
        let connection = Sender {
            address: from.parse().expect("an address"),
            is_secure: false,
        };
        let sender = connection.behind(&proxies(header), false, &headers(lines));
        let expected = expected.parse().expect("an address");
        assert_eq!(
            (sender.address, sender.is_secure),
            (expected, is_secure),
            "{from} {lines:?}"
        );
    }

    #[track_caller]
    fn check_x(from: &str, lines: &[(&'static str, &str)], expected: &str, is_secure: bool) {
        check(ProxyHeader::XForwardedFor, from, lines, expected, is_secure);
    }

    const FOR: &str = "x-forwarded-for";
    const PROTO: &str = "x-forwarded-proto";

    #[test]
    fn a_trusted_proxy_names_its_client() {
        check_x("127.0.0.1:9", &[(FOR, "203.0.113.7")], "203.0.113.7:0", false);
        check_x("127.0.0.1:9", &[(FOR, "203.0.113.7:51312")], "203.0.113.7:51312", false);
        check_x("127.0.0.1:9", &[(FOR, "2001:db8::7")], "[2001:db8::7]:0", false);
        check_x(
            "127.0.0.1:9",
            &[(FOR, "203.0.113.7"), (PROTO, "https")],
            "203.0.113.7:0",
            true,
        );
        check_x("[::ffff:127.0.0.1]:9", &[(FOR, "203.0.113.7")], "203.0.113.7:0", false);
        check_x("127.0.0.1:9", &[], "127.0.0.1:9", false);
    }

    #[test]
    fn nobody_else_is_believed() {
        check_x(
            "203.0.113.9:9",
            &[(FOR, "127.0.0.1"), (PROTO, "https")],
            "203.0.113.9:9",
            false,
        );
        let none = Proxies::default();
        let sender = Sender {
            address: ([127, 0, 0, 1], 9).into(),
            is_secure: false,
        };
        let lines = headers(&[(FOR, "203.0.113.7")]);
        assert_eq!(sender.behind(&none, false, &lines), sender);
        let client = ([203, 0, 113, 7], 0).into();
        assert_eq!(sender.behind(&none, true, &lines).address, client, "a Unix socket");
    }

    #[test]
    fn what_the_client_has_sent_itself_does_not_count() {
        check_x("127.0.0.1:9", &[(FOR, "10.9.9.9, 203.0.113.7")], "203.0.113.7:0", false);
        check_x(
            "127.0.0.1:9",
            &[(FOR, "1.1.1.1"), (FOR, "203.0.113.7")],
            "203.0.113.7:0",
            false,
        );
        check_x(
            "127.0.0.1:9",
            &[(FOR, "1.1.1.1, 203.0.113.7, 10.0.0.2")],
            "203.0.113.7:0",
            false,
        );
        check_x(
            "127.0.0.1:9",
            &[(FOR, "203.0.113.7, junk, 10.0.0.2")],
            "10.0.0.2:0",
            false,
        );
        check_x("127.0.0.1:9", &[(FOR, "10.0.0.3, 10.0.0.2")], "10.0.0.3:0", false);
        check_x(
            "127.0.0.1:9",
            &[(FOR, "203.0.113.7"), (PROTO, "https, http")],
            "203.0.113.7:0",
            false,
        );
    }

    #[test]
    fn the_other_header_is_read_only_where_it_is_the_chosen_one() {
        let lines = [("forwarded", "for=203.0.113.7"), (FOR, "198.51.100.1")];
        check(ProxyHeader::Forwarded, "127.0.0.1:9", &lines, "203.0.113.7:0", false);
        check(
            ProxyHeader::XForwardedFor,
            "127.0.0.1:9",
            &lines,
            "198.51.100.1:0",
            false,
        );
        check(ProxyHeader::None, "127.0.0.1:9", &lines, "127.0.0.1:9", false);
    }

    #[test]
    fn forwarded_is_read_with_its_quotes() {
        for (line, expected, is_secure) in [
            ("for=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7:0", true),
            ("For=\"[2001:db8::7]:4711\"; Proto=http", "[2001:db8::7]:4711", false),
            ("for=\"[2001:db8::7]\"", "[2001:db8::7]:0", false),
            (
                "for=1.1.1.1, for=203.0.113.7;proto=wss, for=10.0.0.2;proto=https",
                "203.0.113.7:0",
                true,
            ),
            ("for=203.0.113.7, for=unknown, for=10.0.0.2", "10.0.0.2:0", false),
            ("for=_hidden", "127.0.0.1:9", false),
            ("host=\"a, for=1.1.1.1\";for=203.0.113.7", "203.0.113.7:0", false),
        ] {
            check(
                ProxyHeader::Forwarded,
                "127.0.0.1:9",
                &[("forwarded", line)],
                expected,
                is_secure,
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_headers_are_answered(line in "[for=0-9.:,; \"\\\\\\[\\]a-z]{0,40}") {
            let headers = headers(&[("forwarded", &line), ("x-forwarded-for", &line)]);
            for header in [ProxyHeader::Forwarded, ProxyHeader::XForwardedFor] {
                let address = ([127, 0, 0, 1], 9).into();
                let _ = Sender { address, is_secure: false }.behind(&proxies(header), false, &headers);
            }
        }
    }
}
