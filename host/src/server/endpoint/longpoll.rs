//! `<mount>/longpoll`: sessions over plain requests.
//!
//! The HTTP status is 200, and the body holds the real one: old browsers hide the HTTP status. Exceptions are 400 for another method,
//! and 503 with an empty body from a server that is full or stopping, or cannot decide now. The token names the I/O
//! thread that owns the session; a request that arrives on another thread is passed on.

use std::str::Utf8Error;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::Endpoint;
use super::connect::{self, Attempt};
use super::params::Params;
use super::relay::{self, Polled};
use crate::config::{LongPoll, Mount};
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::Client;
use crate::server::transport::longpoll::Published;
use crate::server::transport::longpoll::body::{self, BodyLimits};
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
    let key = endpoint.token_key(&mount, &config.crypto);
    let (parts, body) = request.into_parts();
    let exchange = Exchange {
        endpoint,
        mount,
        config,
        key,
        client,
        parts,
    };
    if !connect::origin_allowed(&exchange.endpoint, client, &exchange.mount, "longpoll", &exchange.parts).await {
        return status(403);
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
        (position.node == self.endpoint.node).then_some(position)
    }

    async fn poll(self) -> Response {
        let Ok(params) = Params::parse(self.parts.uri.query().unwrap_or("")) else {
            self.refused(RefusalReason::Query, 400, None);
            return status(400);
        };
        let Some(position) = self.position(&params) else {
            return self.open(&params).await;
        };
        match relay::poll(&self.endpoint, &self.config, &position).await {
            Polled::Messages(answer) => {
                let token = self.token(&Position {
                    last: answer.position,
                    ..position
                });
                let payloads: Vec<_> = answer.messages.iter().map(body::message).collect();
                let body = body::envelope(payloads.iter().map(|payload| &payload[..]), 200, &token);
                relay::messages(&self.endpoint, body).map_or_else(status, with_cors)
            }
            Polled::Nothing => json(body::envelope(std::iter::empty(), 204, &self.token(&position))),
            // A new session would end as soon, and phoenix.js before 1.8 takes 410 for the start of one. After an empty body
            // all versions try again.
            Polled::Gone if self.endpoint.state.is_stopping() => {
                with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response())
            }
            Polled::Gone => self.open(&params).await,
        }
    }

    /// Opens a session and answers with status 410, from which the client learns its token.
    async fn open(self, params: &Params) -> Response {
        let (endpoint, mount) = (&self.endpoint, &self.mount);
        // phoenix.js takes an empty body for a lost connection. A text would stop its oldest versions for good.
        if let Some(reason) = endpoint.state.turns_away() {
            self.refused(reason, 503, None);
            return with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response());
        }
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
        };
        let socket = match attempt.decide().await {
            Ok(socket) => socket,
            Err(denied) => {
                return match denied.retry_after_s {
                    Some(_) => with_cors(denied.without_body().response()),
                    None => status(403),
                };
            }
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
        match relay::is_alive(&self.endpoint, &self.config, &position).await {
            Some(true) => {}
            Some(false) => return status(410),
            None => return status(408),
        }
        let limit = self.endpoint.state.routing().config.limits.max_message_bytes;
        // A body has room for one message of the largest size, in base64, and for others in front of it. Each has its own bound.
        let (request, _share) = match relay::collect(&self.endpoint, request, limit.saturating_mul(4)).await {
            Ok(request) => request,
            Err(code) => return status(code),
        };
        let body_limits = BodyLimits {
            message_bytes: limit,
            lines: self.config.max_batch_messages,
        };
        let content_type = self.parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let frames = match body::messages(content_type, &request, body_limits) {
            Ok(frames) => frames,
            Err(error) => return status(error.status()),
        };
        // Each line was copied.
        drop(request);
        match relay::publish(&self.endpoint, &self.config, &position, frames).await {
            Some(Published::Accepted | Published::Refused) => status(200),
            Some(Published::Malformed) => status(400),
            Some(Published::Gone) => status(410),
            None => status(408),
        }
    }
}

fn status(code: u16) -> Response {
    json(body::status(code))
}

fn json(body: Bytes) -> Response {
    with_cors(relay::json(body))
}

fn with_cors(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
