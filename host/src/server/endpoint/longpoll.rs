//! `<mount>/longpoll`: sessions over plain requests.
//!
//! The HTTP status is 200, and the body holds the real one: old browsers hide the HTTP status. Exceptions are 400 for another method,
//! and 503 with an empty body from a server that is full or stopping, or cannot decide now. The token names the node
//! and the I/O thread that own the session; a request that arrives elsewhere is passed on ([`relay`]).

use std::str::Utf8Error;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::Endpoint;
use super::connect::{self, Attempt, Denied};
use super::params::Params;
use super::relay::{self, Failed, Polled, Session};
use crate::config::{LongPoll, Mount};
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::Client;
use crate::server::socket::Places;
use crate::server::transport::longpoll::Published;
use crate::server::transport::longpoll::body;
use crate::server::transport::longpoll::token::{Position, TokenKey};

/// The header for the session's token, instead of the query.
const TOKEN_HEADER: &str = "x-phoenix-longpoll-token";

/// The header for the auth token.
const AUTH_TOKEN_HEADER: &str = "x-phoenix-authtoken";

/// One request.
struct Exchange {
    endpoint: Arc<Endpoint>,
    mount: Arc<Mount>,
    config: LongPoll,
    key: Arc<TokenKey>,
    client: Client,
    parts: Parts,
}

/// Answers a request: origin, then preflight, poll or publish.
pub(super) async fn serve(
    endpoint: Arc<Endpoint>,
    mount: Arc<Mount>,
    client: Client,
    request: Request<Body>,
) -> Response {
    let Some(config) = mount.longpoll.clone() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let key = endpoint.token_key(&mount, Dialect::Modern, &config.crypto);
    let (parts, body) = request.into_parts();
    let exchange = Exchange {
        endpoint,
        mount,
        config,
        key,
        client,
        parts,
    };
    let origin = connect::check_origin(&exchange.endpoint, client, &exchange.mount, "longpoll", &exchange.parts);
    if let Err(denied) = origin.await {
        return turned_away(denied);
    }
    match exchange.parts.method {
        Method::GET => exchange.poll().await,
        Method::POST => exchange.publish(body).await,
        Method::OPTIONS => exchange.preflight(),
        _ => {
            exchange.refused(RefusalReason::Method, 400, None);
            with_cors(StatusCode::BAD_REQUEST.into_response())
        }
    }
}

impl Exchange {
    /// Notes that the client is not let in.
    fn refused(&self, reason: RefusalReason, status: u16, detail: Option<&str>) {
        let refused = Refused::new(reason, status, detail);
        self.endpoint
            .refuse(self.client, Some(&self.mount), "longpoll", refused);
    }

    fn preflight(&self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.headers_mut().extend(relay::cors(&self.parts.headers));
        response
    }

    /// The client's position, if its token opens. A token in the header takes precedence over one in the query.
    fn position(&self, params: &Params) -> Option<Position> {
        let header = self
            .parts
            .headers
            .get(TOKEN_HEADER)
            .map(|value| value.to_str().unwrap_or(""));
        let position = self.key.open(header.or(params.token.as_deref())?, relay::now_ms())?;
        self.endpoint.reaches(position.node).then_some(position)
    }

    fn session<'a>(&'a self, position: &'a Position) -> Session<'a> {
        Session {
            endpoint: &self.endpoint,
            mount: &self.mount.path,
            dialect: Dialect::Modern,
            config: &self.config,
            position,
        }
    }

