//! Whether a client may connect: what both transports ask, in the same order, before they take it in.
//!
//! Origin first, then version and connect handler. What comes between them is a matter of the transport.

use std::sync::Arc;
use std::time::Instant;

use bennu_wire::dialect::Dialect;
use bennu_wire::message::{Payload, reason};
use bennu_wire::serializer::phoenix_0_11::Phoenix011;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;

use super::params::Params;
use super::{Endpoint, filter, info, origin, phoenix_0_11};
use crate::config::{CheckOrigin, Mount};
use crate::runtime::plugin::{Asked, ConnectCall, Connected};
use crate::runtime::pubsub::Arrival;
use crate::server::io::Client;
use crate::server::socket::{Identity, NewSocket};

/// What a client is told that finds nobody who could decide: a reload has taken its answer with it, most often.
const RETRY_AFTER_S: u32 = 1;

/// A client that wants to connect, from an origin that may.
pub(super) struct Attempt<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) mount: &'a Arc<Mount>,
    pub(super) dialect: Dialect,
    /// `websocket`, `longpoll`, or what a transport of one's own is called.
    pub(super) transport: &'static str,
    pub(super) parts: &'a Parts,
    pub(super) params: &'a Params,
    pub(super) client: Client,
    /// The token that the mount takes, if the client has sent one.
    pub(super) auth_token: Option<String>,
}

/// A client that may not connect.
#[derive(Debug, thiserror::Error)]
#[error("the client may not connect: {status}")]
pub struct Denied {
    /// What it is told.
    pub status: StatusCode,
    /// As the connect handler wrote it; most often empty.
    pub body: Bytes,
    /// Of the body.
    pub content_type: HeaderValue,
    /// After so many seconds it may come again: nobody has refused it.
    pub retry_after_s: Option<u32>,
}

