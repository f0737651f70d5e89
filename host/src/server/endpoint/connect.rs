//! Decides whether a client may connect.
//!
//! All transports check the origin first, then the version, then the token, and ask the connect handler last. What they check in
//! between is their own matter.

use std::sync::Arc;
use std::time::Instant;

use bennu_wire::dialect::Dialect;
use bennu_wire::message::{Payload, reason};
use bennu_wire::serializer::phoenix_0_11::Phoenix011;
use bytes::Bytes;
use bytestring::ByteString;
use http::header::{CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;

use super::params::Params;
use super::{Endpoint, filter, info, origin, phoenix_0_11, token};
use crate::config::{CheckOrigin, Mount};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::runtime::plugin::{Asked, ConnectCall, Connected};
use crate::runtime::pubsub::Arrival;
use crate::runtime::trace::{Asking, Span, TRACEPARENT, TraceParent, Traced};
use crate::server::auth::{Pass, Shown};
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::Client;
use crate::server::limits::TurnedAway;
use crate::server::socket::{Identity, NewSocket, Places};

/// What a client is told that finds nobody who could decide: a reload has taken its answer with it, most often.
const RETRY_AFTER_S: u32 = 1;

/// A client that wants to connect, and whose origin is allowed.
pub(super) struct Attempt<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) mount: &'a Arc<Mount>,
    pub(super) dialect: Dialect,
    /// `websocket`, `longpoll`, or the name of the embedding program's own transport.
    pub(super) transport: &'static str,
    pub(super) parts: &'a Parts,
    pub(super) params: &'a Params,
    pub(super) client: Client,
    /// The client's auth token, if it sent one and the mount takes one.
    pub(super) auth_token: Option<String>,
    /// Its places among the clients of its address.
    pub(super) places: Places,
}

/// A client that may not connect.
#[derive(Debug, thiserror::Error)]
#[error("the client may not connect: {status}")]
pub struct Denied {
    /// The status of the response.
    pub status: StatusCode,
    /// The body, which the connect handler may set. Usually empty.
    pub body: Bytes,
    /// The type of the body.
    pub content_type: HeaderValue,
    /// After so many seconds it may come again: nobody has refused it.
    pub retry_after_s: Option<u32>,
    /// Why, for the operator.
    pub(super) reason: RefusalReason,
    /// What exactly.
    pub(super) detail: Option<String>,
}

impl Denied {
    pub(super) fn new(status: StatusCode, reason: RefusalReason) -> Self {
        Self {
            status,
            reason,
            detail: None,
            body: Bytes::new(),
            content_type: HeaderValue::from_static("application/json; charset=utf-8"),
            retry_after_s: None,
        }
    }

