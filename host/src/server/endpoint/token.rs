//! Finds and checks the token of a client that connects, if its mount asks for one.

use bennu_wire::dialect::Dialect;
use http::StatusCode;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::Endpoint;
use super::connect::{Attempt, Denied};
use crate::config::{Auth, Mount, TokenPlace};
use crate::runtime::client_lines::{Source, client_line};
use crate::server::auth::{self, Pass, Refused};
use crate::server::closes::RefusalReason;
use crate::server::io::Client;
use crate::server::transport::longpoll::token::TokenKey;
use crate::server::transport::websocket::subprotocol;

/// The name of the parameter that long polling has for its own token.
const SESSION_PARAM: &str = "token";
const NO_TEXT: Refused = Refused::Malformed("what stands in its place is no text");
const TWO: Refused = Refused::Malformed("there are two in one place");

/// What the client's token says. `None`: the mount checks none, or it lets clients in without one.
///
/// # Errors
///
/// If the client has no good token.
pub(super) fn pass(attempt: &Attempt<'_>) -> Result<Option<Pass>, Denied> {
    let Some(auth) = &attempt.mount.auth else {
        return Ok(None);
    };
    let judged = match find(attempt, auth) {
        None if auth.required => Err(Refused::Missing),
        None => return Ok(None),
        Some(token) => token.and_then(|token| {
            let routing = attempt.endpoint.state.routing();
            let guard = routing.guards.of(&attempt.mount.path).ok_or(Refused::NoKeys)?;
            let pass = guard.check(&token, auth::wall_ms())?;
            pass.with_id_of(routing.config.limits.max_topic_bytes)
        }),
    };
    judged.map(Some).map_err(|refused| denied(attempt, &refused))
}

/// Counts a token that is refused, and logs it.
pub(super) fn note_refused(endpoint: &Endpoint, client: Client, mount: &Mount, transport: &str, refused: &Refused) {
    let peer = client.peer;
    endpoint.state.hub.metrics.refused_token(refused.label());
    client_line!(
        INFO,
        endpoint.lines(),
        "token",
        Source::of(peer.ip()),
        connection = client.connection,
        %peer,
        mount = mount.path,
        transport,
        reason = refused.label(),
        "token refused: {refused}"
    );
}

fn denied(attempt: &Attempt<'_>, refused: &Refused) -> Denied {
    let Attempt {
        endpoint,
        client,
        mount,
        transport,
        ..
    } = attempt;
    note_refused(endpoint, *client, mount, transport, refused);
    match refused {
        Refused::NoKeys => Denied {
            reason: RefusalReason::Token,
            ..Denied::unavailable(refused.told()).with_detail(refused.to_string())
        },
        _ => {
            let status = match attempt.dialect {
                Dialect::Supabase => StatusCode::UNAUTHORIZED,
                Dialect::Modern | Dialect::Phoenix011 => StatusCode::FORBIDDEN,
            };
            let denied = Denied::new(status, RefusalReason::Token).with_detail(refused.to_string());
            // A browser does not show its page what the server says, so only the page of `dev` is told.
            attempt
                .endpoint
                .tell_denied(&mount.path, denied.status, &refused.to_string());
            denied
        }
    }
}

/// The token in the first place that has one. What is there and cannot be read is a bad token, never none.
fn find(attempt: &Attempt<'_>, auth: &Auth) -> Option<Result<String, Refused>> {
    let is_token = |found: &Result<String, Refused>| !found.as_ref().is_ok_and(String::is_empty);
    auth.from
        .iter()
        .find_map(|place| in_place(attempt, place).filter(is_token))
}