impl Denied {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            body: Bytes::new(),
            content_type: HeaderValue::from_static("application/json; charset=utf-8"),
            retry_after_s: None,
        }
    }

    /// Nobody can decide now, for this reason.
    fn unavailable(reason: &str) -> Self {
        Self {
            body: Payload::reason(reason).bytes().clone(),
            retry_after_s: Some(RETRY_AFTER_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE)
        }
    }

    /// The same for long polling: an empty body, which phoenix.js takes for a lost connection. A text would stop its oldest
    /// versions for good.
    pub(super) fn without_body(self) -> Self {
        Self {
            body: Bytes::new(),
            ..self
        }
    }

    /// The answer, for WebSocket.
    pub(super) fn response(self) -> Response<axum::body::Body> {
        let has_body = !self.body.is_empty();
        let mut response = Response::new(self.body.into());
        *response.status_mut() = self.status;
        if has_body {
            response.headers_mut().insert(CONTENT_TYPE, self.content_type);
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Whether the mount takes the request's `Origin`, in the dialect that its client speaks.
pub(super) async fn origin_taken(endpoint: &Arc<Endpoint>, mount: &Mount, dialect: Dialect, parts: &Parts) -> bool {
    match dialect {
        Dialect::Modern => origin_allowed(endpoint, mount, parts).await,
        Dialect::Phoenix011 => phoenix_0_11::check_origin(mount, parts),
    }
}

/// Whether the request's `Origin` is one that the mount takes. A refusal is logged with what would admit it.
pub(super) async fn origin_allowed(endpoint: &Arc<Endpoint>, mount: &Mount, parts: &Parts) -> bool {
    let Some(origin) = parts.headers.get(ORIGIN).map(|value| value.to_str().unwrap_or("")) else {
        return true;
    };
    if let CheckOrigin::Plugin(plugin) = &mount.check_origin {
        let told = serde_json::to_vec(&origin::told(&mount.path, origin)).unwrap_or_default();
        let answer = ask(endpoint, plugin, Asked::Origin, told.into()).await;
        let allowed = matches!(answer, Ok(Connected::Accepted { .. }));
        if !allowed {
            tracing::warn!(origin, mount = mount.path, plugin, "origin refused by the plugin");
        }
        return allowed;
    }
    let allowed = origin::allowed(&mount.check_origin, Some(origin), &origin::RequestOrigin::of(parts));
    if !allowed {
        tracing::warn!(
            origin,
            mount = mount.path,
            "origin refused; to admit it set `check_origin` of the mount to a list with it, or `[server] url_host` to its host"
        );
    }
    allowed
}

impl Attempt<'_> {
    /// Asks everything that is to be asked after the origin: the version, then the mount's connect handler.
    ///
    /// # Errors
    ///
    /// If the client may not connect.
    pub(super) async fn decide(self) -> Result<NewSocket, Denied> {
        // A listener is closed at once, but a connection that was there before may still ask.
        if self.endpoint.state.is_stopping() {
            return Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE));
        }
        let start = Instant::now();
        let Self { mount, transport, .. } = self;
        let serializer = match self.dialect {
            Dialect::Modern => self.params.vsn.serializer(&mount.serializers).map_err(|error| {
                tracing::warn!(mount = mount.path, %error, "client refused");
                Denied::new(StatusCode::FORBIDDEN)
            })?,
            Dialect::Phoenix011 => &Phoenix011,
        };
        let identity = self.identity().await;
        tracing::info!(
            mount = mount.path,
            transport,
            vsn = serializer.vsn(),
            duration_us = start.elapsed().as_micros(),
            // Filtered only if the line is written.
            params = %filter::filtered(&self.params.json, &self.endpoint.state.routing().config.log.filter_params),
            result = if identity.is_ok() { "ok" } else { "refused" },
            status = identity.as_ref().err().map(|denied| denied.status.as_u16()),
            "connect"
        );
        let (identity, arrival) = identity?;
        Ok(NewSocket {
            mount: Arc::clone(mount),
            serializer,
            dialect: self.dialect,
            identity,
            arrival,
        })
    }

    /// Who the client is, where the mount has a connect handler.
    async fn identity(&self) -> Result<(Option<Arc<Identity>>, Option<Arrival>), Denied> {
        let Some(plugin) = &self.mount.connect else {
            return Ok((None, None));
        };
        match ask(self.endpoint, plugin, Asked::Connect, info::of(self)).await? {
            Connected::Accepted {
                socket_id,
                assigns,
                arrival,
            } => Ok((Some(Arc::new(Identity { socket_id, assigns })), arrival)),
            Connected::Refused { status, body, binary } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                let mut denied = Denied::new(status);
                if binary {
                    denied.content_type = HeaderValue::from_static("application/octet-stream");
                }
                denied.body = body;
                Err(denied)
            }
            Connected::Crashed => Err(Denied::new(StatusCode::FORBIDDEN)),
            Connected::Unavailable(reason) => Err(Denied::unavailable(reason)),
        }
    }
}

/// Has the plugin decide. The handshake waits no longer than it may.
async fn ask(endpoint: &Arc<Endpoint>, plugin: &str, asked: Asked, info: Bytes) -> Result<Connected, Denied> {
    let routing = endpoint.state.routing();
    let unavailable = || Denied::unavailable(reason::UNAVAILABLE);
    let slot = routing.plugins.get(plugin).ok_or_else(unavailable)?;
    let (reply, answer) = oneshot::channel();
    if !slot.connect(ConnectCall { asked, info, reply }) {
        return Err(if slot.current().is_some() {
            Denied::unavailable(reason::OVERLOADED)
        } else {
            unavailable()
        });
    }
    match tokio::time::timeout(routing.config.limits.connect_timeout, answer).await {
        // A call that is dropped unanswered found nobody who could run it.
        Ok(connected) => connected.map_err(|_| unavailable()),
        Err(_) => {
            tracing::warn!(plugin, "the connect handler did not answer in time");
            Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE))
        }
    }
}
