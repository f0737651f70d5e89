//! `<mount>/longpoll`: sessions over plain requests.
//!
//! Whatever happens, the HTTP status is 200 and the body says what it was (old browsers hide the status). A request that
//! arrives on another I/O thread than its session's is passed there: the token says which.

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
use crate::server::io::Client;
use crate::server::transport::longpoll::token::{Position, TokenKey};
use crate::server::transport::longpoll::{Published, body};

/// The header that carries the token in place of the query.
const TOKEN_HEADER: &str = "x-phoenix-longpoll-token";

/// The header that carries the client's own token, for the connect handler.
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
    if !connect::origin_allowed(&exchange.endpoint, &exchange.mount, &exchange.parts).await {
        return status(403);
    }
    match exchange.parts.method {
        Method::GET => exchange.poll().await,
        Method::POST => exchange.publish(body).await,
        Method::OPTIONS => exchange.preflight(),
        _ => with_cors(StatusCode::BAD_REQUEST.into_response()),
    }
}

impl Exchange {
    fn preflight(&self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.headers_mut().extend(relay::cors(&self.parts.headers));
        response
    }

    /// Where the client says it stands, if its token opens. A header goes before the query.
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
                json(body::envelope(payloads.iter().map(|payload| &payload[..]), 200, &token))
            }
            Polled::Nothing => json(body::envelope(std::iter::empty(), 204, &self.token(&position))),
            // A new session would be gone as soon, and without one 410 would be a lie: phoenix.js before 1.8 takes it for the
            // beginning of one. Without a body it tries again, in all versions.
            Polled::Gone if self.endpoint.state.is_stopping() => {
                with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response())
            }
            Polled::Gone => self.open(&params).await,
        }
    }

    /// A client without a session gets one, and status 410: that is how it learns its token.
    async fn open(self, params: &Params) -> Response {
        let (endpoint, mount) = (&self.endpoint, &self.mount);
        // The body is empty, which phoenix.js takes for a lost connection: a text would stop its oldest versions for good.
        if endpoint.state.turns_away() {
            return with_cors(StatusCode::SERVICE_UNAVAILABLE.into_response());
        }
        let Ok(auth_token) = self.auth_token() else {
            tracing::info!(mount = mount.path, "client refused: the auth token is no text");
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
                endpoint.refused();
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

    /// The token for the connect handler, where the mount takes one. It comes as it is, not in base64.
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
        self.key.seal(position)
    }

    async fn publish(self, request: Body) -> Response {
        let Ok(params) = Params::parse(self.parts.uri.query().unwrap_or("")) else {
            return status(400);
        };
        let Some(position) = self.position(&params) else {
            return status(410);
        };
        let limits = self.endpoint.state.routing().config.limits.clone();
        let limit = limits.max_message_bytes;
        // Base64 and line ends around a hundred messages at most, of which each has its own bound.
        let request = match relay::collect(request, limit.saturating_mul(4), limits.header_timeout).await {
            Ok(request) => request,
            Err(code) => return status(code),
        };
        let content_type = self.parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let frames = match body::messages(content_type, &request, limit) {
            Ok(frames) => frames,
            Err(error) => return status(error.status()),
        };
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
