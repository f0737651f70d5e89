//! Finds and checks the token of a client that connects, if its mount asks for one.

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::connect::{Attempt, Denied};
use crate::config::{Auth, TokenPlace};
use crate::runtime::client_lines::{Source, client_line};
use crate::server::auth::{self, Pass, Refused};
use crate::server::closes::RefusalReason;

/// The name of the parameter that long polling has for its own token.
const SESSION_PARAM: &str = "token";

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
        Some(token) => {
            let routing = attempt.endpoint.state.routing();
            let guard = routing.guards.of(&attempt.mount.path);
            guard.map_or(Err(Refused::NoKeys), |guard| guard.check(&token, auth::wall_ms()))
        }
    };
    judged.map(Some).map_err(|refused| denied(attempt, &refused))
}

fn denied(attempt: &Attempt<'_>, refused: &Refused) -> Denied {
    let (mount, peer) = (&attempt.mount.path, attempt.client.peer);
    attempt.endpoint.state.hub.metrics.refused_token(refused.label());
    client_line!(
        INFO,
        attempt.endpoint.lines(),
        "token",
        Source::of(peer.ip()),
        connection = attempt.client.connection,
        %peer,
        mount,
        transport = attempt.transport,
        reason = refused.label(),
        "token refused: {refused}"
    );
    match refused {
        Refused::NoKeys => Denied {
            reason: RefusalReason::Token,
            ..Denied::unavailable(refused.told()).with_detail(refused.to_string())
        },
        _ => {
            let denied = Denied::new(StatusCode::FORBIDDEN, RefusalReason::Token).with_detail(refused.to_string());
            // A browser does not show its page what the server says, so only the page of `dev` is told.
            attempt.endpoint.tell_denied(mount, denied.status, &refused.to_string());
            denied
        }
    }
}

/// The token in the first place that has one.
fn find(attempt: &Attempt<'_>, auth: &Auth) -> Option<String> {
    auth.from
        .iter()
        .find_map(|place| match place {
            TokenPlace::AuthToken => attempt.auth_token.clone(),
            TokenPlace::Param(name) if name == SESSION_PARAM && attempt.transport == "longpoll" => {
                beside_session(attempt.parts.uri.query()?)
            }
            TokenPlace::Param(name) => attempt.params.text(name),
            TokenPlace::Header(name) => {
                let value = attempt.parts.headers.get(name)?.to_str().ok()?;
                let is_bearer = |scheme: &str| scheme.eq_ignore_ascii_case("bearer");
                let token = { value.split_once(' ') }.filter(|(scheme, _)| is_bearer(scheme));
                Some(token.map_or(value, |(_, token)| token).trim().to_owned())
            }
        })
        .filter(|token| !token.is_empty())
}

/// A client of long polling may send its own `token` before that of its session, which may be `null` or of a session that is gone.
/// Only its own has dots.
fn beside_session(query: &str) -> Option<String> {
    let values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix(SESSION_PARAM)?.strip_prefix('='));
    values
        .filter_map(|value| percent_decode_str(value).decode_utf8().ok())
        .find(|value| value.contains('.'))
        .map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_long_polling_is_no_token_of_a_client() {
        let check = |query: &str, expected: Option<&str>| {
            assert_eq!(beside_session(query).as_deref(), expected, "{query}");
        };
        check("vsn=2.0.0&token=a.b.c&token=null", Some("a.b.c"));
        check("token=a.b.c&token=SeAlEd_-0", Some("a.b.c"));
        check("token=a%2Eb.c", Some("a.b.c"));
        check("token=SeAlEd_-0&vsn=2.0.0", None);
        check("token=null", None);
        check("mytoken=a.b.c&xtoken=1", None);
        check("", None);
    }
}
