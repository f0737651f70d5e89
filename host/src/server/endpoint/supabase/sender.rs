//! Who sends a request: the tokens in its headers and its query.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use super::super::params::Params;
use super::super::token;
use super::{Exchange, Refusal};
use crate::server::auth::{self, Refused};

/// The places of keys, in headers and in the query.
const KEYS: [&str; 2] = ["apikey", "x-api-key"];

/// The claims of the sender: those of the token in `Authorization`, or else those of the API key. `None`: the mount checks no
/// tokens, or needs none.
///
/// # Errors
///
/// If a token is bad. A good one beside it does not help: a key alone is not the user whom the other token should name.
pub(super) fn claims(exchange: &Exchange<'_>) -> Result<Option<Bytes>, Refusal> {
    let Some(auth) = &exchange.mount.auth else {
        return Ok(None);
    };
    let query = exchange.parts.uri.query().unwrap_or("");
    let tokens = tokens(&exchange.parts.headers, query).map_err(|refused| bad(exchange, &refused))?;
    if tokens.is_empty() && auth.required {
        return Err(bad(exchange, &Refused::Missing));
    }
    let routing = exchange.endpoint.state.routing();
    let mut first = None;
    for token in tokens {
        let guard = routing.guards.of(&exchange.mount.path).ok_or(Refused::NoKeys);
        let pass = guard.and_then(|guard| guard.check(&token, auth::wall_ms()));
        let pass = pass.map_err(|refused| bad(exchange, &refused))?;
        if pass.socket_id.as_ref().is_some_and(|id| exchange.is_kept_away(id)) {
            return Err(bad(exchange, &Refused::KeptAway));
        }
        first.get_or_insert(pass.claims);
    }
    Ok(first)
}

/// The tokens that a request shows, each once. The one that counts comes first.
fn tokens(headers: &HeaderMap, query: &str) -> Result<Vec<String>, Refused> {
    let mut found: Vec<String> = Vec::new();
    let mut take = |token: &str| {
        let token = token.trim();
        if !token.is_empty() && !found.iter().any(|known| known == token) {
            found.push(token.to_owned());
        }
    };
    for name in [AUTHORIZATION.as_str()].into_iter().chain(KEYS) {
        for line in headers.get_all(name) {
            let line = { line.to_str() }.map_err(|_| Refused::Malformed("what stands in its place is no text"))?;
            take(match line.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
                None if line.eq_ignore_ascii_case("bearer") => "",
                _ => line,
            });
        }
    }
    let params = Params::parse(query).map_err(|_| Refused::Malformed("the query cannot be read"))?;
    for name in KEYS {
        match params.find(name) {
            Some(serde_json::Value::String(key)) => take(&key),
            Some(_) => return Err(Refused::Malformed("what stands in its place is no text")),
            None => {}
        }
    }
    Ok(found)
}

fn bad(exchange: &Exchange<'_>, refused: &Refused) -> Refusal {
    token::note_refused(exchange.endpoint, exchange.client, exchange.mount, "http", refused);
    match refused {
        Refused::NoKeys => Refusal::unavailable("the keys of tokens are not there yet"),
        Refused::Missing => Refusal::new(StatusCode::UNAUTHORIZED, "an API key is needed: the header `apikey`"),
        _ => Refusal::new(StatusCode::UNAUTHORIZED, refused.told()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], query: &str, expected: &[&str]) {
        let pairs = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        assert_eq!(
            tokens(&pairs.collect(), query),
            Ok(expected.iter().map(|&token| token.to_owned()).collect())
        );
    }

    #[test]
    fn the_token_of_a_user_comes_before_the_key_and_each_counts_once() {
        check(&[], "", &[]);
        check(&[("apikey", "k")], "", &["k"]);
        check(
            &[("x-api-key", "k"), ("authorization", "Bearer u")],
            "apikey=k",
            &["u", "k"],
        );
        check(&[("apikey", "k"), ("authorization", "bearer  k")], "", &["k"]);
        check(&[("apikey", "k"), ("authorization", "Bearer")], "", &["k"]);
        check(
            &[("apikey", ""), ("authorization", "u")],
            "x-api-key=q&a=b",
            &["u", "q"],
        );
    }

    #[test]
    fn what_is_no_text_is_a_bad_token_and_never_none() {
        let mut headers = HeaderMap::new();
        headers.insert("apikey", HeaderValue::from_bytes(&[0xff]).expect("allowed"));
        assert!(tokens(&headers, "").is_err());
        assert!(tokens(&HeaderMap::new(), "apikey[]=k").is_err());
        assert!(tokens(&HeaderMap::new(), "apikey=%ff").is_err());
    }
}
