//! Who may see and change what the admin listener serves: whoever shows the secret, or a browser that has logged in with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::Admin;
use super::attempts::{Attempts, TooMany};
use super::sessions::Sessions;
use crate::runtime::client_lines::{Source, client_line};

/// The environment variable that holds the secret.
pub(crate) const SECRET_VARIABLE: &str = "BENNU_ADMIN_SECRET";

/// The shortest secret, in bytes.
const LEAST_BYTES: usize = 16;

/// The longest name of an operator, in characters.
const MOST_NAME: usize = 40;

/// The admin listener is not protected as it must be.
#[derive(Debug, thiserror::Error)]
pub enum Unprotected {
    /// Other machines could reach it, and there is no secret.
    #[error("other machines could reach the admin listener {0}: set {SECRET_VARIABLE}, or listen on 127.0.0.1")]
    Open(SocketAddr),
    /// Its secret is short enough to be guessed.
    #[error("{SECRET_VARIABLE} has {0} bytes, but needs at least {LEAST_BYTES}; `bennu secret` prints one")]
    Short(usize),
}

/// The secret from the environment.
///
/// # Errors
///
/// If it is too short, or if there is none and `listen` is no loopback address.
pub(crate) fn secret(listen: SocketAddr) -> Result<Option<String>, Unprotected> {
    let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
    match &secret {
        None if !listen.ip().is_loopback() => Err(Unprotected::Open(listen)),
        Some(secret) if secret.len() < LEAST_BYTES => Err(Unprotected::Short(secret.len())),
        _ => Ok(secret),
    }
}

/// Where a request comes from. The listener adds it to each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) SocketAddr);

/// Who has sent a request that is let in, for the log.
#[derive(Clone, Debug)]
pub(super) struct Operator(pub(super) Arc<str>);

/// What decides who is let in.
pub(super) struct Access {
    /// `None`: everybody who reaches the listener, which is on a loopback address then.
    secret: Option<String>,
    pub(super) sessions: Sessions,
    attempts: Attempts,
    /// The name of the cookie. It has the port, because browsers send a cookie to every port of a host.
    cookie: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("has_secret", &self.secret.is_some())
            .field("sessions", &self.sessions.count())
            .finish_non_exhaustive()
    }
}

/// Why a request is not let in.
enum Denied {
    /// It shows no secret and no session, or a wrong one.
    Unknown,
    /// Too many wrong secrets came from its address.
    TooMany(TooMany),
    /// Another site has made the browser send it.
    OtherSite,
}

impl Access {
    /// With this secret, or without one.
    pub(super) fn new(secret: Option<String>, listen: SocketAddr) -> Self {
        Self {
            secret,
            sessions: Sessions::default(),
            attempts: Attempts::default(),
            cookie: format!("bennu_admin_{}", listen.port()),
        }
    }

    /// Who sends this request.
    fn operator(&self, admin: &Admin, headers: &HeaderMap, Caller(peer): Caller) -> Result<Operator, Denied> {
        let address = peer.ip().to_canonical();
        let Some(secret) = &self.secret else {
            return Ok(Operator(address.to_string().into()));
        };
        if let Some(given) = bearer(headers) {
            return self.shows(admin, secret, given, peer).map(|()| {
                let who = format!("somebody with the secret, {address}");
                Operator(who.into())
            });
        }
        let longest = admin.state.routing().config.admin.session_timeout;
        let id = self.session_id(headers).ok_or(Denied::Unknown)?;
        let operator = self.sessions.find(id, longest, Instant::now()).ok_or(Denied::Unknown)?;
        // A page on another port of this host has the cookie sent, too.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        match site {
            None | Some(b"same-origin" | b"none") => Ok(Operator(operator)),
            Some(_) => Err(Denied::OtherSite),
        }
    }

    /// Whether `given` is the secret. Wrong ones are counted by address.
    fn shows(&self, admin: &Admin, secret: &str, given: &str, peer: SocketAddr) -> Result<(), Denied> {
        let most = admin.state.routing().config.admin.max_wrong_secrets;
        // In constant time: how long it takes says nothing about the secret.
        let is_right = || secret.as_bytes().ct_eq(given.as_bytes()).into();
        let source = Source::of(peer.ip());
        match self.attempts.attempt(source.clone(), most, Instant::now(), is_right) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let lines = &admin.state.hub.client_lines;
                client_line!(WARN, lines, "wrong secret", source, peer = %peer, "wrong secret at the admin listener");
                Err(Denied::Unknown)
            }
            Err(too_many) => Err(Denied::TooMany(too_many)),
        }
    }

    fn session_id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|(name, _)| *name == self.cookie)
            .map(|(_, id)| id)
    }

    /// The header that sets the cookie. Without an id it removes it.
    fn set_cookie(&self, id: Option<&str>, seconds: u64, headers: &HeaderMap) -> [(HeaderName, String); 1] {
        // Behind a proxy with TLS, only the page's origin shows that the browser speaks TLS.
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        let secure = match origin.is_some_and(|origin| origin.starts_with(b"https://")) {
            true => "; Secure",
            false => "",
        };
        let (cookie, id) = (&self.cookie, id.unwrap_or_default());
        [(
            SET_COOKIE,
            format!("{cookie}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"),
        )]
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => StatusCode::UNAUTHORIZED.into_response(),
            Self::TooMany(TooMany(wait)) => {
                let seconds = wait.as_secs() + 1;
                let text = format!("too many wrong secrets came from this address: try again in {seconds} s\n");
                let again = [(RETRY_AFTER, seconds.to_string())];
                (StatusCode::TOO_MANY_REQUESTS, again, text).into_response()
            }
            Self::OtherSite => (StatusCode::FORBIDDEN, "another site has sent this request\n").into_response(),
        }
    }
}

