//! The admin listener: `/health`, `/ready`, `/metrics`, `/connections` and others, on an address of its own; `/` lists them.
//!
//! Where `BENNU_ADMIN_SECRET` is set, all but `/health` want it as a bearer token. Beyond the loopback it must be set.

mod clients;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use http::{StatusCode, Uri, header};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::ambiguous;
use super::control::{Command, Service};
use super::endpoint::hosts::Hosts;
use super::io::Inboxes;
use super::metrics::render;
use super::state::State as Server;
use crate::config::ContentHash;
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::journal::{Entries, Reload, Rollback};
use crate::runtime::plugin::loader::lock;
use crate::runtime::plugin::quarantine::{Quarantine, Quarantined};
use crate::runtime::plugin::swap::SwapReport;
use crate::runtime::threads;

/// The environment variable that holds the secret.
pub(crate) const SECRET_VARIABLE: &str = "BENNU_ADMIN_SECRET";

/// How long the system's loader may be in use before the host counts as stuck.
const LOADER_PATIENCE: Duration = Duration::from_secs(5);

/// What `/` says.
const PATHS: &str = "\
/health                          the server runs
/ready                           it accepts clients, and all plugins are in service
/metrics                         for Prometheus
/plugins                         each plugin with its last reload and rejection, as JSON
PUT /plugins/{name}/reload       loads its library again
/connections                     open connections, as JSON; ?socket_id= &peer= &connection= &limit= &cursor=
/closes                          why the last clients were closed or refused; also &reason=
/quarantine                      contents that Bennu does not load, as JSON
DELETE /quarantine/{hash}        takes contents out of quarantine
";

/// What `/health` says.
const HEALTHY: &str = "ok\n";

/// Other machines could reach the admin listener without a secret.
#[derive(Debug, thiserror::Error)]
#[error("other machines could reach the admin listener {0}: set {SECRET_VARIABLE}, or listen on 127.0.0.1")]
pub struct Unprotected(SocketAddr);

/// The secret from the environment.
///
/// # Errors
///
/// If there is none, and `listen` is no loopback address.
pub(crate) fn secret(listen: SocketAddr) -> Result<Option<String>, Unprotected> {
    let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
    if secret.is_none() && !listen.ip().is_loopback() {
        return Err(Unprotected(listen));
    }
    Ok(secret)
}

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
    pub(crate) listen: IpAddr,
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
pub(crate) fn app(admin: Admin, secret: Option<String>) -> Router {
    let guarded = Router::new()
        .route("/", get(async || PATHS))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/plugins", get(plugins))
        .route("/plugins/{name}/reload", put(reload))
        .route("/connections", get(clients::connections))
        .route("/closes", get(clients::closes))
        .route("/quarantine", get(quarantine))
        .route("/quarantine/{hash}", delete(lift))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::new(secret), guard));
    Router::new()
        .route("/health", get(async || HEALTHY))
        .merge(guarded)
        .layer(middleware::from_fn_with_state(admin.clone(), known_host))
        .layer(middleware::from_fn(ambiguous::refuse))
        .with_state(admin)
}

