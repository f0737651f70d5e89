//! The admin listener: `/health`, `/ready`, `/metrics`, `/connections` and others, on an address of its own; `/` lists them.
//!
//! Where `BENNU_ADMIN_SECRET` is set, all but `/health` and the files of the dashboard want it as a bearer token, or the cookie of
//! somebody who has logged in with it. Beyond the loopback it must be set. No answer holds a payload, params, a token or a secret.

mod access;
mod attempts;
mod clients;
pub(crate) mod elsewhere;
mod history;
mod look;
mod overview;
mod page;
mod plugins;
mod sessions;
pub(crate) mod stored;
pub(crate) mod why;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::time::{MissedTickBehavior, interval};

use self::access::Access;
pub(crate) use self::access::{Caller, SECRET_VARIABLE, Unprotected, secret};
use self::history::History;
use self::look::Look;
use self::overview::Overview;
use super::ambiguous;
use super::control::Service;
use super::endpoint::hosts::Hosts;
use super::io::Inboxes;
use super::metrics::render;
use super::state::State as Server;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::loader::lock;
use crate::runtime::plugin::quarantine::Quarantine;
use crate::runtime::threads;

/// How long the system's loader may be in use before the host counts as stuck.
const LOADER_PATIENCE: Duration = Duration::from_secs(5);

/// What `/` says.
const PATHS: &str = "\
/dashboard/                      all of it for a browser; `/` leads there
/health                          the server runs
/ready                           it accepts clients, and all plugins are in service
/metrics                         for Prometheus
/plugins                         each plugin with its last reload and rejection, as JSON
PUT /plugins/{name}/reload       loads its library again
PUT /plugins/{name}/rollback     has the previous code take over
/stored                          the plugins whose topics are stored, as JSON
/stored/{plugin}                 its stored topics, as JSON; ?prefix= &after= &limit= &capsules=true
PUT /stored/{plugin}             stores a topic of an export
DELETE /stored/{plugin}/{topic}  forgets a topic
/connections                     open connections, as JSON; ?socket_id= &peer= &connection= &limit= &cursor=
DELETE /connections              closes those with ?socket_id= or ?connection= or ?peer=; &refuse_ms= with a socket id
/closes                          why the last clients were closed or refused; also &reason=
/reasons                         what each reason means, and what to do
/why                             what became of a client, as JSON: ?client=, as `bennu why` takes it; &limit=
/overview                        what the dashboard shows, as JSON
/history                         the last hour by minutes, and the last changes, as JSON
/cluster                         the nodes of the cluster, their partitions and links, as JSON
/cluster/{topic}                 the node that is the home of a topic, as JSON
/quarantine                      contents that Bennu does not load, as JSON
DELETE /quarantine/{hash}        takes contents out of quarantine

In a cluster, each of them takes ?node=NAME and then is that of another node. /connections and /closes take ?node=*, for all nodes.
";

const MINUTE: Duration = Duration::from_secs(60);

/// The largest body of a request, in bytes.
const MOST_BODY: usize = 4096;

/// What `/health` says.
const HEALTHY: &str = "ok\n";

/// What the admin pages show and change.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// The host.
    pub(crate) state: Arc<Server>,
    /// The I/O threads, which know their connections.
    pub(crate) inboxes: Inboxes,
    /// The way to change plugins.
    pub(crate) service: Service,
    /// Contents that are not loaded.
    pub(crate) quarantine: Arc<Quarantine>,
    /// Where the listener is.
    pub(crate) listen: SocketAddr,
    access: Arc<Access>,
    look: Arc<Look>,
    overview: Arc<Overview>,
    history: Arc<History>,
}

impl Admin {
    /// The pages of a listener at this address, which needs this secret, if there is one. The history begins now.
    pub(crate) fn new(
        listen: SocketAddr,
        secret: Option<String>,
        state: &Arc<Server>,
        inboxes: Inboxes,
        service: Service,
        quarantine: Arc<Quarantine>,
    ) -> Self {
        let look = Arc::new(Look::new(Arc::clone(state), Arc::clone(&quarantine)));
        let history = Arc::new(History::start(state));
        tokio::spawn(each_minute(Arc::downgrade(&history), Arc::downgrade(&look)));
        Self {
            state: Arc::clone(state),
            inboxes,
            service,
            quarantine,
            listen,
            access: Arc::new(Access::new(secret, listen)),
            look,
            overview: Arc::new(Overview::new()),
            history,
        }
    }

    /// Something was changed: whoever looks next shall see it.
    fn forget(&self) {
        self.look.forget();
        self.overview.forget();
    }
}

/// Ends the minutes of the history, as long as the server is there.
async fn each_minute(history: Weak<History>, look: Weak<Look>) {
    let mut minute = interval(MINUTE);
    // After a standstill of the process there are no minutes to make up for.
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    minute.tick().await;
    loop {
        minute.tick().await;
        let (Some(history), Some(look)) = (history.upgrade(), look.upgrade()) else {
            return;
        };
        history.end_minute();
        look.forget_if_old();
    }
}

/// The admin listener from the very start of the server. Until `pages` holds the admin pages, it says that the server lives and
/// is not ready.
pub(crate) fn from_start(pages: Arc<OnceLock<Router>>) -> Router {
    let answer = async move |request: Request| match pages.get() {
        Some(app) => match TowerToHyperService::new(app.clone()).call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None if request.uri().path() == "/health" => HEALTHY.into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    };
    Router::new().fallback(answer)
}