/// Lets in whoever shows the secret or has logged in.
pub(super) async fn guard(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match admin.access.operator(&admin, request.headers(), caller) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(denied) => denied.into_response(),
    }
}

/// Refuses what a page of another origin has the browser send.
pub(super) async fn own_origin(request: Request, next: Next) -> Response {
    if is_own(request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let text = "this request comes from a page of another origin. A proxy must pass `Host` on as the browser sent it\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Whether the page that sends a request is of the host that it is for. Programs name no `Origin`.
fn is_own(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(Authority::as_str).or(host);
    page.zip(host)
        .is_some_and(|((_, page), host)| page.eq_ignore_ascii_case(host))
}

/// Whether a browser has to log in, and whether it has.
pub(super) async fn session(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let access = &admin.access;
    let operator = access.operator(&admin, &headers, caller).ok();
    Json(json!({
        "needs_secret": access.secret.is_some(), "is_open": operator.is_some(), "operator": operator.as_ref().map(|Operator(operator)| &**operator),
    }))
    .into_response()
}

/// What a browser may say when it logs in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogIn {
    /// Who it is, for the log: all have the same secret.
    #[serde(default)]
    name: String,
}

/// Opens a session for a browser that shows the secret.
pub(super) async fn log_in(
    State(admin): State<Admin>,
    Extension(Caller(peer)): Extension<Caller>,
    headers: HeaderMap,
    written: Option<Json<LogIn>>,
) -> Response {
    let access = &admin.access;
    let Some(secret) = &access.secret else {
        return (StatusCode::CONFLICT, "there is no secret to log in with\n").into_response();
    };
    let shown = bearer(&headers).ok_or(Denied::Unknown);
    if let Err(denied) = shown.and_then(|given| access.shows(&admin, secret, given, peer)) {
        return denied.into_response();
    }
    let config = admin.state.routing();
    let settings = &config.config.admin;
    let name = name(written.map(|Json(written)| written.name).as_deref().unwrap_or_default());
    let operator: Arc<str> = format!("{name}, {}", peer.ip().to_canonical()).into();
    let opened = access
        .sessions
        .open(Arc::clone(&operator), settings.max_sessions, Instant::now());
    let id = match opened {
        Ok(id) => id,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    tracing::info!(by = &*operator, peer = %peer, "operator logged in");
    admin.state.changes.note_by(&operator, None, "logged in");
    let cookie = access.set_cookie(Some(&id), settings.session_timeout.as_secs(), &headers);
    (StatusCode::NO_CONTENT, cookie).into_response()
}

/// Ends the session of a browser.
pub(super) async fn log_out(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if let Some(id) = admin.access.session_id(&headers) {
        admin.access.sessions.close(id);
    }
    (StatusCode::NO_CONTENT, admin.access.set_cookie(None, 0, &headers)).into_response()
}

/// An operator's name, fit for one line of the log.
fn name(written: &str) -> String {
    let name: String = { written.chars() }
        .filter(|letter| !letter.is_control() && *letter != ',')
        .take(MOST_NAME)
        .collect();
    match name.trim() {
        "" => "somebody".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line() {
        assert_eq!(name(" ann\nlee, "), "annlee");
        assert_eq!(name(&"ü".repeat(100)), "ü".repeat(MOST_NAME));
        assert_eq!(name("\t"), "somebody");
    }

    #[test]
    fn a_page_of_another_origin_is_none_of_ours() {
        let check = |origin: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, origin.parse().expect("a value"));
            headers.insert(HOST, host.parse().expect("a value"));
            is_own(&Uri::from_static("/session"), &headers)
        };
        assert!(check("http://127.0.0.1:4001", "127.0.0.1:4001"));
        assert!(check("https://Bennu.internal", "bennu.internal"));
        for origin in [
            "http://127.0.0.1:4000",
            "http://localhost:4001",
            "null",
            "file://",
            "http://evil.example",
        ] {
            assert!(!check(origin, "127.0.0.1:4001"), "{origin}");
        }
        assert!(is_own(&Uri::from_static("/"), &HeaderMap::new()), "no browser");
    }

    #[test]
    fn a_cookie_is_found_among_others_and_is_secure_where_the_page_is() {
        let access = Access::new(None, ([127, 0, 0, 1], 4001).into());
        let mut headers = HeaderMap::new();
        headers.insert(
            COOKIE,
            "a=b; bennu_admin_4002=x; bennu_admin_4001=one"
                .parse()
                .expect("a value"),
        );
        assert_eq!(access.session_id(&headers), Some("one"));
        let [(_, cookie)] = access.set_cookie(Some("one"), 60, &headers);
        assert_eq!(
            cookie,
            "bennu_admin_4001=one; Path=/; Max-Age=60; HttpOnly; SameSite=Strict"
        );
        headers.insert(ORIGIN, "https://bennu.internal".parse().expect("a value"));
        let [(_, cookie)] = access.set_cookie(None, 0, &headers);
        assert_eq!(
            cookie,
            "bennu_admin_4001=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure"
        );
    }
}
