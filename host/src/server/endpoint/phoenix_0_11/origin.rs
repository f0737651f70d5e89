//! Compares an `Origin` with the entries of `origins`: scheme, host and port. A part that one of the two leaves out equals
//! anything.
//!
//! Only the host is required: an origin without one, such as `null`, would equal everything.

use crate::config::OriginPattern;
use crate::config::origin::{own_port, split_port};

/// Whether an entry of the list equals an origin.
pub(super) fn is_listed(origins: &[OriginPattern], origin: &str) -> bool {
    Origin::parse(origin).is_some_and(|origin| origins.iter().any(|entry| origin.equals(entry)))
}

struct Origin {
    scheme: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// `None` if there is no host.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("//")?;
        let scheme = match scheme {
            "" => None,
            scheme => Some(scheme.strip_suffix(':')?.to_ascii_lowercase()),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = split_port(authority.rsplit('@').next().unwrap_or_default()).ok()?;
        let port = port.or_else(|| own_port(scheme.as_deref()?));
        let host = Some(host.to_ascii_lowercase()).filter(|host| !host.is_empty())?;
        Some(Self { scheme, host, port })
    }

    fn equals(&self, entry: &OriginPattern) -> bool {
        let host = match self.host.strip_suffix(entry.host.as_str()) {
            Some("") => true,
            Some(labels) => entry.subdomains && labels.ends_with('.'),
            None => false,
        };
        host && agree(self.scheme.as_ref(), entry.scheme.as_ref()) && agree(self.port, entry.port)
    }
}

/// Whether two parts are equal, or one of them is missing.
fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(entry: &str, origin: &str, expected: bool) {
        let origins = [OriginPattern::parse(entry).expect("an entry")];
        assert_eq!(is_listed(&origins, origin), expected, "{entry} {origin}");
    }

    #[test]
    fn an_entry_of_a_host_alone_takes_every_scheme_and_port() {
        check("//example.com", "http://example.com", true);
        check("//example.com", "https://EXAMPLE.com:8443", true);
        check("//example.com", "ionic://example.com", true);
        check("//example.com", "https://sub.example.com", false);
        check("//example.com", "https://example.com.evil.example", false);
        check("//example.com", "https://example.com@evil.example", false);
    }

    #[test]
    fn scheme_and_port_count_where_both_sides_have_them() {
        check("http://scheme.com", "http://scheme.com", true);
        check("http://scheme.com", "https://scheme.com", false);
        check("http://scheme.com", "http://scheme.com:80", true);
        check("http://scheme.com", "http://scheme.com:81", false);
        check("//port.com:81", "http://port.com:81", true);
        check("//port.com:81", "http://port.com:82", false);
        check("//port.com:81", "http://port.com", false);
        check("//port.com:81", "ionic://port.com", true);
        check("https://scheme.com", "//scheme.com", true);
    }

    #[test]
    fn an_origin_without_a_host_is_refused() {
        for origin in [
            "null",
            "",
            "file://",
            "http://",
            "http://:80",
            "example.com",
            "https:example.com",
        ] {
            check("//example.com", origin, false);
        }
        check("//example.com", "http://example.com:port", false);
    }

    #[test]
    fn one_entry_of_the_list_is_enough_and_an_empty_list_takes_nobody() {
        let origins = ["//a.example", "//b.example"].map(|entry| OriginPattern::parse(entry).expect("an entry"));
        assert!(is_listed(&origins, "http://b.example"));
        assert!(!is_listed(&origins, "http://c.example"));
        assert!(!is_listed(&[], "http://a.example"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_origins_are_answered(origin in "(//)?[ab:/@.*\\[\\]0-9é]{0,12}") {
            let origins = [OriginPattern::parse("//*.a.b").expect("an entry")];
            prop_assert!(!is_listed(&origins, &origin) || origin.contains("a.b"));
        }
    }
}
