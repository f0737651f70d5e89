//! Reads `Sec-WebSocket-Protocol`: the subprotocols that a client offers, and the auth token that may be among them.
//!
//! A browser lets a page set no other header of a WebSocket's handshake, so phoenix.js sends its `authToken` here.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL};

use super::handshake::{HandshakeError, tokens};

/// The prefix of an entry that is a token.
const TOKEN: &str = "base64url.bearer.phx.";

/// The subprotocol that a client with a token offers beside it.
const PHOENIX: &str = "phoenix";

/// The result of a client's offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreed<'a> {
    /// The subprotocol, for the answer.
    pub(crate) subprotocol: Option<&'a str>,
    /// The token, decoded.
    pub(crate) auth_token: Option<String>,
}

/// Picks the first of `served` that the client offers. A client that offers none may connect without one, and so may every client
/// if none is served. With `takes_token` the subprotocol `phoenix` is served before the others, and a token is read if there is
/// exactly one.
///
/// # Errors
///
/// If the client offers some and none of them is served; if the token is not base64 of UTF-8.
pub(crate) fn negotiate<'a>(
    headers: &HeaderMap,
    takes_token: bool,
    served: &'a [String],
) -> Result<Agreed<'a>, HandshakeError> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Ok(Agreed::default());
    }
    let mut offered: Vec<&str> = tokens(headers, &SEC_WEBSOCKET_PROTOCOL)
        .filter(|entry| !entry.is_empty())
        .collect();
    let auth_token = if takes_token { take_token(&mut offered)? } else { None };
    // A token alone is no offer, so the client may connect without a subprotocol. (Browsers do not accept that; others do.)
    let only_token = auth_token.is_some() && offered.is_empty();
    let served = takes_token
        .then_some(PHOENIX)
        .into_iter()
        .chain(served.iter().map(String::as_str));
    let mut served = served.peekable();
    if only_token || served.peek().is_none() {
        let subprotocol = None;
        return Ok(Agreed {
            subprotocol,
            auth_token,
        });
    }
    let subprotocol = served
        .find(|name| offered.contains(name))
        .ok_or(HandshakeError::Subprotocol)?;
    Ok(Agreed {
        subprotocol: Some(subprotocol),
        auth_token,
    })
}

/// Whether there is a token among the offered subprotocols, or several.
#[must_use]
pub(crate) fn offers_token(headers: &HeaderMap) -> bool {
    tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|entry| entry.starts_with(TOKEN))
}

/// A header line without the tokens in it.
#[must_use]
pub(crate) fn without_token(line: &str) -> String {
    let entries = line.split(',').map(str::trim).filter(|entry| !entry.starts_with(TOKEN));
    entries.collect::<Vec<_>>().join(", ")
}

/// Takes the token out, if there is exactly one.
fn take_token(offered: &mut Vec<&str>) -> Result<Option<String>, HandshakeError> {
    let mut found = offered.iter().filter_map(|entry| entry.strip_prefix(TOKEN));
    let (Some(encoded), None) = (found.next(), found.next()) else {
        return Ok(None);
    };
    let token = decode(encoded).ok_or(HandshakeError::Token)?;
    offered.retain(|entry| !entry.starts_with(TOKEN));
    Ok(Some(token))
}

