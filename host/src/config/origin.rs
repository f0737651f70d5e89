//! Reads the entries of `check_origin` and `origins`.

use super::model::OriginPattern;

/// Why a text is not an [`OriginPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OriginError {
    /// There is no `//`.
    #[error("`//` is missing before the host")]
    Slashes,
    /// The text before `://` is not a scheme.
    #[error("the text before `//` is not a scheme")]
    Scheme,
    /// There is a path, a query or a user name.
    #[error("only a host and a port may follow `//`")]
    Rest,
    /// There is no host, or one that no browser sends.
    #[error("the host is not a host name")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
}

impl OriginPattern {
    /// Reads `https://h`, `https://h:p`, `//h`, `//h:p`, or any of these with `*.` before the host.
    ///
    /// A known scheme without a port means its default port. An IPv6 address keeps its brackets.
    ///
    /// # Errors
    ///
    /// If the text has another form.
    pub(crate) fn parse(text: &str) -> Result<Self, OriginError> {
        let (scheme, rest) = text.split_once("//").ok_or(OriginError::Slashes)?;
        let scheme = scheme_of(scheme)?;
        if rest.contains(['/', '?', '#', '@']) {
            return Err(OriginError::Rest);
        }
        let (host, port) = split_port(rest)?;
        let (host, subdomains) = host.strip_prefix("*.").map_or((host, false), |host| (host, true));
        let host = host.to_ascii_lowercase();
        if !Self::is_host(&host) {
            return Err(OriginError::Host);
        }
        let port = port.or_else(|| own_port(scheme.as_deref()?));
        Ok(Self {
            scheme,
            host,
            subdomains,
            port,
        })
    }

    /// Whether a text is a host as browsers write it: lower case, ASCII, an IPv6 address in brackets.
    #[must_use]
    pub(crate) fn is_host(host: &str) -> bool {
        if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            return address.parse::<std::net::Ipv6Addr>().is_ok();
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        host.split('.')
            .all(|label| !label.is_empty() && label.chars().all(allowed))
    }
}

/// The part before `//`: nothing, or a scheme and `:`.
fn scheme_of(text: &str) -> Result<Option<String>, OriginError> {
    if text.is_empty() {
        return Ok(None);
    }
    let scheme = text.strip_suffix(':').ok_or(OriginError::Scheme)?.to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_alphanumeric() || ['+', '-', '.'].contains(&c);
    let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(allowed);
    good.then_some(Some(scheme)).ok_or(OriginError::Scheme)
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`.
pub(crate) fn split_port(text: &str) -> Result<(&str, Option<u16>), OriginError> {
    match text.rsplit_once(':') {
        // The last colon is part of an IPv6 address.
        Some(_) if text.ends_with(']') => Ok((text, None)),
        None => Ok((text, None)),
        Some((host, port)) => {
            let digits = port.chars().all(|c| c.is_ascii_digit());
            let port = port
                .parse()
                .ok()
                .filter(|port| digits && *port > 0)
                .ok_or(OriginError::Port)?;
            Ok((host, Some(port)))
        }
    }
}

/// The default port of a scheme.
pub(crate) fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, scheme: Option<&str>, host: &str, subdomains: bool, port: Option<u16>) {
        let expected = OriginPattern {
            scheme: scheme.map(str::to_owned),
            host: host.to_owned(),
            subdomains,
            port,
        };
        assert_eq!(OriginPattern::parse(text), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_refused(text: &str, expected: OriginError) {
        assert_eq!(OriginPattern::parse(text), Err(expected), "{text}");
    }

    #[test]
    fn a_scheme_implies_its_default_port() {
        check("https://example.com", Some("https"), "example.com", false, Some(443));
        check("http://example.com", Some("http"), "example.com", false, Some(80));
        check(
            "HTTPS://Example.COM:8443",
            Some("https"),
            "example.com",
            false,
            Some(8443),
        );
        check("capacitor://localhost", Some("capacitor"), "localhost", false, None);
    }

    #[test]
    fn an_entry_without_a_scheme_matches_any() {
        check("//example.com", None, "example.com", false, None);
        check("//example.com:81", None, "example.com", false, Some(81));
        check("//*.example.com", None, "example.com", true, None);
        check("//[::1]:4000", None, "[::1]", false, Some(4000));
        check("//[::1]", None, "[::1]", false, None);
        check("https://*.example.com", Some("https"), "example.com", true, Some(443));
    }

    #[test]
    fn a_text_that_no_origin_can_equal_is_refused() {
        check_refused("example.com", OriginError::Slashes);
        check_refused("https:example.com", OriginError::Slashes);
        check_refused("https//example.com", OriginError::Scheme);
        check_refused("9p://example.com", OriginError::Scheme);
        check_refused("https://example.com/", OriginError::Rest);
        check_refused("https://user@example.com", OriginError::Rest);
        check_refused("//", OriginError::Host);
        check_refused("//*", OriginError::Host);
        check_refused("//a.*.com", OriginError::Host);
        check_refused("//*.", OriginError::Host);
        check_refused("//bücher.example", OriginError::Host);
        check_refused("//[::g]", OriginError::Host);
        check_refused("//example.com:", OriginError::Port);
        check_refused("//example.com:0", OriginError::Port);
        check_refused("//example.com:+1", OriginError::Port);
        check_refused("//example.com:65536", OriginError::Port);
    }

    proptest! {
        #[test]
        fn arbitrary_entries_have_a_host_or_are_refused(text in "(https?:)?[/*.:a-z0-9é@\\[\\]-]{0,16}") {
            if let Ok(pattern) = OriginPattern::parse(&text) {
                prop_assert!(!pattern.host.is_empty() && !pattern.host.contains('*'), "{}", text);
            }
        }
    }
}
