//! What `bennu dev` serves besides: a page to try channels on, its client, which routes there are, and the news of builds
//! and reloads.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{Board, Endpoint};
use crate::config::{Config, Mount};
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::journal::Panic;

/// The modules of the page, by their names there.
const MODULES: [(&str, &str); 7] = [
    ("/bennu.js", include_str!("../../../assets/bennu.js")),
    ("/chat.js", include_str!("../../../assets/chat.js")),
    ("/connection.js", include_str!("../../../assets/connection.js")),
    ("/credentials.js", include_str!("../../../assets/credentials.js")),
    ("/dom.js", include_str!("../../../assets/dom.js")),
    ("/page.js", include_str!("../../../assets/page.js")),
    ("/playground.js", include_str!("../../../assets/playground.js")),
];

/// The page's paths.
pub(super) fn routes() -> Router<Arc<Endpoint>> {
    let router = Router::new()
        .route("/", get(async || Html(include_str!("../../../assets/index.html"))))
        .route("/dev/routes", get(there))
        .route("/dev/events", get(news));
    MODULES.iter().fold(router, |router, (path, text)| {
        router.route(path, get(async move || script(text)))
    })
}

/// What is there now: which run of the server this is, mounts that a browser can connect to, routes in file order, plugins with what is wrong with them
/// and what of them panicked, and why the configuration that was saved last does not hold.
async fn there(State(endpoint): State<Arc<Endpoint>>) -> Json<Value> {
    let routing = endpoint.state.routing();
    let config = &routing.config;
    let mut mounts: Vec<_> = config
        .mounts
        .iter()
        .filter(|mount| mount.websocket && !mount.echo)
        .collect();
    // The page starts with the first. A connect handler may want something that somebody has to type first.
    mounts.sort_by_key(|mount| mount.connect.is_some());
    let mount =
        |mount: &&Arc<Mount>| json!({ "path": mount.path, "connect": mount.connect, "auth_token": mount.auth_token });
    let mounts: Vec<_> = mounts.iter().map(mount).collect();
    let routes: Vec<_> = { config.routes.iter() }
        .map(|route| {
            json!({ "topic": route.topic.to_string(), "plugin": route.plugin, "example": route.topic.example() })
        })
        .collect();
    let plugins: Vec<_> = routing.plugins.values().map(|slot| shown(slot, config)).collect();
    let refusal = endpoint.dev.as_ref().and_then(Board::refusal);
    // In digits: it is more than JavaScript can count.
    let run = endpoint.node.to_string();
    Json(
        json!({ "run": run, "mounts": mounts, "routes": routes, "plugins": plugins, "configuration_refusal": refusal }),
    )
}

fn shown(slot: &PluginSlot, config: &Config) -> Value {
    let current = slot.current();
    let entries = slot.journal.read();
    let refusal = entries.refusal.map(
        |refusal| json!({ "step": refusal.step, "code": refusal.code, "reason": refusal.shown(config, &slot.name) }),
    );
    let panics: Vec<_> = entries.panics.iter().map(shown_panic).collect();
    json!({
        "name": slot.name,
        "version": current.as_ref().map(|current| &current.manifest.version),
        "generation": current.as_ref().map(|current| current.number),
        "refusal": refusal,
        "panics": panics,
    })
}

fn shown_panic(panic: &Panic) -> Value {
    json!({
        "generation": panic.generation, "callback": panic.callback, "event": panic.event, "topic": panic.topic,
        "message": panic.message, "count": panic.count, "at_unix_s": panic.at_unix_s,
    })
}

fn script(text: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            // A page that another server brings may import it.
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ],
        text,
    )
}

/// News as server-sent events, from now on. A page that falls behind misses the oldest, and is told so.
async fn news(State(endpoint): State<Arc<Endpoint>>) -> Response {
    let Some(news) = endpoint.dev.as_ref().map(Board::listen) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let events = futures_util::stream::unfold(news, async |mut news| {
        let (name, json) = match news.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => ("missed", "{}".to_owned()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, Infallible>(Event::default().event(name).data(json)), news))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