fn in_place(attempt: &Attempt<'_>, place: &TokenPlace) -> Option<Result<String, Refused>> {
    let headers = &attempt.parts.headers;
    match place {
        TokenPlace::AuthToken => match &attempt.auth_token {
            Some(token) => Some(Ok(token.clone())),
            None if attempt.transport == "websocket" && subprotocol::offers_token(headers) => Some(Err(TWO)),
            None => None,
        },
        TokenPlace::Param(name) if name == SESSION_PARAM && attempt.transport == "longpoll" => {
            beside_session(attempt.parts.uri.query()?)
        }
        TokenPlace::Param(name) => Some(match attempt.params.find(name)? {
            Value::String(token) => Ok(token),
            _ => Err(NO_TEXT),
        }),
        TokenPlace::Join(_) => None,
        TokenPlace::Header(name) => {
            let mut lines = headers.get_all(name).iter().filter(|line| !line.is_empty());
            let line = lines.next()?;
            Some(match line.to_str() {
                _ if lines.next().is_some() => Err(TWO),
                Ok(line) => Ok(without_scheme(name, line).to_owned()),
                Err(_) => Err(NO_TEXT),
            })
        }
    }
}

/// The token in a header, with or without its scheme. `Authorization` with another scheme has none: a proxy may want a password.
fn without_scheme<'a>(name: &str, line: &'a str) -> &'a str {
    let line = line.trim();
    let (scheme, token) = line.split_once(' ').unwrap_or((line, ""));
    match token.trim() {
        token if scheme.eq_ignore_ascii_case("bearer") => token,
        "" => line,
        _ if name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) => "",
        _ => line,
    }
}

/// A client of long polling may send its own `token` before that of its session, which may be `null` or of a session that is gone.
/// If there is only one, it is the client's own unless it looks like that of a session.
fn beside_session(query: &str) -> Option<Result<String, Refused>> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs = pairs.map(|(name, value)| (decoded(name), decoded(value)));
    let (mut texts, mut others) = (Vec::new(), false);
    for (name, value) in pairs {
        match name.strip_prefix(SESSION_PARAM) {
            Some("") => texts.push(value),
            Some(rest) => others |= rest.starts_with('['),
            None => {}
        }
    }
    match &texts[..] {
        _ if others => Some(Err(NO_TEXT)),
        [only] if only == "null" || TokenKey::looks_sealed(only) => None,
        [own, ..] => Some(Ok(own.clone())),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of a session's token.
    const SEALED: usize = 95;

    #[test]
    fn a_header_has_a_token_with_or_without_its_scheme() {
        for (name, line, expected) in [
            ("Authorization", "Bearer a.b.c", "a.b.c"),
            ("Authorization", "bearer  a.b.c ", "a.b.c"),
            ("Authorization", "a.b.c", "a.b.c"),
            ("Authorization", "Bearer", ""),
            ("Authorization", "Basic dXNlcjpwYXNz", ""),
            ("x-token", "Bearer a.b.c", "a.b.c"),
            ("x-token", "a b", "a b"),
            ("x-token", "", ""),
        ] {
            assert_eq!(without_scheme(name, line), expected, "{name}: {line}");
        }
    }

    #[test]
    fn a_token_of_long_polling_is_no_token_of_a_client() {
        let check = |query: &str, expected: Option<&str>| {
            let found = beside_session(query).map(|token| token.expect("a text"));
            assert_eq!(found.as_deref(), expected, "{query}");
        };
        let sealed = "SeAlEd_-".repeat(SEALED / 8) + &"A".repeat(SEALED % 8);
        check("vsn=2.0.0&token=a.b.c&token=null", Some("a.b.c"));
        check(&format!("token=a.b.c&token={sealed}"), Some("a.b.c"));
        check("token=a%2Eb.c", Some("a.b.c"));
        check(&format!("token={sealed}&vsn=2.0.0"), None);
        check("token=null", None);
        check("token=bad", Some("bad"));
        check("token=", Some(""));
        check("token=bad&token=null", Some("bad"));
        check("token=&token=null", Some(""));
        check("mytoken=a.b.c&xtoken=1", None);
        check("", None);
        for query in ["token[]=x&token=null", "token=null&token%5Ba%5D=x"] {
            assert_eq!(beside_session(query), Some(Err(NO_TEXT)), "{query}");
        }
    }
}
