//! Checks the `Origin` of a request against `check_origin` of a mount.
//!
//! Scheme and host are compared regardless of case. A missing port is the default port of the scheme.

use bennu_plugin::wire::OriginInfo;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use crate::config::origin::{own_port, split_port};
use crate::config::{CheckOrigin, OriginPattern};
use crate::server::io::Client;

/// The address that a request was sent to, with which `check_origin = "conn"` compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestOrigin {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Without the port. Empty if the request names none.
    pub(crate) host: String,
    /// The default port of the scheme if the request names none.
    pub(crate) port: u16,
}

impl RequestOrigin {
    /// Reads it from a request. The scheme is `https` if the client speaks TLS with the server, or with a trusted proxy in front of it.
    #[must_use]
    pub(crate) fn of(request: &Parts) -> Self {
        let header = request
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok()?.parse().ok());
        let authority: Option<Authority> = request.uri.authority().cloned().or(header);
        let is_secure = request
            .extensions
            .get::<Client>()
            .is_some_and(|client| client.is_secure);
        let (scheme, port) = if is_secure { ("https", 443) } else { ("http", 80) };
        Self {
            scheme,
            host: authority.as_ref().map_or("", Authority::host).to_owned(),
            port: authority.as_ref().and_then(Authority::port_u16).unwrap_or(port),
        }
    }
}

/// Whether a request with this `Origin` may connect. A request without one always may. If a plugin decides, it is not asked here,
/// and the request is refused.
#[must_use]
pub(crate) fn allowed(policy: &CheckOrigin, origin: Option<&str>, request: &RequestOrigin) -> bool {
    let Some(origin) = origin else { return true };
    if *policy == CheckOrigin::Off {
        return true;
    }
    // `null`, `file://` and an empty origin have no host that could be allowed.
    let Some(origin) = Origin::parse(origin) else {
        return false;
    };
    match policy {
        CheckOrigin::Off => true,
        CheckOrigin::Hosts(hosts) => hosts.iter().any(|host| host.eq_ignore_ascii_case(&origin.host)),
        CheckOrigin::List(patterns) => patterns.iter().any(|pattern| origin.matches(pattern)),
        CheckOrigin::Conn => origin.equals(request),
        CheckOrigin::Plugin(_) => false,
    }
}

/// What a plugin is told about an `Origin` on which it decides.
#[must_use]
pub(crate) fn told(mount: &str, text: &str) -> OriginInfo {
    let scheme = text
        .trim()
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let (host, port) = Origin::parse(text).map_or((None, None), |origin| (Some(origin.host), origin.port));
    OriginInfo {
        mount: mount.to_owned(),
        origin: text.to_owned(),
        scheme,
        host,
        port,
    }
}

