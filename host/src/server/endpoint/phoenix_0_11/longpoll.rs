//! `<mount>/poll` in the Phoenix 0.11 dialect, function by function as they name it.
//!
//! The HTTP status is 200 and the body says what it was: the browsers of that time hide the status. Only a host that takes
//! nobody in answers 503, without a body, of which those clients make an error and come back later.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::Incoming;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, header};

use super::super::Endpoint;
use super::super::connect::Attempt;
use super::super::params::Params;
use super::super::relay::{self, Polled};
use crate::config::{LongPoll, Mount};
use crate::server::io::Client;
use crate::server::transport::Frame;
use crate::server::transport::longpoll::token::{Position, TokenKey};
use crate::server::transport::longpoll::{Published, body};

const DIALECT: Dialect = Dialect::Phoenix011;

/// The handler of one mount.
#[derive(Debug)]
pub(in crate::server::endpoint) struct LongPoller {
    mount: Arc<Mount>,
    settings: LongPoll,
}

impl LongPoller {
    /// Makes the handler from the mount's settings, which are checked. `None` where it does not serve this.
    pub(in crate::server::endpoint) fn init(mount: &Arc<Mount>) -> Option<Self> {
        Some(Self {
            settings: mount.longpoll_of(DIALECT)?.clone(),
            mount: Arc::clone(mount),
        })
    }

    /// Answers a request: origin, CORS, body, then what is asked for.
    pub(in crate::server::endpoint) async fn call(
        &self,
        endpoint: Arc<Endpoint>,
        client: Client,
        request: Request<Body>,
    ) -> Response {
        let (parts, body) = request.into_parts();
        if !super::check_origin(&self.mount, &parts) {
            return status(403);
        }
        let cors = relay::cors(&parts.headers);
        let mut response = match Conn::read(self, endpoint, client, parts, body).await {
            Ok((conn, message)) => conn.action(message).await,
            Err(refused) => refused,
        };
        response.headers_mut().extend(cors);
        response
    }
}

/// One request.
struct Conn<'a> {
    handler: &'a LongPoller,
    key: Arc<TokenKey>,
    endpoint: Arc<Endpoint>,
    client: Client,
    parts: Parts,
    params: Params,
}

impl<'a> Conn<'a> {
    /// Takes the request in, and the message that its body holds if it is a POST.
    async fn read(
        handler: &'a LongPoller,
        endpoint: Arc<Endpoint>,
        client: Client,
        parts: Parts,
        body: Body,
    ) -> Result<(Self, Vec<Incoming>), Response> {
        let params = Params::parse(parts.uri.query().unwrap_or("")).map_err(|_| status(400))?;
        let mut message = Vec::new();
        if parts.method == Method::POST {
            if !is_json(&parts.headers) {
                return Err(status(415));
            }
            let limits = endpoint.state.routing().config.limits.clone();
            let limit = limits.max_message_bytes;
            let body = relay::collect(body, limit, limits.header_timeout)
                .await
                .map_err(status)?;
            message = body::messages(None, &body, limit).map_err(|error| status(error.status()))?;
        }
        let key = endpoint.token_key(&handler.mount, &handler.settings.crypto);
        let conn = Self {
            handler,
            key,
            endpoint,
            client,
            parts,
            params,
        };
        Ok((conn, message))
    }

    async fn action(&self, message: Vec<Incoming>) -> Response {
        match self.parts.method {
            Method::OPTIONS => self.options(),
            Method::GET => self.poll().await,
            Method::POST => self.publish(message).await,
            _ => status(405),
        }
    }

    /// All that a preflight asks for stands in the headers of every response.
    fn options(&self) -> Response {
        StatusCode::OK.into_response()
    }

    /// Hands on what waits, or else what comes within the window. The position in the token acks what the client has.
    async fn poll(&self) -> Response {
        let Some(position) = self.resume_session() else {
            return self.start_session().await;
        };
        match relay::poll(&self.endpoint, &self.handler.settings, &position).await {
            Polled::Messages(answer) => {
                let last = answer.position;
                self.envelope(200, &answer.messages, &Position { last, ..position })
            }
            Polled::Nothing => self.envelope(204, &[], &position),
            Polled::Gone => self.start_session().await,
        }
    }

    /// Takes a message of the client: 200, if neither the host nor the channel refuses it.
    async fn publish(&self, message: Vec<Incoming>) -> Response {
        let Some(position) = self.resume_session() else {
            return status(410);
        };
        status(match self.dispatch(&position, message).await {
            Some(Published::Accepted) => 200,
            Some(Published::Refused) | None => 401,
            Some(Published::Malformed) => 400,
            Some(Published::Gone) => 410,
        })
    }

    /// Has the session dispatch a message. `None` if what becomes of it is not known in time.
    async fn dispatch(&self, position: &Position, message: Vec<Incoming>) -> Option<Published> {
        relay::publish(&self.endpoint, &self.handler.settings, position, message).await
    }

    /// The session that the request belongs to, if it lives on this node.
    fn resume_session(&self) -> Option<Position> {
        self.verify_longpoll_topic()
            .filter(|position| position.node == self.endpoint.node)
    }

    /// What the token says, if its signature fits.
    fn verify_longpoll_topic(&self) -> Option<Position> {
        let Params { token, sig, .. } = &self.params;
        self.key.open_parts(token.as_deref()?, sig.as_deref()?, relay::now_ms())
    }

    /// A client without a session gets one, and status 410: that is how it learns its token.
    async fn start_session(&self) -> Response {
        let endpoint = &self.endpoint;
        if endpoint.state.turns_away() {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let attempt = Attempt {
            endpoint,
            mount: &self.handler.mount,
            dialect: DIALECT,
            transport: "longpoll",
            parts: &self.parts,
            params: &self.params,
            client: self.client,
            auth_token: None,
        };
        let socket = match attempt.decide().await {
            Ok(socket) => socket,
            Err(denied) => {
                endpoint.refused();
                return match denied.retry_after_s {
                    Some(_) => denied.without_body().response(),
                    None => status(403),
                };
            }
        };
        match relay::open(endpoint, self.client.thread, socket).await {
            Some(position) => self.envelope(410, &[], &position),
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }

    fn envelope(&self, status: u16, messages: &[Frame], position: &Position) -> Response {
        let (token, sig) = self.key.seal_parts(position);
        let payloads: Vec<_> = messages.iter().map(body::message).collect();
        let messages = payloads.iter().map(|payload| &payload[..]);
        relay::json(body::phoenix_0_11_envelope(messages, status, &token, &sig))
    }
}

fn status(code: u16) -> Response {
    relay::json(body::status(code))
}

/// Whether the body is said to be JSON. One that nothing is said of is taken for it.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    let subtype = essence.to_ascii_lowercase();
    let subtype = subtype.strip_prefix("application/");
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(content_type: &'static str, expected: bool) {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        assert_eq!(is_json(&headers), expected, "{content_type}");
    }

    #[test]
    fn a_body_is_json_if_nothing_else_is_said() {
        assert!(is_json(&HeaderMap::new()));
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        check("application/vnd.api+json", true);
        check("text/plain", false);
        check("application/x-www-form-urlencoded", false);
        check("", false);
    }
}
