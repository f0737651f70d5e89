//! Where clients come in over HTTP: one axum router for all I/O threads.
//!
//! The current [`Routing`](super::routing::Routing) has the mounts, as a reload of the configuration can change them. `dev` adds
//! its page and the events for it.

mod board;
mod connect;
pub(crate) mod elsewhere;
mod entrance;
mod filter;
pub(crate) mod hosts;
mod info;
mod longpoll;
pub(crate) mod origin;
mod page;
pub(crate) mod params;
mod phoenix_0_11;
mod relay;
mod served;
mod supabase;
mod token;
mod websocket;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State as Shared};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, StatusCode};
use serde_json::json;

pub(crate) use board::{ApiAccess, Board, DevEvent};
pub use connect::Denied;
pub use entrance::{Entrance, Visit};

use crate::config::secret::SecretKeyBase;
use crate::config::{Config, Crypto, Mount};
use crate::runtime::client_lines::{ClientLines, Source, client_line};
use crate::server::ambiguous::{self, Ambiguous};
use crate::server::closes::{Outcome, Record, RefusalReason, Refused};
use crate::server::io::{Client, Inboxes};
use crate::server::limits::TurnedAway;
use crate::server::state::State;
use crate::server::tls::Certificates;
use crate::server::transport::longpoll::token::{TokenKey, TokenKeys};
use served::Served;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The server.
    pub(crate) state: Arc<State>,
    /// The inboxes of its I/O threads.
    pub(crate) inboxes: Inboxes,
    /// Random at each start: by it the node knows its own tokens, other nodes of the cluster whom to ask, and the page of `dev` a
    /// restart.
    pub(crate) node: u64,
    /// In `dev`: the events for its page.
    pub(crate) dev: Option<Board>,
    /// What listeners with TLS show.
    pub(crate) certificates: Option<Arc<Certificates>>,
    secret: SecretKeyBase,
    keys: TokenKeys,
}

impl Endpoint {
    /// The endpoint of a server, or of the run of a node with this number.
    ///
    /// # Errors
    ///
    /// If the system has no random bytes.
    pub(crate) fn new(
        state: Arc<State>,
        node: Option<u64>,
        inboxes: Inboxes,
        secret: SecretKeyBase,
        dev: Option<Board>,
        certificates: Option<Arc<Certificates>>,
    ) -> Result<Self, getrandom::Error> {
        Ok(Self {
            state,
            inboxes,
            node: node.map_or_else(getrandom::u64, Ok)?,
            dev,
            certificates,
            secret,
            keys: TokenKeys::default(),
        })
    }

    /// Derives the keys of long-poll tokens that `config` needs and keeps. That can take seconds, so no I/O thread should do it.
    pub(crate) fn derive_keys(&self, config: &Config) {
        for mount in &config.mounts {
            for dialect in [Dialect::Modern, Dialect::Phoenix011] {
                let longpoll = mount.longpoll_of(dialect);
                if let Some(longpoll) = longpoll.filter(|longpoll| longpoll.crypto.cache) {
                    self.token_key(mount, dialect, &longpoll.crypto);
                }
            }
        }
    }

    /// The key of a mount's long-poll tokens. Derived for each request if `cache` is off.
    fn token_key(&self, mount: &Mount, dialect: Dialect, crypto: &Crypto) -> Arc<TokenKey> {
        self.keys.get(self.secret.bytes(), &mount.path, dialect, crypto)
    }

    /// Whether the sessions of a node can be reached from here: those of this one, or of others in the cluster.
    fn reaches(&self, node: u64) -> bool {
        node == self.node || self.state.cluster.get().is_some()
    }

    /// Tells the page of `dev` that a client may not connect, and why: a browser does not let the page see that.
    fn tell_denied(&self, mount: &str, status: StatusCode, reason: &str) {
        if let Some(board) = &self.dev {
            let event = json!({ "mount": mount, "status": status.as_u16(), "reason": reason });
            board.tell(("denied", event.to_string()));
        }
    }

    /// Notes that a client is not let in.
    fn refuse(&self, client: Client, mount: Option<&Arc<Mount>>, transport: &'static str, refused: Refused) {
        self.state.note(Record {
            mount: mount.cloned(),
            transport,
            ..Record::new(client.connection, client.peer, Outcome::Refused(refused))
        });
    }

