//! Stored topics on the admin listener: listed and shown without loading them, forgotten, exported and imported.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use http::header::CONTENT_TYPE;
use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Admin;
use crate::cluster::Home;
use crate::runtime::capsule::{Capsule, Fence};
use crate::runtime::plugin::PluginSlot;
use crate::runtime::store::{Change, Stored};
use crate::server::question::{self, Question, StoredChange};
use crate::server::state::State as Server;

/// Topics on one page at most.
const MOST: usize = 1_000;
/// The bytes of one topic that is imported, in base64.
pub(super) const MOST_BYTES: usize = 2 << 30;
/// How long a topic in memory has to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than at home an answer may take.
const WAY: Duration = Duration::from_secs(1);

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
fn durable(state: &Server, plugin: &str) -> Result<Arc<PluginSlot>, String> {
    let routing = state.routing();
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
    let slot = match durable(&admin.state, &plugin) {
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
    let is_import = false;
    let change = StoredChange {
        plugin,
        topic,
        is_import,
    };
    at_home(&admin.state, change, Bytes::new()).await.into_response()
}

/// Stores a capsule of an export.
pub(super) async fn import(
    State(admin): State<Admin>,
    Path(plugin): Path<String>,
    Json(imported): Json<Imported>,
) -> Response {
    if let Err(why) = durable(&admin.state, &plugin) {
        return refused(StatusCode::NOT_FOUND, why);
    }
    let bytes = STANDARD.decode(imported.capsule).unwrap_or_default();
    let topic = match Capsule::decode(&bytes) {
        Ok(capsule) if capsule.plugin == plugin => capsule.topic,
        Ok(capsule) => {
            return refused(
                StatusCode::BAD_REQUEST,
                format_args!("this topic is of the plugin {}", capsule.plugin),
            );
        }
        Err(error) => return refused(StatusCode::BAD_REQUEST, error),
    };
    let is_import = true;
    let change = StoredChange {
        plugin,
        topic,
        is_import,
    };
    at_home(&admin.state, change, bytes.into()).await.into_response()
}

/// What became of a change. It crosses between nodes.
#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    status: u16,
    /// JSON if all went well, or else why it did not.
    text: String,
}

impl Changed {
    fn done() -> Self {
        Self::new(StatusCode::NO_CONTENT, "")
    }

    fn new(status: StatusCode, text: impl std::fmt::Display) -> Self {
        let (status, text) = (status.as_u16(), text.to_string());
        Self { status, text }
    }

