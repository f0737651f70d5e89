//! Stored topics on the admin listener: listed and shown without loading them, forgotten, exported and imported.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytestring::ByteString;
use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Admin;
use crate::runtime::capsule::Capsule;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::store::{Change, Stored};

/// Topics on one page at most.
const MOST: usize = 1_000;
/// The bytes of one topic that is imported, in base64.
pub(super) const MOST_BYTES: usize = 2 << 30;
/// How long a topic in memory has to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which topics are asked for.
#[derive(Debug, Default)]
struct Asked {
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
    /// With their bytes.
    capsules: bool,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, String> {
        let mut asked = Self::default();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| format!("`{key}` is not UTF-8"))?;
            let bad = || format!("`{key}` cannot be {value}");
            match key {
                "prefix" => asked.prefix = value.into_owned(),
                "after" => asked.after = Some(value.into_owned()),
                "limit" => asked.limit = Some(value.parse().map_err(|_| bad())?),
                "capsules" => asked.capsules = value.parse().map_err(|_| bad())?,
                _ => return Err(format!("there is no `{key}`: prefix, after, limit and capsules")),
            }
        }
        Ok(asked)
    }
}

/// One stored topic.
#[derive(Debug, Serialize)]
struct Shown {
    plugin: String,
    topic: String,
    /// Its plugin has it in memory, too, perhaps in a later state.
    in_memory: bool,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<u32>,
    #[serde(flatten)]
    head: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    capsule: Option<String>,
}

/// What an import sends.
#[derive(Debug, Deserialize)]
pub(super) struct Imported {
    capsule: String,
}

fn refused(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, format!("{why}\n")).into_response()
}

/// A plugin whose topics are stored.
fn durable(admin: &Admin, plugin: &str) -> Result<Arc<PluginSlot>, String> {
    let routing = admin.state.routing();
    match routing.routes.plugins.get(plugin) {
        Some(slot) if slot.durable().is_some() => Ok(Arc::clone(slot)),
        Some(_) => Err(format!("{plugin} stores no topics: set its `durability`")),
        None => Err(format!("there is no plugin {plugin}")),
    }
}

/// The plugins whose topics are stored.
pub(super) async fn plugins(State(admin): State<Admin>) -> Json<Vec<String>> {
    let routing = admin.state.routing();
    let slots = routing.routes.plugins.values();
    Json(
        slots
            .filter(|slot| slot.durable().is_some())
            .map(|slot| slot.name.clone())
            .collect(),
    )
}

/// A page of the stored topics of a plugin.
pub(super) async fn list(State(admin): State<Admin>, Path(plugin): Path<String>, uri: Uri) -> Response {
    let asked = match Asked::read(uri.query()) {
        Ok(asked) => asked,
        Err(why) => return refused(StatusCode::BAD_REQUEST, why),
    };
    let slot = match durable(&admin, &plugin) {
        Ok(slot) => slot,
        Err(why) => return refused(StatusCode::NOT_FOUND, why),
    };
    let most = asked.limit.unwrap_or(MOST).clamp(1, MOST);
    // It waits for the disk.
    let page = spawn_blocking(move || {
        let durable = slot.durable()?;
        let page = durable
            .store()
            .page(&plugin, &asked.prefix, asked.after.as_deref(), most);
        Some(page.map(|page| {
            let shown = |stored| shown(&slot, stored, asked.capsules);
            page.into_iter().map(shown).collect::<Vec<_>>()
        }))
    });
    match page.await {
        Ok(Some(Ok(page))) => Json(page).into_response(),
        Ok(Some(Err(error))) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
        _ => refused(StatusCode::INTERNAL_SERVER_ERROR, "the store could not be asked"),
    }
}

fn shown(slot: &PluginSlot, stored: Stored, whole: bool) -> Shown {
    let head = match Capsule::decode(&stored.capsule) {
        Ok(capsule) => {
            let mut head = json!({
                "state_version": capsule.state.version, "handled": capsule.state.handled,
                "written_unix_ms": capsule.written_unix_ms, "timers": capsule.timers.len(),
            });
            if whole {
                head["state"] = rmp_serde::from_slice(&capsule.state.shared).unwrap_or(Value::Null);
            }
            head
        }
        Err(error) => json!({ "unreadable": error.to_string() }),
    };
    Shown {
        plugin: slot.name.clone(),
        in_memory: slot.find(&stored.topic).is_some(),
        topic: stored.topic.to_string(),
        bytes: stored.capsule.len(),
        set_aside: stored.set_aside,
        head,
        capsule: whole.then(|| STANDARD.encode(&stored.capsule)),
    }
}

/// Forgets a topic, in memory or not. The answer is empty, unless there is none: then it says so.
pub(super) async fn forget(State(admin): State<Admin>, Path((plugin, topic)): Path<(String, String)>) -> Response {
    let slot = match durable(&admin, &plugin) {
        Ok(slot) => slot,
        Err(why) => return refused(StatusCode::NOT_FOUND, why),
    };
    let name = ByteString::from(topic);
    if let Some(topic) = slot.find(&name) {
        topic.forget();
        drop(topic);
        let gone = async {
            while slot.find(&name).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        return match tokio::time::timeout(PATIENCE, gone).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the topic has not ended yet"),
        };
    }
    let Some(durable) = slot.durable() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (store, asked) = (durable.store().clone(), name.clone());
    // Whatever has this name stands first. It waits for the disk.
    let found = spawn_blocking(move || store.page(&plugin, &asked, None, 1)).await;
    match found {
        Ok(Ok(page)) if page.iter().all(|stored| stored.topic != name) => {
            Json(json!({ "forgotten": false })).into_response()
        }
        // It may go although it cannot be read.
        _ => write(&slot, Change::Remove(durable.key(&name))).await,
    }
}

/// Stores a capsule of an export.
pub(super) async fn import(
    State(admin): State<Admin>,
    Path(plugin): Path<String>,
    Json(imported): Json<Imported>,
) -> Response {
    let slot = match durable(&admin, &plugin) {
        Ok(slot) => slot,
        Err(why) => return refused(StatusCode::NOT_FOUND, why),
    };
    let bytes = STANDARD.decode(imported.capsule).unwrap_or_default();
    let capsule = match Capsule::decode(&bytes) {
        Ok(capsule) if capsule.plugin == plugin => capsule,
        Ok(capsule) => {
            return refused(
                StatusCode::BAD_REQUEST,
                format_args!("this topic is of the plugin {}", capsule.plugin),
            );
        }
        Err(error) => return refused(StatusCode::BAD_REQUEST, error),
    };
    let name = ByteString::from(&*capsule.topic);
    if slot.find(&name).is_some() {
        return refused(
            StatusCode::CONFLICT,
            format_args!("{name} is in memory: forget it first"),
        );
    }
    let Some(durable) = slot.durable() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let change = durable.imported(capsule, &slot);
    write(&slot, change).await
}

async fn write(slot: &PluginSlot, change: Change) -> Response {
    let Some(durable) = slot.durable() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (said, done) = oneshot::channel();
    durable
        .store()
        .write(vec![change], move |result| drop(said.send(result)));
    match done.await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the server stops"),
    }
}