/// Decodes both alphabets of base64, because phoenix.js uses another one than the prefix says; with or without padding.
fn decode(text: &str) -> Option<String> {
    let decode = |alphabet: &Alphabet| {
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        GeneralPurpose::new(alphabet, config).decode(text).ok()
    };
    String::from_utf8(decode(&STANDARD).or_else(|| decode(&URL_SAFE))?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let value = |line: &&[u8]| HeaderValue::from_bytes(line).ok();
        let values = lines.iter().filter_map(value);
        values.map(|value| (SEC_WEBSOCKET_PROTOCOL, value)).collect()
    }

    #[track_caller]
    fn check(
        offered: &[&str],
        takes_token: bool,
        served: &[&str],
        expected: Result<(Option<&str>, Option<&str>), HandshakeError>,
    ) {
        let lines: Vec<&[u8]> = offered.iter().map(|line| line.as_bytes()).collect();
        let served: Vec<String> = served.iter().map(|name| (*name).to_owned()).collect();
        let agreed = negotiate(&headers(&lines), takes_token, &served);
        let agreed = agreed
            .as_ref()
            .map(|agreed| (agreed.subprotocol, agreed.auth_token.as_deref()))
            .map_err(|error| *error);
        assert_eq!(agreed, expected, "{offered:?} {served:?}");
    }

    #[test]
    fn the_first_served_subprotocol_that_is_offered_is_chosen() {
        let chosen = |name| Ok((Some(name), None));
        check(&[], false, &["phoenix"], Ok((None, None)));
        check(&["anything"], false, &[], Ok((None, None)));
        check(&["other, phoenix"], false, &["phoenix"], chosen("phoenix"));
        check(&["a,b"], false, &["b", "a"], chosen("b"));
        check(&["a", "b"], false, &["b"], chosen("b"));
        check(&["A"], false, &["a"], Err(HandshakeError::Subprotocol));
        check(&[""], false, &["a"], Err(HandshakeError::Subprotocol));
        assert_eq!(HandshakeError::Subprotocol.response().status(), 403);
    }

    #[test]
    fn a_token_is_read_beside_phoenix() {
        let token = |token| Ok((Some("phoenix"), Some(token)));
        check(&["phoenix, base64url.bearer.phx.aGVsbG8"], true, &[], token("hello"));
        check(&["base64url.bearer.phx.aGVsbG8,phoenix"], true, &[], token("hello"));
        check(&["phoenix", "base64url.bearer.phx.aGVsbG8="], true, &[], token("hello"));
        // The same text in both alphabets, which differ in it.
        check(&["phoenix, base64url.bearer.phx.fj8/Pz4+"], true, &[], token("~???>>"));
        check(&["phoenix, base64url.bearer.phx.fj8_Pz4-"], true, &[], token("~???>>"));
        check(&["phoenix, base64url.bearer.phx."], true, &[], token(""));
        check(
            &["chat, phoenix, base64url.bearer.phx.aGVsbG8"],
            true,
            &["chat"],
            token("hello"),
        );
        check(
            &["chat, base64url.bearer.phx.aGVsbG8"],
            true,
            &["chat"],
            Ok((Some("chat"), Some("hello"))),
        );
    }

    #[test]
    fn no_token_or_two_are_none() {
        check(&[], true, &[], Ok((None, None)));
        check(&["phoenix"], true, &[], Ok((Some("phoenix"), None)));
        let two = "phoenix, base64url.bearer.phx.aGVsbG8, base64url.bearer.phx.aGVsbG8";
        check(&[two], true, &[], Ok((Some("phoenix"), None)));
    }

    #[test]
    fn a_token_without_phoenix_goes_on_without_a_subprotocol() {
        check(&["base64url.bearer.phx.aGVsbG8"], true, &[], Ok((None, Some("hello"))));
        check(
            &["chat, base64url.bearer.phx.aGVsbG8"],
            true,
            &[],
            Err(HandshakeError::Subprotocol),
        );
    }

    #[test]
    fn a_token_that_is_no_base64_of_text_is_refused() {
        for token in ["!", "a", "aGVsbG8 aGVsbG8", "/w", "_w", "aGV.sbG8", "+_"] {
            let offer = format!("phoenix, base64url.bearer.phx.{token}");
            check(&[&offer], true, &[], Err(HandshakeError::Token));
        }
        assert_eq!(HandshakeError::Token.response().status(), 403);
    }

    #[test]
    fn a_token_where_none_is_taken_is_a_subprotocol_as_any() {
        let offer = ["phoenix, base64url.bearer.phx.!"];
        check(&offer, false, &[], Ok((None, None)));
        check(&offer, false, &["phoenix"], Ok((Some("phoenix"), None)));
    }

    #[test]
    fn a_line_can_be_shown_without_its_token() {
        assert_eq!(
            without_token("phoenix,base64url.bearer.phx.aGVsbG8, chat"),
            "phoenix, chat"
        );
        assert_eq!(without_token("base64url.bearer.phx.!"), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_offers_are_answered(
            lines in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![
                    prop::sample::select(&b"phoenix, =+/_-aZ9"[..]).prop_map(|byte| vec![byte]),
                    (b'\x80'..=b'\xff').prop_map(|byte| vec![byte]),
                    Just(TOKEN.as_bytes().to_vec()),
                ], 0..20).prop_map(|parts| parts.concat()),
                0..3,
            ),
            takes_token: bool,
            serves: bool,
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let served = if serves { vec!["a".to_owned()] } else { Vec::new() };
            let headers = headers(&lines);
            if let Ok(agreed) = negotiate(&headers, takes_token, &served) {
                prop_assert!(takes_token || agreed.auth_token.is_none());
                let mut offered = tokens(&headers, &SEC_WEBSOCKET_PROTOCOL);
                prop_assert!(agreed.subprotocol.is_none_or(|name| offered.any(|offered| offered == name)));
            }
        }
    }
}