/// Answers only for hosts that are this machine's, or that the configuration names.
async fn known_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let routing = admin.state.routing();
    let names: Vec<&str> = routing.config.admin.hosts.iter().map(String::as_str).collect();
    let hosts = Hosts {
        listen: admin.listen,
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

async fn guard(State(secret): State<Arc<Option<String>>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match (&*secret, given) {
        (None, _) => next.run(request).await,
        // In constant time: how long it takes says nothing about the secret.
        (Some(secret), Some(given)) if secret.as_bytes().ct_eq(given.as_bytes()).into() => next.run(request).await,
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// The server is ready if it accepts clients, all its plugins are in service, it can load others, and none of its threads has ended.
async fn ready(State(Admin { state, .. }): State<Admin>) -> Response {
    let not_ready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if let Some(ended) = threads::ended() {
        return not_ready(format!("{ended}\n"));
    }
    if state.is_stopping() {
        return not_ready("stopping\n".to_owned());
    }
    let routing = state.routing();
    let missing: Vec<_> = routing
        .routes
        .plugins
        .values()
        .filter(|slot| !serves(slot))
        .map(|slot| &*slot.name)
        .collect();
    if let Some(user) = lock::stuck(LOADER_PATIENCE) {
        return not_ready(format!("{user}\n"));
    }
    match missing.is_empty() {
        true => "ready\n".into_response(),
        false => not_ready(format!("not in service: {}\n", missing.join(", "))),
    }
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
    ([(header::CONTENT_TYPE, content_type)], render(&state, &slots)).into_response()
}

async fn plugins(State(admin): State<Admin>) -> Json<Vec<Value>> {
    let quarantined = admin.quarantine.list();
    let slots = admin.state.routing();
    Json(
        slots
            .routes
            .plugins
            .values()
            .map(|slot| describe(slot, &quarantined))
            .collect(),
    )
}

/// Loads a plugin's library again, even if it has not changed.
async fn reload(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    if !admin.state.routing().routes.plugins.contains_key(&name) {
        return (StatusCode::NOT_FOUND, format!("there is no plugin {name}\n")).into_response();
    }
    admin.service.send(Command::Again(name));
    StatusCode::ACCEPTED.into_response()
}

async fn quarantine(State(admin): State<Admin>) -> Json<Vec<Value>> {
    Json(admin.quarantine.list().iter().map(shown_quarantined).collect())
}

/// Takes contents out of quarantine. If they are the plugin's current library, the server loads them.
async fn lift(State(admin): State<Admin>, Path(hash): Path<String>) -> Response {
    let Some(hash) = ContentHash::parse(&hash) else {
        return (StatusCode::BAD_REQUEST, "64 hexadecimal digits are needed\n").into_response();
    };
    let why = admin.quarantine.find(hash);
    match (why, admin.quarantine.lift(hash)) {
        (Some(why), Ok(true)) => {
            tracing::info!(plugin = why.plugin, hash = %hash, "lifted out of quarantine");
            admin.service.send(Command::Lifted(why.plugin, hash));
            StatusCode::NO_CONTENT.into_response()
        }
        (_, Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        _ => (StatusCode::NOT_FOUND, "it is not in quarantine\n").into_response(),
    }
}

fn shown_quarantined((hash, why): &(ContentHash, Quarantined)) -> Value {
    json!({
        "hash": format!("{hash:#}"), "plugin": why.plugin, "code": why.code, "reason": why.reason,
        "at_unix_s": why.at_unix_s,
    })
}

fn describe(slot: &PluginSlot, quarantined: &[(ContentHash, Quarantined)]) -> Value {
    let current = slot.current();
    let current = current.as_deref();
    let Entries {
        rejection,
        reload,
        rollback,
        on_probation,
        left,
        ..
    } = slot.journal.read();
    let rejection = rejection.map(|rejection| {
        json!({
            "step": rejection.step, "code": rejection.code, "message": rejection.message, "at_unix_s": rejection.at_unix_s,
        })
    });
    let quarantined = quarantined.iter().filter(|(_, why)| why.plugin == slot.name);
    let (topics, clients) = population(slot);
    json!({
        "name": slot.name,
        "state": if serves(slot) { "in service" } else { "unavailable" },
        "on_probation": on_probation,
        "generation": current.map(|current| current.number),
        "version": current.map(|current| &current.manifest.version),
        "kit": current.map(|current| &current.manifest.kit),
        "state_version": current.map(|current| current.manifest.state_version),
        "hash": current.map(|current| current.hash.to_string()),
        "shards": current.map(crate::runtime::plugin::generation::Generation::shard_count),
        "topics": topics,
        "clients": clients,
        "events": slot.stats.events.get(),
        "panics": slot.stats.panics.get(),
        "hangs": slot.stats.hangs.get(),
        "stuck_threads": slot.stats.stuck_threads.get(),
        "loads": slot.stats.loads.get(),
        "rollbacks": slot.stats.rollbacks.get(),
        "leaked_generations": slot.stats.leaked_generations.get(),
        "leaked_bytes_per_reload": slot.stats.leaked_bytes_per_reload.get(),
        "leaked": left.iter().map(|(generation, left)| json!({ "generation": generation, "cause": left.cause })).collect::<Vec<_>>(),
        "last_reload": reload.map(|reload| shown_reload(&reload)),
        "last_refusal": rejection,
        "last_rollback": rollback.map(|rollback| shown_rollback(&rollback)),
        "quarantined": quarantined.map(shown_quarantined).collect::<Vec<_>>(),
    })
}

/// Topics, and the members of all of them.
fn population(slot: &PluginSlot) -> (usize, usize) {
    let topics = slot.topics();
    let clients = topics.iter().map(|topic| topic.record().members.len()).sum();
    (topics.len(), clients)
}

fn shown_reload(reload: &Reload) -> Value {
    let steps = reload.steps.iter();
    let steps: serde_json::Map<_, _> = steps
        .map(|(step, took)| (step.name().to_owned(), json!(milliseconds(*took))))
        .collect();
    json!({
        "generation": reload.generation, "at_unix_s": reload.at_unix_s, "steps_ms": steps, "swap": shown_swap(&reload.swap),
    })
}

fn shown_rollback(rollback: &Rollback) -> Value {
    json!({
        "from": rollback.from, "to": rollback.to, "hash": format!("{:#}", rollback.hash), "reason": rollback.why,
        "at_unix_s": rollback.at_unix_s, "swap": shown_swap(&rollback.swap),
    })
}

fn shown_swap(swap: &SwapReport) -> Value {
    let reasons = swap.failures.reasons().iter();
    let reasons: Vec<_> = reasons
        .map(|failure| json!({ "reason": failure.why, "topics": failure.topics, "topic": failure.topic }))
        .collect();
    json!({
        "took_ms": milliseconds(swap.took), "longest_pause_ms": swap.longest_hold_us as f64 / 1000.0, "topics": swap.moved,
        "failed": swap.failures.topics(), "reason": swap.failures.shown(), "reasons": reasons, "restored": swap.restored,
        "rejoined": swap.rejoined,
        "lost_events": swap.lost_events,
    })
}