/// The scheme, host and port of a page.
#[derive(Debug)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// `None` if there is no host.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = split_port(authority.rsplit('@').next().unwrap_or_default()).ok()?;
        if host.is_empty() {
            return None;
        }
        let port = port.or_else(|| own_port(&scheme));
        Some(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn matches(&self, pattern: &OriginPattern) -> bool {
        let host = match self.host.strip_suffix(pattern.host.as_str()) {
            Some("") => true,
            // A label ends at a dot: `prefix-example.com` is not a subdomain of `example.com`.
            Some(labels) => pattern.subdomains && labels.ends_with('.'),
            None => false,
        };
        host && pattern.scheme.as_ref().is_none_or(|scheme| *scheme == self.scheme)
            && pattern.port.is_none_or(|port| Some(port) == self.port)
    }

    fn equals(&self, request: &RequestOrigin) -> bool {
        self.scheme == request.scheme
            && self.port == Some(request.port)
            && self.host.eq_ignore_ascii_case(&request.host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(target: &str, host: &str) -> RequestOrigin {
        let request = http::Request::get(target).header("host", host).body(()).unwrap();
        RequestOrigin::of(&request.into_parts().0)
    }

    fn here() -> RequestOrigin {
        request("/socket/websocket", "example.com:4000")
    }

    #[track_caller]
    fn check(policy: &CheckOrigin, origin: &str, expected: bool) {
        assert_eq!(allowed(policy, Some(origin), &here()), expected, "{policy:?} {origin}");
    }

    fn list(entries: &[&str]) -> CheckOrigin {
        CheckOrigin::List(
            entries
                .iter()
                .map(|entry| OriginPattern::parse(entry).unwrap())
                .collect(),
        )
    }

    #[test]
    fn no_origin_is_always_allowed() {
        for policy in [
            CheckOrigin::Off,
            CheckOrigin::Hosts(vec![]),
            CheckOrigin::List(vec![]),
            CheckOrigin::Conn,
            CheckOrigin::Plugin("auth".into()),
        ] {
            assert!(allowed(&policy, None, &here()));
        }
    }

    #[test]
    fn off_allows_everything() {
        for origin in ["null", "file://", "", "https://evil.example"] {
            check(&CheckOrigin::Off, origin, true);
        }
    }

    #[test]
    fn an_origin_without_a_host_is_refused() {
        for policy in [
            CheckOrigin::Hosts(vec![String::new(), "null".into()]),
            list(&["//null"]),
            CheckOrigin::Conn,
        ] {
            for origin in [
                "null",
                "file://",
                "",
                "://",
                "https://",
                "https://:80",
                "//example.com",
                "example.com",
                "https://example.com:port",
            ] {
                check(&policy, origin, false);
            }
        }
    }

    #[test]
    fn hosts_are_compared_alone() {
        let policy = CheckOrigin::Hosts(vec!["example.com".into(), "localhost".into()]);
        check(&policy, "https://example.com", true);
        check(&policy, "http://EXAMPLE.com:1234", true);
        check(&policy, "ionic://localhost", true);
        check(&policy, "https://sub.example.com", false);
        check(&policy, "https://example.com.evil.example", false);
        check(&policy, "https://example.com@evil.example", false);
    }

    #[test]
    fn a_list_entry_restricts_what_it_names() {
        let https = list(&["https://example.com"]);
        check(&https, "https://example.com", true);
        check(&https, "https://example.com:443", true);
        check(&https, "http://example.com", false);
        check(&https, "https://example.com:444", false);
        let port = list(&["https://example.com:8443"]);
        check(&port, "https://example.com:8443", true);
        check(&port, "https://example.com", false);
        let host = list(&["//example.com"]);
        check(&host, "http://example.com:99", true);
        check(&host, "capacitor://example.com", true);
        check(&host, "https://sub.example.com", false);
        let host_and_port = list(&["//example.com:99"]);
        check(&host_and_port, "http://example.com:99", true);
        check(&host_and_port, "http://example.com", false);
        check(&list(&["//a.example", "//b.example"]), "http://b.example", true);
        check(&list(&[]), "http://b.example", false);
        check(&list(&["//[::1]:4000"]), "http://[::1]:4000", true);
    }

    #[test]
    fn a_wildcard_takes_the_host_and_its_subdomains() {
        for entry in ["//*.example.com", "https://*.example.com"] {
            let policy = list(&[entry]);
            check(&policy, "https://example.com", true);
            check(&policy, "https://a.example.com", true);
            check(&policy, "https://a.b.EXAMPLE.com", true);
            check(&policy, "https://prefix-example.com", false);
            check(&policy, "https://example.com.evil.example", false);
        }
        check(&list(&["https://*.example.com"]), "http://a.example.com", false);
    }

    #[test]
    fn conn_compares_with_the_request() {
        check(&CheckOrigin::Conn, "http://example.com:4000", true);
        check(&CheckOrigin::Conn, "http://example.com", false);
        check(&CheckOrigin::Conn, "https://example.com:4000", false);
        check(&CheckOrigin::Conn, "http://other.example:4000", false);
        let own_port = request("/", "Example.com");
        for origin in ["http://example.com", "http://example.com:80"] {
            assert!(allowed(&CheckOrigin::Conn, Some(origin), &own_port), "{origin}");
        }
        assert!(!allowed(&CheckOrigin::Conn, Some("https://example.com"), &own_port));
        let address = request("/", "[::1]:4000");
        assert!(allowed(&CheckOrigin::Conn, Some("http://[::1]:4000"), &address));
    }

    #[test]
    fn a_request_says_where_it_came_in() {
        let expected = |host: &str, port| RequestOrigin {
            scheme: "http",
            host: host.to_owned(),
            port,
        };
        assert_eq!(request("/", "a.example"), expected("a.example", 80));
        assert_eq!(request("/", "a.example:81"), expected("a.example", 81));
        assert_eq!(request("http://b.example:82/", "a.example"), expected("b.example", 82));
        assert_eq!(request("/", "not a host"), expected("", 80));
    }

    #[test]
    fn a_plugin_is_told_origins_with_and_without_a_host() {
        let check = |text: &str, scheme: Option<&str>, host: Option<&str>, port: Option<u16>| {
            let info = told("/socket", text);
            let found = (info.scheme.as_deref(), info.host.as_deref(), info.port);
            assert_eq!((found, &*info.origin), ((scheme, host, port), text));
        };
        check("https://A.example", Some("https"), Some("a.example"), Some(443));
        check("HTTP://a.example:81", Some("http"), Some("a.example"), Some(81));
        check("app://a", Some("app"), Some("a"), None);
        check("file://", Some("file"), None, None);
        check("null", None, None, None);
        check("", None, None, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_origins_are_answered(origin in "[a-z:/@.*\\[\\]0-9é]{0,24}") {
            let _ = allowed(&list(&["//*.a.b"]), Some(&origin), &here());
            let _ = told("/socket", &origin);
            let _ = OriginPattern::parse(&origin);
        }
    }
}
