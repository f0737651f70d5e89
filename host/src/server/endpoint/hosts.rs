//! Checks which host a request is for, so that no web page reaches the admin listener or the page of `dev` under a name of
//! its own.
//!
//! A page may have its own name lead to 127.0.0.1 (DNS rebinding). The browser then takes the listener for a part of the
//! page's site, and lets the page read everything. Its requests still have that name in `Host`.

use std::net::IpAddr;

use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, Version};

/// The hosts that a listener answers for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hosts<'a> {
    /// The address of the listener.
    pub(crate) listen: IpAddr,
    /// More names, in lower case.
    pub(crate) names: &'a [&'a str],
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misdirected {
    /// It is for this host.
    Other(String),
    /// It names no host, or more than one.
    Unclear,
}

impl Hosts<'_> {
    /// Checks every host that a request names: in its target and in `Host`.
    ///
    /// # Errors
    ///
    /// If one of them is another host, if there are two `Host`s, or if there is none. HTTP/1.0 needs none: no browser speaks it.
    pub(crate) fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Misdirected> {
        let mut named = headers.get_all(HOST).iter();
        let header = named.next();
        if named.next().is_some() || (header.is_none() && version > Version::HTTP_10) {
            return Err(Misdirected::Unclear);
        }
        let header = header.map(|value| value.to_str().ok().and_then(|text| text.parse::<Authority>().ok()));
        let header = match header {
            Some(None) => return Err(Misdirected::Unclear),
            Some(Some(authority)) => Some(authority),
            None => None,
        };
        for authority in uri.authority().into_iter().chain(&header) {
            if !self.has(authority.host()) {
                return Err(Misdirected::Other(authority.host().to_owned()));
            }
        }
        Ok(())
    }

    fn has(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        // A name may end with the dot of the root.
        let host = host.strip_suffix('.').unwrap_or(&host);
        if self.names.contains(&host) {
            return true;
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address.map(|address| address.to_canonical()) {
            // No name leads elsewhere: it is the address that the user has asked for.
            Ok(address) => {
                let own = self.listen.to_canonical();
                address.is_loopback() || address == own || own.is_unspecified()
            }
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

impl Misdirected {
    /// The answer, which says what to do.
    pub(crate) fn response(&self) -> Response {
        let nosniff = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];
        (StatusCode::FORBIDDEN, nosniff, self.text("admin")).into_response()
    }

    /// What it says. `section` has the names that the listener answers for.
    pub(crate) fn text(&self, section: &str) -> String {
        match self {
            Self::Other(host) => format!(
                "Bennu does not answer for the host `{host}` here.\n\n\
                 It answers for localhost and its own address only, so that no web page can reach it under a name of its own \
                 (DNS rebinding). If you use this name on purpose, add it to bennu.toml:\n\n\
                 [{section}]\nhosts = [\"{}\"]\n",
                host.to_ascii_lowercase()
            ),
            Self::Unclear => "Bennu answers only for requests that name one host in their `Host` header.\n".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["bennu.internal"];

    fn checked(listen: &str, target: &str, hosts: &[&str]) -> Result<(), Misdirected> {
        let mut request = http::Request::get(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let listen = listen.parse().expect("an address");
        Hosts { listen, names: NAMES }.check(parts.version, &parts.uri, &parts.headers)
    }

    #[track_caller]
    fn check(listen: &str, host: &str, answered: bool) {
        assert_eq!(
            checked(listen, "/plugins", &[host]).is_ok(),
            answered,
            "{host} at {listen}"
        );
    }

    #[test]
    fn a_listener_answers_for_loopback_its_own_address_and_the_names_of_the_configuration() {
        for host in [
            "localhost",
            "localhost:4001",
            "LocalHost.:4001",
            "bennu.localhost",
            "127.0.0.1",
            "127.0.0.1:4001",
            "127.1.2.3",
            "[::1]:4001",
            "bennu.internal",
            "Bennu.Internal:80",
        ] {
            check("127.0.0.1", host, true);
            check("192.0.2.1", host, true);
            check("0.0.0.0", host, true);
        }
        check("192.0.2.1", "192.0.2.1:4001", true);
        check("::ffff:192.0.2.1", "192.0.2.1", true);
        check("0.0.0.0", "192.0.2.7:4001", true);
        check("::", "[2001:db8::1]", true);
    }

    #[test]
    fn a_listener_answers_for_no_other_host() {
        for host in [
            "evil.example",
            "evil.example:4001",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil-localhost",
            "evil.bennu.internal",
            "user@evil.example",
        ] {
            check("127.0.0.1", host, false);
            check("0.0.0.0", host, false);
        }
        check("127.0.0.1", "192.0.2.1:4001", false);
        check("192.0.2.1", "192.0.2.2", false);
    }

    #[test]
    fn the_host_of_the_target_counts_too_and_two_hosts_are_none() {
        let other = Err(Misdirected::Other("evil.example".to_owned()));
        assert_eq!(
            checked("127.0.0.1", "http://evil.example/plugins", &["localhost"]),
            other
        );
        assert_eq!(
            checked("127.0.0.1", "http://localhost/plugins", &["evil.example"]),
            other
        );
        assert_eq!(checked("127.0.0.1", "http://localhost/plugins", &["localhost"]), Ok(()));
        for hosts in [&["localhost", "localhost"][..], &[], &["not a host"], &[""]] {
            assert_eq!(
                checked("127.0.0.1", "/plugins", hosts),
                Err(Misdirected::Unclear),
                "{hosts:?}"
            );
        }
    }
}
