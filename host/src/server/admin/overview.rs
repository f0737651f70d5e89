//! `/overview`: what the dashboard shows of the present. One answer a second serves all who watch.

use std::process;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::extract::State as Shared;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::look::{BusyTopic, Seen};
use super::plugins::{describe, shown_quarantined};
use super::{Admin, not_ready};
use crate::config::Mount;
use crate::server::closes::unix_ms;
use crate::server::usage::{self, Use};

/// For how long an answer is good enough.
const FRESH: Duration = Duration::from_secs(1);

/// The last answer.
#[derive(Debug)]
pub(super) struct Overview {
    started: Instant,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Overview {
    /// Of a server that starts now.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            last: Mutex::new(None),
        }
    }

    /// Finds out anew when somebody asks next.
    pub(super) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fresh(&self) -> Option<Bytes> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, body) = last.as_ref()?;
        (at.elapsed() < FRESH).then(|| body.clone())
    }

    fn keep(&self, body: &Bytes) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), body.clone()));
    }
}

/// Shows the server, its plugins, routes, limits and busiest topics.
pub(super) async fn overview(Shared(admin): Shared<Admin>) -> Response {
    let body = match admin.overview.fresh() {
        Some(body) => body,
        None => {
            let seen = admin.look.seen().await;
            let cluster = match admin.state.cluster.get() {
                Some(cluster) => cluster.report().await,
                None => None,
            };
            let mut present = present(&admin, &seen);
            present["cluster"] = json!(cluster);
            let body = Bytes::from(present.to_string());
            admin.overview.keep(&body);
            body
        }
    };
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn present(admin: &Admin, seen: &Seen) -> Value {
    let routing = admin.state.routing();
    let plugins = routing.routes.plugins.values().map(|slot| {
        let population = seen.populations.get(&slot.name).copied();
        describe(slot, &seen.quarantined, population.unwrap_or((slot.topic_count(), 0)))
    });
    let routes = routing.config.routes.iter().map(|route| {
        json!({
            "topic": route.topic.to_string(), "plugin": route.plugin, "transports": route.transports, "mounts": route.mounts,
        })
    });
    json!({
        "node": node(admin, seen),
        "plugins": plugins.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "mounts": routing.config.mounts.iter().map(|mount| shown_mount(admin, mount)).collect::<Vec<_>>(),
        "limits": limits(admin, seen).iter().map(Use::shown).collect::<Vec<_>>(),
        "topics": seen.topics.iter().map(BusyTopic::shown).collect::<Vec<_>>(),
        "all_topics": seen.is_complete,
        "quarantine": seen.quarantined.iter().map(shown_quarantined).collect::<Vec<_>>(),
    })
}

fn node(admin: &Admin, seen: &Seen) -> Value {
    let metrics = &admin.state.hub.metrics;
    json!({
        "version": env!("CARGO_PKG_VERSION"), "pid": process::id(), "not_ready": not_ready(&admin.state),
        "now_unix_ms": unix_ms(),
        "uptime_ms": u64::try_from(admin.overview.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "connections": admin.state.connections(), "io_threads": admin.state.threads(),
        "messages_in": metrics.messages_in.get(), "messages_out": metrics.messages_out.get(),
        "bytes_in": metrics.bytes_in.get(), "bytes_out": metrics.bytes_out.get(),
        "cpu_s": usage::cpu_seconds(), "resident_bytes": seen.resident_bytes,
        "look_ms": seen.took.as_secs_f64() * 1000.0,
    })
}

fn shown_mount(admin: &Admin, mount: &Mount) -> Value {
    let clients = &admin.state.hub.metrics.clients;
    let of = |transport: &str| {
        let labels = [("mount", mount.path.clone()), ("transport", transport.to_owned())];
        clients.get(&labels).map_or(0, |gauge| gauge.get())
    };
    json!({
        "path": mount.path, "websocket": mount.websocket, "longpoll": mount.longpoll.is_some(), "connect": mount.connect,
        "has_auth": mount.auth.is_some(), "dialect": if mount.phoenix_0_11.is_some() { "0.11" } else { "phoenix" },
        "clients": { "websocket": of("websocket"), "longpoll": of("longpoll") },
    })
}

/// The limits of the server and its plugins, with their use.
fn limits(admin: &Admin, seen: &Seen) -> Vec<Use> {
    let routing = admin.state.routing();
    let (config, pubsub) = (&routing.config, &admin.state.hub.pubsub);
    let mut limits = usage::limits(&admin.state, seen.open_files);
    limits.push(Use::of(
        "[api] max_refused_ids",
        pubsub.refused.count(),
        config.api.max_refused_ids,
    ));
    limits.push(Use::of(
        "[admin] max_sessions",
        admin.access.sessions.count(),
        config.admin.max_sessions,
    ));
    for slot in routing.routes.plugins.values() {
        let settings = slot.config();
        let setting = |name: &str| format!("[plugins.{}] {name}", slot.name);
        limits.push(Use::of(setting("max_topics"), slot.topic_count(), settings.max_topics));
        let waiting = Use::of(
            setting("max_mailbox_total_bytes"),
            slot.waiting_bytes(),
            settings.max_mailbox_total_bytes,
        );
        limits.push(waiting.in_bytes());
        let left = slot.journal.read().left.len();
        limits.push(Use::of(setting("max_leaked"), left, settings.max_leaked));
    }
    limits
}
