//! The admin listener: `/health`, `/ready`, `/metrics` and `/plugins`, on an address of its own.
//!
//! Where `BENNU_ADMIN_SECRET` is set, all but `/health` want it as a bearer token. Beyond the loopback it must be set.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::endpoint::Shared;
use crate::plugin::PluginSlot;

/// The variable that holds the secret.
pub const SECRET_VARIABLE: &str = "BENNU_ADMIN_SECRET";

/// An admin listener that anybody could reach.
#[derive(Debug, thiserror::Error)]
#[error("the admin listener {0} can be reached from other machines: set {SECRET_VARIABLE}, or listen on 127.0.0.1")]
pub struct Unprotected(SocketAddr);

/// The secret from the environment.
///
/// # Errors
///
/// If there is none, and `listen` is no loopback address.
pub fn secret(listen: SocketAddr) -> Result<Option<String>, Unprotected> {
    let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
    if secret.is_none() && !listen.ip().is_loopback() {
        return Err(Unprotected(listen));
    }
    Ok(secret)
}

/// The admin pages.
pub fn app(shared: Arc<Shared>, secret: Option<String>) -> Router {
    let guarded = Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/plugins", get(plugins))
        .layer(middleware::from_fn_with_state(Arc::new(secret), guard));
    Router::new()
        .route("/health", get(async || "ok\n"))
        .merge(guarded)
        .with_state(shared)
}

async fn guard(State(secret): State<Arc<Option<String>>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match (&*secret, given) {
        (None, _) => next.run(request).await,
        (Some(secret), Some(given)) if same(secret.as_bytes(), given.as_bytes()) => next.run(request).await,
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// Compares without telling by its time where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Ready is who has all its plugins in service.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let routing = shared.routing();
    let missing: Vec<_> = routing
        .plugins
        .values()
        .filter(|slot| slot.current().is_none())
        .map(|slot| &*slot.name)
        .collect();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not in service: {}\n", missing.join(", ")),
    )
        .into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let slots: Vec<_> = shared.routing().plugins.values().cloned().collect();
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        shared.hub.metrics.render(&slots),
    )
        .into_response()
}

async fn plugins(State(shared): State<Arc<Shared>>) -> Json<Vec<Value>> {
    Json(shared.routing().plugins.values().map(|slot| describe(slot)).collect())
}

fn describe(slot: &PluginSlot) -> Value {
    let current = slot.current();
    let current = current.as_deref();
    let journal = slot.journal.read();
    let refusal = journal
        .refusal
        .map(|refusal| json!({ "step": refusal.step, "code": refusal.code, "message": refusal.message }));
    json!({
        "name": slot.name,
        "state": if current.is_some() { "in service" } else { "unavailable" },
        "generation": current.map(|current| current.number),
        "version": current.map(|current| &current.manifest.version),
        "kit": current.map(|current| &current.manifest.kit),
        "state_version": current.map(|current| current.manifest.state_version),
        "hash": current.map(|current| current.hash.to_string()),
        "shards": current.map(crate::plugin::generation::Generation::shard_count),
        "topics": slot.topic_count(),
        "events": slot.stats.events.get(),
        "panics": slot.stats.panics.get(),
        "loads": slot.stats.loads.get(),
        "leaked_generations": slot.stats.leaked_generations.get(),
        "last_refusal": refusal,
    })
}
