//! Reads `Sec-WebSocket-Extensions`: whether messages may be compressed with permessage-deflate (RFC 7692).
//!
//! Both sides compress each message by itself, whatever the client prefers. So one compressed message serves all clients with the
//! same window, and compression costs an idle connection nothing.

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::frame::WINDOW_BITS;

const NAME: &str = "permessage-deflate";

/// The agreed compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// The window with which the client inflates: 2 to the power of 9 to 15 bytes.
    pub(crate) window_bits: u8,
    /// The client has asked for that window, so the answer confirms it.
    asked: bool,
}

/// Takes the first offer that can be met. `None`: no message is compressed.
#[must_use]
pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Deflate> {
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    lines
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .find_map(Deflate::accept)
}

impl Deflate {
    /// The answer.
    #[must_use]
    pub(crate) fn response(self) -> HeaderValue {
        let both = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        let answer = if self.asked {
            format!("{both}; server_max_window_bits={}", self.window_bits)
        } else {
            both
        };
        HeaderValue::try_from(answer).expect("letters and digits")
    }

    /// Reads an offer. `None` if it is for another extension, has a parameter that RFC 7692 does not define, has a parameter twice, or
    /// asks for a window that is too small.
    fn accept(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let (mut seen, mut window_bits) = (Vec::new(), None);
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
                None => (part, None),
            };
            match (name, value) {
                _ if seen.contains(&name) => return None,
                // The answer always contains both.
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                // The client offers to use a smaller window. The server can inflate with any.
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(value)) => drop(bits(value)?),
                ("server_max_window_bits", Some(value)) => {
                    window_bits = Some(bits(value).filter(|bits| WINDOW_BITS.contains(bits))?);
                }
                _ => return None,
            }
            seen.push(name);
        }
        Some(Self {
            window_bits: window_bits.unwrap_or(*WINDOW_BITS.end()),
            asked: window_bits.is_some(),
        })
    }
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// 8 to 15, without leading zeros.
fn bits(value: &str) -> Option<u8> {
    (8..=15).find(|bits| *value == bits.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn check(lines: &[&str], answer: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, line.parse().unwrap());
        }
        let agreed = negotiate(&headers).map(Deflate::response);
        assert_eq!(agreed, answer.map(|answer| answer.parse().unwrap()), "{lines:?}");
    }

    #[test]
    fn each_message_stands_alone_whatever_was_offered() {
        check(&[], None);
        check(&["permessage-deflate"], Some(BOTH));
        check(&["permessage-deflate; client_max_window_bits"], Some(BOTH));
        check(&["permessage-deflate;client_max_window_bits = \"10\""], Some(BOTH));
        check(&["Permessage-Deflate; server_no_context_takeover"], Some(BOTH));
        check(
            &["permessage-deflate; client_no_context_takeover; client_max_window_bits=8"],
            Some(BOTH),
        );
    }

    #[test]
    fn a_smaller_window_is_kept_to_and_said() {
        for bits in 9..=15 {
            let answer = format!("{BOTH}; server_max_window_bits={bits}");
            check(
                &[&format!("permessage-deflate; server_max_window_bits={bits}")],
                Some(&answer),
            );
        }
        check(&["permessage-deflate; server_max_window_bits=8"], None);
    }

    #[test]
    fn what_cannot_be_met_is_passed_over() {
        for offer in [
            "",
            ";",
            "permessage-bzip2",
            "x-webkit-deflate-frame",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; ",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ] {
            check(&[offer], None);
            check(&[&format!("{offer}, permessage-deflate")], Some(BOTH));
            check(&[offer, "permessage-deflate"], Some(BOTH));
        }
    }
}