    /// Notes that the mount does not allow a page's `Origin`. `remedy`: what somebody can do about it.
    fn refuse_origin(
        &self,
        client: Client,
        mount: &Arc<Mount>,
        transport: &'static str,
        origin: &str,
        remedy: impl fmt::Display,
    ) {
        client_line!(
            WARN,
            self.lines(),
            "origin",
            Source::of(client.peer.ip()),
            connection = client.connection,
            peer = %client.peer,
            origin,
            mount = mount.path,
            "origin refused; to allow it, {remedy}"
        );
        let refused = Refused::new(RefusalReason::Origin, 403, Some(origin));
        self.refuse(client, Some(mount), transport, refused);
    }

    /// Whether the address of a client may send one more request.
    ///
    /// # Errors
    ///
    /// If it may not.
    fn admits(&self, client: Client) -> Result<(), TurnedAway> {
        if client.is_crowded {
            return Err(TurnedAway::crowded());
        }
        self.state.addresses.request(client.peer.ip(), Instant::now())
    }

    /// What limits the log lines that clients cause.
    fn lines(&self) -> &ClientLines {
        &self.state.hub.client_lines
    }
}

/// The router for all connections. Each request has its [`Client`] as an extension.
pub(crate) fn app(endpoint: Arc<Endpoint>) -> Router {
    let router = if endpoint.dev.is_some() {
        page::routes(&endpoint)
    } else {
        Router::new()
    };
    router
        .fallback(mounts)
        .layer(middleware::from_fn(ambiguous::refuse))
        .layer(middleware::from_fn_with_state(Arc::clone(&endpoint), note_ambiguous))
        .with_state(endpoint)
}

/// Anything that is not a page: a transport of a mount, or nothing.
async fn mounts(
    Shared(endpoint): Shared<Arc<Endpoint>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    let served = Served::find(&endpoint.state.routing().config, request.uri().path());
    if let Err(away) = endpoint.admits(client) {
        let transport = wanted_transport(&request).unwrap_or_default();
        let mount = served.as_ref().map(Served::mount);
        endpoint.refuse(client, mount, transport, away.refused());
        return turned_away(&away);
    }
    match served {
        Some(Served::WebSocket(mount, dialect)) => websocket::serve(endpoint, mount, dialect, client, request).await,
        Some(Served::Echo(mount)) => websocket::echo(&endpoint, mount, client, request),
        Some(Served::LongPoll(mount)) => longpoll::serve(endpoint, mount, client, request).await,
        Some(Served::Broadcast(mount, target)) => supabase::serve(endpoint, mount, client, target, request).await,
        Some(Served::LongPoll011(poller)) => poller.call(endpoint, client, request).await,
        None => {
            if let Some(transport) = wanted_transport(&request) {
                let path = request.uri().path();
                endpoint.refuse(
                    client,
                    None,
                    transport,
                    Refused::new(RefusalReason::NoMount, 404, Some(path)),
                );
            }
            (StatusCode::NOT_FOUND, "nothing is served here\n").into_response()
        }
    }
}

/// The answer to a client that is turned away. Its body is empty: phoenix.js takes that for a lost connection, and a text would
/// stop its oldest versions for good. A page may see it.
fn turned_away(away: &TurnedAway) -> Response {
    let mut response = away.status().into_response();
    if let Some(seconds) = away.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    let anyone = HeaderValue::from_static("*");
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, anyone);
    response
}

/// The transport that a client wants by a request to a path without a mount. `None`: it looks for something else, as browsers and
/// scanners do.
fn wanted_transport(request: &Request<Body>) -> Option<&'static str> {
    let path = request.uri().path().trim_end_matches('/');
    let upgrades = request.headers().get(UPGRADE);
    match upgrades.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        || path.ends_with("/websocket")
    {
        true => Some("websocket"),
        false => path.ends_with("/longpoll").then_some("longpoll"),
    }
}

/// Notes requests that were refused because they are ambiguous.
async fn note_ambiguous(
    Shared(endpoint): Shared<Arc<Endpoint>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    if let Some(ambiguous) = response.extensions().get::<Ambiguous>() {
        let refused = Refused::new(RefusalReason::Ambiguous, 400, Some(&ambiguous.to_string()));
        endpoint.refuse(client, None, "", refused);
    }
    response
}