/// The admin pages.
///
/// Requests that change something are neither GET nor POST, so that no page of another site can send them.
pub(crate) fn app(admin: Admin) -> Router {
    let guarded = pages()
        .layer(middleware::from_fn_with_state(admin.clone(), elsewhere::at_node))
        .layer(middleware::from_fn_with_state(admin.clone(), access::guard));
    let session = get(access::session).put(access::log_in).delete(access::log_out);
    Router::new()
        .route("/health", get(async || HEALTHY))
        .route("/session", session)
        .merge(page::routes())
        .merge(guarded)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(middleware::from_fn(access::own_origin))
        .layer(middleware::from_fn_with_state(admin.clone(), known_host))
        .layer(middleware::from_fn(ambiguous::refuse))
        .layer(middleware::from_fn(headers))
        .with_state(admin)
}

/// The pages for whoever is let in.
fn pages() -> Router<Admin> {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/stored", get(stored::plugins))
        .route("/stored/{plugin}", get(stored::list).put(stored::import))
        .layer(DefaultBodyLimit::max(stored::MOST_BYTES))
        .route("/stored/{plugin}/{topic}", delete(stored::forget))
        .route("/plugins", get(plugins::plugins))
        .route("/plugins/{name}/reload", put(plugins::reload))
        .route("/plugins/{name}/rollback", put(plugins::roll_back))
        .route("/connections", get(clients::connections).delete(clients::disconnect))
        .route("/closes", get(clients::closes))
        .route("/why", get(why::why))
        .route("/reasons", get(clients::reasons))
        .route("/overview", get(overview::overview))
        .route("/history", get(history::history))
        .route("/cluster", get(cluster))
        .route("/cluster/{topic}", get(home))
        .route("/quarantine", get(plugins::quarantine))
        .route("/quarantine/{hash}", delete(plugins::lift))
        .route("/", get(root))
        .fallback(unknown)
}

/// Sends browsers to the dashboard; it lets them in by itself. Says to everybody else what there is.
async fn root() -> &'static str {
    PATHS
}

/// Adds to each answer that nobody stores it or takes it for something else. Leads a browser that asks for `/` to the dashboard.
async fn headers(request: Request, next: Next) -> Response {
    let leads_on = request.uri().path() == "/" && wants_page(request.headers());
    let mut response = match leads_on {
        true => (StatusCode::SEE_OTHER, [(LOCATION, "dashboard/")]).into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.trim().starts_with("text/html"))
}

/// Answers only for hosts that are this machine's, or that the configuration names.
async fn known_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let routing = admin.state.routing();
    let names: Vec<&str> = routing.config.admin.hosts.iter().map(String::as_str).collect();
    let hosts = Hosts {
        listen: admin.listen.ip(),
        names: &names,
    };
    match hosts.check(request.version(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(misdirected) => misdirected.response(),
    }
}

async fn unknown(uri: Uri) -> Response {
    let text = format!("there is no {} here; there are:\n\n{PATHS}", uri.path());
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn ready(State(Admin { state, .. }): State<Admin>) -> Response {
    match not_ready(&state) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// What a host says that is no node.
const ALONE: (StatusCode, &str) = (StatusCode::NOT_FOUND, "this host is alone: it has no [cluster]\n");

/// What is said if the cluster's thread does not answer.
const SILENT: (StatusCode, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "the thread of the cluster does not answer\n",
);

/// The home of a topic, as this node sees it.
async fn home(State(Admin { state, .. }): State<Admin>, Path(topic): Path<String>) -> Response {
    match state.cluster.get() {
        Some(cluster) => Json(cluster.home_of(&topic)).into_response(),
        None => ALONE.into_response(),
    }
}

/// The cluster as this node sees it.
async fn cluster(State(Admin { state, .. }): State<Admin>) -> Response {
    let Some(cluster) = state.cluster.get() else {
        return ALONE.into_response();
    };
    match cluster.report().await {
        Some(report) => Json(report).into_response(),
        None => SILENT.into_response(),
    }
}

/// Why the server is not ready. It is if it accepts clients, all its plugins are in service, it can load others, and none of its
/// threads has ended.
fn not_ready(state: &Server) -> Option<String> {
    if let Some(ended) = threads::ended() {
        return Some(ended.to_string());
    }
    if state.is_stopping() {
        return Some("stopping".to_owned());
    }
    if !state.accepts() {
        return Some("cannot accept connections".to_owned());
    }
    let routing = state.routing();
    if state.connections() >= routing.config.limits.max_connections {
        return Some("full".to_owned());
    }
    let missing: Vec<_> = routing
        .routes
        .plugins
        .values()
        .filter(|slot| !serves(slot))
        .map(|slot| &*slot.name)
        .collect();
    if let Some(user) = lock::stuck(LOADER_PATIENCE) {
        return Some(user.to_string());
    }
    (!missing.is_empty()).then(|| format!("not in service: {}", missing.join(", ")))
}

/// Whether code of the plugin is in service, with a shard that runs.
fn serves(slot: &PluginSlot) -> bool {
    slot.current().is_some_and(|current| current.serves())
}

async fn metrics(State(Admin { state, .. }): State<Admin>) -> Response {
    let slots: Vec<_> = state.routing().routes.plugins.values().cloned().collect();
    let (hub, metrics) = (&state.hub, &state.hub.metrics);
    metrics
        .timers
        .set(i64::try_from(hub.timers.waiting()).unwrap_or(i64::MAX));
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], render(&state, &slots)).into_response()
}
