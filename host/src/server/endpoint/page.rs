//! What `bennu dev` serves in addition: a page to try channels on, its modules, the routes, and news of builds and reloads.
//!
//! Answers only for hosts that [`Hosts`] knows.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::hosts::Hosts;
use super::{Board, Endpoint};
use crate::config::{Config, Mount};
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::journal::Panic;
use crate::server::io::Client;

/// The modules of the page by path.
const MODULES: [(&str, &str); 8] = [
    ("/backend.js", include_str!("../../../assets/backend.js")),
    ("/bennu.js", include_str!("../../../assets/bennu.js")),
    ("/chat.js", include_str!("../../../assets/chat.js")),
    ("/connection.js", include_str!("../../../assets/connection.js")),
    ("/credentials.js", include_str!("../../../assets/credentials.js")),
    ("/dom.js", include_str!("../../../assets/dom.js")),
    ("/page.js", include_str!("../../../assets/page.js")),
    ("/playground.js", include_str!("../../../assets/playground.js")),
];

/// The page's paths.
pub(super) fn routes(endpoint: &Arc<Endpoint>) -> Router<Arc<Endpoint>> {
    let router = Router::new()
        .route("/", get(async || Html(include_str!("../../../assets/index.html"))))
        .route("/dev/routes", get(present))
        .route("/dev/events", get(news));
    let router = MODULES.iter().fold(router, |router, (path, text)| {
        router.route(path, get(async move || script(text)))
    });
    router.layer(middleware::from_fn_with_state(Arc::clone(endpoint), guard))
}

/// Answers only for hosts that are this machine's, or that the configuration names.
async fn guard(State(endpoint): State<Arc<Endpoint>>, request: Request, next: Next) -> Response {
    let routing = endpoint.state.routing();
    let config = &routing.config;
    let mut names: Vec<&str> = config.admin.hosts.iter().map(String::as_str).collect();
    names.push(&config.server.url_host);
    let hosts = Hosts {
        listen: config
            .listen()
            .map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()),
        names: &names,
    };
    match hosts.check(request.version(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(misdirected) => misdirected.response(),
    }
}

/// The present state: the run of the server, mounts that a browser can connect to, routes in file order, plugins with their last
/// rejection and their panics, why the configuration on disk was rejected, if it was, and how this machine reaches
/// the API.
async fn present(State(endpoint): State<Arc<Endpoint>>, Extension(client): Extension<Client>) -> Json<Value> {
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
    let rejection = endpoint.dev.as_ref().and_then(Board::rejection);
    // Lines of a file that was rejected are not those of the configuration in force.
    let quoted = rejection.is_none().then_some(&**config);
    let plugins: Vec<_> = routing
        .routes
        .plugins
        .values()
        .map(|slot| shown(slot, quoted))
        .collect();
    // Whoever has the key may do everything.
    let api = endpoint
        .dev
        .as_ref()
        .and_then(Board::api)
        .filter(|_| client.peer.ip().to_canonical().is_loopback());
    let api = api.map(|api| json!({ "url": format!("http://{}", api.address), "key": api.key }));
    // As text: JavaScript has no integers of this size.
    let run = endpoint.node.to_string();
    Json(
        json!({ "run": run, "mounts": mounts, "routes": routes, "plugins": plugins, "configuration_refusal": rejection, "api": api }),
    )
}

/// `config`: quotes its lines.
fn shown(slot: &PluginSlot, config: Option<&Config>) -> Value {
    let current = slot.current();
    let entries = slot.journal.read();
    let rejection = entries.rejection.map(|rejection| {
        let reason = config.map_or_else(
            || rejection.message.clone(),
            |config| rejection.shown(config, &slot.name),
        );
        json!({ "step": rejection.step, "code": rejection.code, "reason": reason })
    });
    let panics: Vec<_> = entries.panics.iter().map(shown_panic).collect();
    json!({
        "name": slot.name,
        "version": current.as_ref().map(|current| &current.manifest.version),
        "generation": current.as_ref().map(|current| current.number),
        "refusal": rejection,
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
            // Pages of other servers may import it.
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ],
        text,
    )
}

/// News as server-sent events, from now on. A page that falls behind misses the oldest, and gets the event `missed`.
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
