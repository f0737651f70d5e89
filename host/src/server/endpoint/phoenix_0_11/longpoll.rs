//! `<mount>/poll` in the Phoenix 0.11 dialect, with the functions that its documentation names.
//!
//! The HTTP status is 200, and the body holds the real one: the browsers of that time hide the HTTP status. Only a full or draining
//! server answers 503, without a body: those clients take it for an error and come back later.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, header};

use super::super::Endpoint;
use super::super::connect::Attempt;
use super::super::params::Params;
use super::super::relay::{self, Failed, Polled, Posted, Session};
use crate::config::{LongPoll, Mount};
use crate::server::held::Share;
use crate::server::io::Client;
use crate::server::socket::Places;
use crate::server::transport::longpoll::Published;
use crate::server::transport::longpoll::body;
use crate::server::transport::longpoll::token::{Position, TokenKey};

const DIALECT: Dialect = Dialect::Phoenix011;

/// The handler of one mount.
#[derive(Debug)]
pub(in crate::server::endpoint) struct LongPoller {
    mount: Arc<Mount>,
    settings: LongPoll,
}

impl LongPoller {
    /// Makes the handler of a mount. `None` if the mount does not serve this.
    pub(in crate::server::endpoint) fn init(mount: &Arc<Mount>) -> Option<Self> {
        Some(Self {
            settings: mount.longpoll_of(DIALECT)?.clone(),
            mount: Arc::clone(mount),
        })
    }

    /// Where it is.
    pub(in crate::server::endpoint) fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// Answers a request: origin, CORS, then what it asks for.
    pub(in crate::server::endpoint) async fn call(
        &self,
        endpoint: Arc<Endpoint>,
        client: Client,
        request: Request<Body>,
    ) -> Response {
        let (parts, body) = request.into_parts();
        if !super::check_origin(&endpoint, client, &self.mount, "longpoll", &parts) {
            return status(403);
        }
        let cors = relay::cors(&parts.headers);
        let mut response = match Conn::new(self, endpoint, client, parts) {
            Ok(conn) => conn.action(body).await,
            Err(code) => status(code),
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
    /// Reads the head of a request.
    ///
    /// # Errors
    ///
    /// If its query cannot be read: the `status` to answer with.
    fn new(handler: &'a LongPoller, endpoint: Arc<Endpoint>, client: Client, parts: Parts) -> Result<Self, u16> {
        let params = Params::parse(parts.uri.query().unwrap_or("")).map_err(|_| 400_u16)?;
        let key = endpoint.token_key(&handler.mount, Dialect::Phoenix011, &handler.settings.crypto);
        Ok(Self {
            handler,
            key,
            endpoint,
            client,
            parts,
            params,
        })
    }

    async fn action(&self, body: Body) -> Response {
        match self.parts.method {
            Method::OPTIONS => self.options(),
            Method::GET => self.poll().await,
            Method::POST => self.publish(body).await,
            _ => status(405),
        }
    }

    /// Every response has the headers that a preflight asks for.
    fn options(&self) -> Response {
        StatusCode::OK.into_response()
    }

    /// Returns the messages that wait, or else those that come within the window. The position in the token acks what the client
    /// has received.
    async fn poll(&self) -> Response {
        let Some(position) = self.resume_session() else {
            return self.start_session().await;
        };
        match self.session(&position).poll().await {
            Polled::Messages(messages, last) => self.envelope(200, &messages, &Position { last, ..position }),
            Polled::Nothing => self.envelope(204, &[], &position),
            Polled::Gone => self.start_session().await,
            Polled::Unavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }

    /// Takes a message of the client: 200, if neither the host nor the channel refuses it.
    async fn publish(&self, body: Body) -> Response {
        let Some(position) = self.resume_session() else {
            return status(410);
        };
        if let Err(failed) = self.session(&position).find().await {
            return status(refusal(failed));
        }
        let (message, _share) = match self.read(body).await {
            Ok(message) => message,
            Err(code) => return status(code),
        };
        status(match self.dispatch(&position, message).await {
            Ok(Published::Accepted) => 200,
            Ok(Published::Refused) => 401,
            Ok(Published::Malformed) => 400,
            Ok(Published::Gone) => 410,
            Err(failed) => refusal(failed),
        })
    }

    /// Reads a body, which holds one message.
    ///
    /// # Errors
    ///
    /// If it is none, or too large: the `status` to answer with.
    async fn read(&self, body: Body) -> Result<(Bytes, Share), u16> {
        if !is_json(&self.parts.headers) {
            return Err(415);
        }
        let message_bytes = self.endpoint.state.routing().config.limits.max_message_bytes;
        relay::collect(&self.endpoint, body, message_bytes).await
    }

    /// Has the session dispatch a message.
    async fn dispatch(&self, position: &Position, message: Bytes) -> Posted {
        self.session(position).publish(false, message).await
    }

    fn session<'b>(&'b self, position: &'b Position) -> Session<'b> {
        Session {
            endpoint: &self.endpoint,
            mount: &self.handler.mount.path,
            dialect: DIALECT,
            config: &self.handler.settings,
            position,
        }
    }

    /// The position of the session that the request belongs to, if its node can be asked.
    fn resume_session(&self) -> Option<Position> {
        self.verify_longpoll_topic()
            .filter(|position| self.endpoint.reaches(position.node))
    }

    /// The position in the token, if its signature fits.
    fn verify_longpoll_topic(&self) -> Option<Position> {
        let Params { token, sig, .. } = &self.params;
        self.key.open_parts(token.as_deref()?, sig.as_deref()?, relay::now_ms())
    }

    /// Opens a session and answers with status 410, from which the client learns its token.
    async fn start_session(&self) -> Response {
        let endpoint = &self.endpoint;
        let session = match endpoint.state.take_in(self.client.peer.ip()) {
            Ok(session) => session,
            Err(away) => {
                endpoint.refuse(self.client, Some(&self.handler.mount), "longpoll", away.refused());
                return super::super::turned_away(&away);
            }
        };
        let attempt = Attempt {
            endpoint,
            mount: &self.handler.mount,
            dialect: DIALECT,
            transport: "longpoll",
            parts: &self.parts,
            params: &self.params,
            client: self.client,
            auth_token: None,
            places: Places {
                session,
                ..Places::default()
            },
        };
        let socket = match attempt.decide().await {
            Ok(socket) => socket,
            Err(denied) => {
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

    fn envelope(&self, status: u16, messages: &[Bytes], position: &Position) -> Response {
        let (token, sig) = self.key.seal_parts(position, relay::now_ms());
        let messages = messages.iter().map(|message| &message[..]);
        let body = body::phoenix_0_11_envelope(messages, status, &token, &sig);
        relay::messages(&self.endpoint, body).unwrap_or_else(self::status)
    }
}

/// The status of a POST that the session has not taken.
fn refusal(failed: Failed) -> u16 {
    match failed {
        Failed::Gone => 410,
        Failed::Late => 401,
        Failed::Unavailable => 503,
        Failed::Body(code) => code,
    }
}

fn status(code: u16) -> Response {
    relay::json(body::status(code))
}

/// Whether the body is JSON by its content type. Without one, it counts as JSON.
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