    /// Nobody can decide now, for this reason.
    pub(super) fn unavailable(why: &str) -> Self {
        let reason = match why {
            reason::OVERLOADED => RefusalReason::PluginOverloaded,
            _ => RefusalReason::PluginUnavailable,
        };
        Self {
            body: Payload::reason(why).bytes().clone(),
            retry_after_s: Some(RETRY_AFTER_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }

    /// It is turned away before anybody looks at what it wants.
    pub(super) fn turned_away(away: &TurnedAway) -> Self {
        Self {
            detail: away.detail.map(str::to_owned),
            retry_after_s: away.retry_after_s(),
            ..Self::new(away.status(), away.reason)
        }
    }

    /// The same, with more for the operator.
    pub(super) fn with_detail(self, detail: String) -> Self {
        Self {
            detail: Some(detail),
            ..self
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

    /// As it is noted.
    fn noted(&self) -> Refused {
        Refused::new(self.reason, self.status.as_u16(), self.detail.as_deref())
    }

    /// The response to a WebSocket request.
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

/// Checks the request's `Origin` by the rules of the client's dialect.
///
/// # Errors
///
/// If the mount does not allow it, or its plugin cannot decide now. That is noted already.
pub(super) async fn check_origin_of(
    endpoint: &Arc<Endpoint>,
    client: Client,
    mount: &Arc<Mount>,
    transport: &'static str,
    dialect: Dialect,
    parts: &Parts,
) -> Result<(), Denied> {
    match dialect {
        Dialect::Modern | Dialect::Supabase => check_origin(endpoint, client, mount, transport, parts).await,
        Dialect::Phoenix011 if phoenix_0_11::check_origin(endpoint, client, mount, transport, parts) => Ok(()),
        Dialect::Phoenix011 => Err(Denied::new(StatusCode::FORBIDDEN, RefusalReason::Origin)),
    }
}

/// Checks the request's `Origin`. The log says how to allow a refused one.
///
/// # Errors
///
/// As [`check_origin_of`].
pub(super) async fn check_origin(
    endpoint: &Arc<Endpoint>,
    client: Client,
    mount: &Arc<Mount>,
    transport: &'static str,
    parts: &Parts,
) -> Result<(), Denied> {
    let Some(origin) = parts.headers.get(ORIGIN).map(|value| value.to_str().unwrap_or("")) else {
        return Ok(());
    };
    let not_allowed = Denied::new(StatusCode::FORBIDDEN, RefusalReason::Origin);
    if let CheckOrigin::Plugin(plugin) = &mount.check_origin {
        let told = serde_json::to_vec(&origin::told(&mount.path, origin)).unwrap_or_default();
        return match ask(endpoint, client, plugin, (Asked::Origin, told.into()), &None).await {
            Ok(_) => Ok(()),
            Err(denied) if denied.reason == RefusalReason::Plugin => {
                let remedy = format!("accept it in `check_origin` of the plugin `{plugin}`");
                endpoint.refuse_origin(client, mount, transport, origin, remedy);
                Err(not_allowed)
            }
            // The plugin did not decide, so nothing is wrong with the origin.
            Err(denied) => {
                endpoint.refuse(client, Some(mount), transport, denied.noted());
                Err(denied)
            }
        };
    }
    if origin::allowed(&mount.check_origin, Some(origin), &origin::RequestOrigin::of(parts)) {
        return Ok(());
    }
    let reason = format!("the origin {origin} is not in `check_origin` of the mount");
    endpoint.tell_denied(&mount.path, StatusCode::FORBIDDEN, &reason);
    let remedy = "add it to `check_origin` of the mount, or set `[server] url_host` to its host";
    endpoint.refuse_origin(client, mount, transport, origin, remedy);
    Err(not_allowed)
}

impl Attempt<'_> {
    /// Checks the version and the token, then asks the mount's connect handler.
    ///
    /// # Errors
    ///
    /// If the client may not connect.
    pub(super) async fn decide(self) -> Result<NewSocket, Denied> {
        let Self {
            endpoint,
            mount,
            transport,
            client,
            ..
        } = self;
        let trace = self.begin_span();
        let decided = self.decided(&trace).await.inspect_err(|denied| {
            endpoint.state.hub.metrics.refused_connects.inc();
            endpoint.refuse(client, Some(mount), transport, denied.noted());
        });
        if let Some(trace) = trace {
            end_span(&trace, decided.as_ref().err());
        }
        decided
    }

    /// Begins the span of the connect, in the trace that the client names in a header or a parameter.
    fn begin_span(&self) -> Traced {
        let tracer = self.endpoint.state.hub.tracer.as_ref()?;
        let header = self
            .parts
            .headers
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok());
        let parent = header.or(self.params.traceparent.as_deref());
        let trace = tracer.begin("connect", Asking::Client, parent.and_then(TraceParent::parse))?;
        trace.text("bennu.mount", &self.mount.path);
        trace.text("bennu.transport", self.transport);
        Some(trace)
    }

    async fn decided(self, trace: &Traced) -> Result<NewSocket, Denied> {
        // The listener is closed at once, but open connections may still send requests.
        if self.endpoint.state.is_stopping() {
            return Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE, RefusalReason::Stopping));
        }
        let start = Instant::now();
        let Self { mount, transport, .. } = self;
        let serializer = match self.dialect {
            Dialect::Modern | Dialect::Supabase => self.params.vsn.serializer(&mount.serializers).map_err(|error| {
                Denied::new(StatusCode::FORBIDDEN, RefusalReason::Vsn).with_detail(error.to_string())
            })?,
            Dialect::Phoenix011 => &Phoenix011,
        };
        let pass = token::pass(&self)?;
        let identity = self.identity(pass.as_ref(), trace).await;
        client_line!(
            INFO,
            self.endpoint.lines(),
            "connect",
            Source::of(self.client.peer.ip()),
            connection = self.client.connection,
            peer = %self.client.peer,
            mount = mount.path,
            transport,
            vsn = serializer.vsn(),
            duration_us = start.elapsed().as_micros(),
            // Only filtered if the line is written.
            params = %filter::filtered(&self.params.json, &filter::words(mount, &self.endpoint.state.routing().config.log)),
            result = if identity.is_ok() { "ok" } else { "refused" },
            status = identity.as_ref().err().map(|denied| denied.status.as_u16()),
            "connect"
        );
        if let Err(denied) = &identity {
            let reason = String::from_utf8_lossy(&denied.body);
            self.endpoint.tell_denied(&mount.path, denied.status, &reason);
        }
        let (identity, arrival) = identity?;
        Ok(NewSocket {
            connection: self.client.connection,
            peer: self.client.peer.ip(),
            port: self.client.peer.port(),
            mount: Arc::clone(mount),
            serializer,
            dialect: self.dialect,
            identity,
            arrival: arrival.map(Box::new),
            places: self.places,
            trace: trace.as_ref().map(|trace| Box::new(trace.tracer().client(trace))),
            shown: mount.auth.is_some().then(|| Box::new(Shown { pass, refreshed: None })),
        })
    }

    /// Who the client is, by its token and by the connect handler, if the mount has one.
    async fn identity(
        &self,
        pass: Option<&Pass>,
        trace: &Traced,
    ) -> Result<(Option<Arc<Identity>>, Option<Arrival>), Denied> {
        let claims = pass.map(|pass| pass.claims.clone());
        let own_id = pass.and_then(|pass| pass.socket_id.clone());
        // Before the handler is asked: a `disconnect` that comes meanwhile is for this client, too.
        let arrivals = &self.endpoint.state.hub.pubsub.arrivals;
        let own_arrival = own_id.clone().map(|id| arrivals.announce(id));
        let Some(plugin) = &self.mount.connect else {
            let identity = pass.is_some().then(|| Identity {
                socket_id: own_id,
                assigns: None,
                claims,
            });
            return self.admit(identity.map(Arc::new), own_arrival);
        };
        let info = info::of(self, claims.as_deref());
        let Accepted {
            socket_id,
            assigns,
            arrival,
        } = ask(self.endpoint, self.client, plugin, (Asked::Connect, info), trace).await?;
        let (socket_id, arrival) = match socket_id {
            Some(_) => (socket_id, arrival),
            None => (own_id, own_arrival),
        };
        let identity = Identity {
            socket_id,
            assigns,
            claims,
        };
        self.admit(Some(Arc::new(identity)), arrival)
    }

    /// Lets a client in unless a backend has disconnected its socket id for a while.
    fn admit(
        &self,
        identity: Option<Arc<Identity>>,
        arrival: Option<Arrival>,
    ) -> Result<(Option<Arc<Identity>>, Option<Arrival>), Denied> {
        // By now a `disconnect` finds the arrival, so whoever is refused at the same time is missed by neither.
        let refused = &self.endpoint.state.hub.pubsub.refused;
        let id = identity.as_ref().and_then(|identity| identity.socket_id.as_ref());
        let most = self.endpoint.state.routing().config.limits.max_topic_bytes;
        match id {
            // Nobody could close its connections: a `disconnect` names no such id.
            Some(id) if id.len() > most => Err(Denied::new(StatusCode::FORBIDDEN, RefusalReason::SocketId)
                .with_detail("its socket id is longer than `max_topic_bytes`".to_owned())),
            Some(id) if refused.has(id, Instant::now()) => {
                Err(Denied::new(StatusCode::FORBIDDEN, RefusalReason::SocketId).with_detail(id.to_string()))
            }
            _ => Ok((identity, arrival)),
        }
    }
}

/// Ends the span of a connect. What the plugin or its absence is to blame for has failed.
fn end_span(trace: &Span, denied: Option<&Denied>) {
    match denied {
        None => trace.end("ok"),
        Some(denied) if denied.status.is_server_error() || denied.reason == RefusalReason::PluginCrashed => {
            trace.fail(denied.reason.name())
        }
        Some(denied) => trace.end(denied.reason.name()),
    }
}

/// What a plugin says of a client that it lets in.
struct Accepted {
    socket_id: Option<ByteString>,
    assigns: Option<Bytes>,
    arrival: Option<Arrival>,
}

/// Asks the plugin, and waits for its answer for `connect_timeout_ms` at most.
async fn ask(
    endpoint: &Arc<Endpoint>,
    client: Client,
    plugin: &str,
    (asked, info): (Asked, Bytes),
    trace: &Traced,
) -> Result<Accepted, Denied> {
    let routing = endpoint.state.routing();
    let unavailable = || Denied::unavailable(reason::UNAVAILABLE).with_detail(format!("plugin {plugin}"));
    let slot = routing.routes.plugins.get(plugin).ok_or_else(unavailable)?;
    let (reply, answer) = oneshot::channel();
    let trace = trace.clone();
    let call = ConnectCall {
        asked,
        info,
        reply,
        trace,
    };
    if !slot.connect(call) {
        return Err(if slot.current().is_some() {
            Denied::unavailable(reason::OVERLOADED).with_detail(format!("plugin {plugin}"))
        } else {
            unavailable()
        });
    }
    let connected = match clock::timeout(routing.config.limits.connect_timeout, answer).await {
        // A call that is dropped unanswered found nobody who could run it.
        Ok(connected) => connected.map_err(|_| unavailable())?,
        Err(_) => {
            client_line!(
                WARN,
                endpoint.lines(),
                "no answer",
                Source::of(client.peer.ip()),
                connection = client.connection,
                peer = %client.peer,
                plugin,
                "the connect handler did not answer in time"
            );
            let late = Denied::new(StatusCode::SERVICE_UNAVAILABLE, RefusalReason::PluginTimeout);
            return Err(late.with_detail(format!("plugin {plugin}")));
        }
    };
    match connected {
        Connected::Accepted {
            socket_id,
            assigns,
            arrival,
        } => Ok(Accepted {
            socket_id,
            assigns,
            arrival,
        }),
        Connected::Refused { status, body, binary } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            let mut denied = Denied::new(status, RefusalReason::Plugin).with_detail(format!("plugin {plugin}"));
            if binary {
                denied.content_type = HeaderValue::from_static("application/octet-stream");
            }
            denied.body = body;
            Err(denied)
        }
        Connected::Crashed => {
            let crashed = Denied::new(StatusCode::FORBIDDEN, RefusalReason::PluginCrashed);
            Err(crashed.with_detail(format!("plugin {plugin}")))
        }
        Connected::Unavailable(why) => Err(Denied::unavailable(why).with_detail(format!("plugin {plugin}: {why}"))),
    }
}