    async fn poll(self) -> Response {
        let Ok(params) = Params::parse(self.parts.uri.query().unwrap_or("")) else {
            self.refused(RefusalReason::Query, 400, None);
            return status(400);
        };
        let Some(position) = self.position(&params) else {
            return self.open(&params).await;
        };
        let polled = self.session(&position).poll().await;
        match polled {
            Polled::Messages(messages, last) => {
                let token = self.token(&Position { last, ..position });
                let body = body::envelope(messages.iter().map(|message| &message[..]), 200, &token);
                relay::messages(&self.endpoint, body).map_or_else(status, with_cors)
            }
            Polled::Nothing => json(body::envelope(std::iter::empty(), 204, &self.token(&position))),
            // A new session would end as soon, and phoenix.js before 1.8 takes 410 for the start of one. After an empty body
            // all versions try again.
            Polled::Gone if self.endpoint.state.is_stopping() => {
                with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response())
            }
            Polled::Gone => self.open(&params).await,
            Polled::Unavailable => with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        }
    }

    /// Opens a session and answers with status 410, from which the client learns its token.
    async fn open(self, params: &Params) -> Response {
        let (endpoint, mount) = (&self.endpoint, &self.mount);
        let session = match endpoint.state.take_in(self.client.peer.ip()) {
            Ok(session) => session,
            Err(away) => {
                endpoint.refuse(self.client, Some(mount), "longpoll", away.refused());
                return super::turned_away(&away);
            }
        };
        let Ok(auth_token) = self.auth_token() else {
            self.refused(RefusalReason::AuthToken, 403, Some("the auth token is not UTF-8"));
            return status(403);
        };
        let attempt = Attempt {
            endpoint,
            mount,
            dialect: Dialect::Modern,
            transport: "longpoll",
            parts: &self.parts,
            params,
            client: self.client,
            auth_token,
            places: Places {
                session,
                ..Places::default()
            },
        };
        let socket = match attempt.decide().await {
            Ok(socket) => socket,
            Err(denied) => return turned_away(denied),
        };
        match relay::open(endpoint, self.client.thread, socket).await {
            Some(position) => json(body::envelope(std::iter::empty(), 410, &self.token(&position))),
            None => status(503),
        }
    }

    /// The auth token, if the mount takes one. It is plain text, not base64.
    fn auth_token(&self) -> Result<Option<String>, Utf8Error> {
        let header = self
            .parts
            .headers
            .get(AUTH_TOKEN_HEADER)
            .filter(|_| self.mount.auth_token);
        let text = header.map(|value| str::from_utf8(value.as_bytes())).transpose()?;
        Ok(text.map(str::to_owned))
    }

    fn token(&self, position: &Position) -> String {
        self.key.seal(position, relay::now_ms())
    }

    async fn publish(self, request: Body) -> Response {
        let Ok(params) = Params::parse(self.parts.uri.query().unwrap_or("")) else {
            return status(400);
        };
        let Some(position) = self.position(&params) else {
            return status(410);
        };
        let session = self.session(&position);
        if let Err(failed) = session.find().await {
            return refusal(failed);
        }
        let limit = self.endpoint.state.routing().config.limits.max_message_bytes;
        // A body has room for one message of the largest size, in base64, and for others in front of it. Each has its own bound.
        let (request, _share) = match relay::collect(&self.endpoint, request, limit.saturating_mul(4)).await {
            Ok(request) => request,
            Err(code) => return status(code),
        };
        let content_type = self.parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        match session.publish(body::has_lines(content_type), request).await {
            Ok(Published::Accepted | Published::Refused) => status(200),
            Ok(Published::Malformed) => status(400),
            Ok(Published::Gone) => status(410),
            Err(failed) => refusal(failed),
        }
    }
}

/// The answer to a POST that the session has not taken.
fn refusal(failed: Failed) -> Response {
    status(match failed {
        Failed::Gone => 410,
        Failed::Late => 408,
        Failed::Unavailable => 503,
        Failed::Body(code) => code,
    })
}

fn status(code: u16) -> Response {
    json(body::status(code))
}

fn json(body: Bytes) -> Response {
    with_cors(relay::json(body))
}

/// The answer to a client that may not connect. One that may come back gets a status of HTTP, which phoenix.js takes for a lost
/// connection.
fn turned_away(denied: Denied) -> Response {
    match denied.retry_after_s {
        Some(_) => with_cors(denied.without_body().response()),
        None => status(403),
    }
}

fn with_cors(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