    fn not_now(why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

impl IntoResponse for Changed {
    fn into_response(self) -> Response {
        match StatusCode::from_u16(self.status) {
            Ok(StatusCode::NO_CONTENT) => StatusCode::NO_CONTENT.into_response(),
            Ok(StatusCode::OK) => ([(CONTENT_TYPE, "application/json")], self.text).into_response(),
            Ok(status) => refused(status, self.text),
            Err(_) => refused(StatusCode::BAD_GATEWAY, self.text),
        }
    }
}

/// Has the home of a topic carry a change out: there it is known whether the topic is in memory.
async fn at_home(state: &Arc<Server>, change: StoredChange, capsule: Bytes) -> Changed {
    let Some(cluster) = state.cluster.get() else {
        return carry_out(state, &change, &capsule).await;
    };
    let (node, run) = match cluster.home(&change.topic) {
        Home::Here => return carry_out(state, &change, &capsule).await,
        Home::There(node, run) => (node, run),
        Home::Nowhere => return Changed::not_now("this topic has no home that this node knows"),
    };
    let question = question::write(&Question::Stored(change), [&capsule[..]]);
    match cluster.ask(run, question, PATIENCE + WAY).await {
        Ok(answer) => match question::read(&answer) {
            Some((changed, _)) => changed,
            None => Changed::not_now(format_args!("the node `{node}` has another version")),
        },
        Err(why) => Changed::not_now(format_args!("the home of this topic is the node `{node}`: {why}")),
    }
}

/// Carries a change out for another node.
pub(crate) async fn say(state: &Arc<Server>, change: &StoredChange, capsule: Bytes) -> Bytes {
    let is_here = { state.cluster.get() }.is_some_and(|cluster| cluster.home(&change.topic) == Home::Here);
    let changed = match is_here {
        true => carry_out(state, change, &capsule).await,
        false => Changed::not_now("this topic moves to another node"),
    };
    question::write(&changed, [])
}

async fn carry_out(state: &Arc<Server>, change: &StoredChange, capsule: &[u8]) -> Changed {
    let slot = match durable(state, &change.plugin) {
        Ok(slot) => slot,
        Err(why) => return Changed::new(StatusCode::NOT_FOUND, why),
    };
    let name = ByteString::from(&*change.topic);
    match change.is_import {
        false => forget_here(slot, name).await,
        true => import_here(slot, name, capsule).await,
    }
}

async fn forget_here(slot: Arc<PluginSlot>, name: ByteString) -> Changed {
    if let Some(topic) = slot.find(&name) {
        topic.forget();
        drop(topic);
        let gone = async {
            while slot.find(&name).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        return match tokio::time::timeout(PATIENCE, gone).await {
            Ok(()) => Changed::done(),
            Err(_) => Changed::not_now("the topic has not ended yet"),
        };
    }
    let Some(durable) = slot.durable() else {
        return Changed::new(StatusCode::NOT_FOUND, "");
    };
    let (store, plugin, asked) = (durable.store().clone(), slot.name.clone(), name.clone());
    // Whatever has this name stands first. It waits for the disk.
    let found = spawn_blocking(move || store.page(&plugin, &asked, None, 1)).await;
    match found {
        Ok(Ok(page)) if page.iter().all(|stored| stored.topic != name) => {
            Changed::new(StatusCode::OK, json!({ "forgotten": false }))
        }
        // It may go although it cannot be read.
        _ => {
            let key = durable.key(&name);
            write(&slot, &name, |fence| Change::Remove { key, fence }).await
        }
    }
}

async fn import_here(slot: Arc<PluginSlot>, name: ByteString, capsule: &[u8]) -> Changed {
    let capsule = match Capsule::decode(capsule) {
        Ok(capsule) => capsule,
        Err(error) => return Changed::new(StatusCode::BAD_REQUEST, error),
    };
    if slot.find(&name).is_some() {
        return Changed::new(
            StatusCode::CONFLICT,
            format_args!("{name} is in memory: forget it first"),
        );
    }
    let Some(durable) = slot.durable() else {
        return Changed::new(StatusCode::NOT_FOUND, "");
    };
    write(&slot, &name, |fence| durable.imported(capsule, fence, &slot)).await
}

/// Writes what is stored of a topic that is not in memory.
async fn write(slot: &PluginSlot, name: &ByteString, change: impl FnOnce(Option<Arc<Fence>>) -> Change) -> Changed {
    let Some(durable) = slot.durable() else {
        return Changed::new(StatusCode::NOT_FOUND, "");
    };
    let (store, key) = (durable.store().clone(), durable.key(name));
    // It waits for the disk.
    let fence = match spawn_blocking(move || store.fence(key)).await {
        Ok(Ok(fence)) => fence,
        Ok(Err(error)) => return Changed::not_now(error),
        Err(_) => return Changed::new(StatusCode::INTERNAL_SERVER_ERROR, "the store could not be asked"),
    };
    let (said, done) = oneshot::channel();
    durable.store().write(vec![change(fence)], move |done| {
        drop(said.send(done.into_iter().collect::<Result<(), _>>()))
    });
    match done.await {
        Ok(Ok(())) => Changed::done(),
        Ok(Err(error)) => Changed::not_now(error),
        Err(_) => Changed::not_now("the server stops"),
    }
}
