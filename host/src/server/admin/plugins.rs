//! `/plugins` and `/quarantine`: the plugins, and what an operator may do with them.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::access::Operator;
use super::{Admin, serves};
use crate::config::ContentHash;
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::generation::Generation;
use crate::runtime::plugin::journal::{Entries, Reload, Rollback};
use crate::runtime::plugin::quarantine::Quarantined;
use crate::runtime::plugin::swap::SwapReport;
use crate::server::control::Command;

/// Lists the plugins.
pub(super) async fn plugins(State(admin): State<Admin>) -> Json<Vec<Value>> {
    let quarantined = admin.quarantine.list();
    let slots = admin.state.routing();
    let slots = slots.routes.plugins.values();
    Json(
        slots
            .map(|slot| describe(slot, &quarantined, population(slot)))
            .collect(),
    )
}

/// Loads a plugin's library again, even if it has not changed.
pub(super) async fn reload(
    State(admin): State<Admin>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(name): Path<String>,
) -> Response {
    ask(&admin, &operator, name, "reload asked for", Command::Again)
}

/// Has the previous code of a plugin take over again.
pub(super) async fn roll_back(
    State(admin): State<Admin>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(name): Path<String>,
) -> Response {
    ask(&admin, &operator, name, "rollback asked for", Command::RollBack)
}

/// Has the control thread change a plugin, and notes who wants that.
fn ask(admin: &Admin, operator: &str, name: String, what: &'static str, command: fn(String) -> Command) -> Response {
    if !has(admin, &name) {
        return no_plugin(&name);
    }
    tracing::info!(plugin = name, by = operator, "{what}");
    admin.state.changes.note_by(operator, Some(&name), what);
    admin.service.send(command(name));
    StatusCode::ACCEPTED.into_response()
}

fn has(admin: &Admin, name: &str) -> bool {
    admin.state.routing().routes.plugins.contains_key(name)
}

fn no_plugin(name: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("there is no plugin {name}\n")).into_response()
}

/// Lists what is in quarantine.
pub(super) async fn quarantine(State(admin): State<Admin>) -> Json<Vec<Value>> {
    Json(admin.quarantine.list().iter().map(shown_quarantined).collect())
}

/// Takes contents out of quarantine. If they are the plugin's current library, the server loads them.
pub(super) async fn lift(
    State(admin): State<Admin>,
    Extension(Operator(operator)): Extension<Operator>,
    Path(hash): Path<String>,
) -> Response {
    let Some(hash) = ContentHash::parse(&hash) else {
        return (StatusCode::BAD_REQUEST, "64 hexadecimal digits are needed\n").into_response();
    };
    let why = admin.quarantine.find(hash);
    match (why, admin.quarantine.lift(hash)) {
        (Some(why), Ok(true)) => {
            tracing::info!(plugin = why.plugin, hash = %hash, by = &*operator, "lifted out of quarantine");
            let text = format!("contents {hash} lifted out of quarantine");
            admin.state.changes.note_by(&operator, Some(&why.plugin), &text);
            admin.forget();
            admin.service.send(Command::Lifted(why.plugin, hash));
            StatusCode::NO_CONTENT.into_response()
        }
        (_, Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        _ => (StatusCode::NOT_FOUND, "it is not in quarantine\n").into_response(),
    }
}

/// As `/quarantine` shows it.
pub(super) fn shown_quarantined((hash, why): &(ContentHash, Quarantined)) -> Value {
    json!({
        "hash": format!("{hash:#}"), "plugin": why.plugin, "code": why.code, "reason": why.reason,
        "at_unix_s": why.at_unix_s,
    })
}

/// As `/plugins` shows it, with so many topics and members.
pub(super) fn describe(
    slot: &PluginSlot,
    quarantined: &[(ContentHash, Quarantined)],
    (topics, clients): (usize, usize),
) -> Value {
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
    json!({
        "name": slot.name,
        "state": if serves(slot) { "in service" } else { "unavailable" },
        "on_probation": on_probation,
        "generation": current.map(|current| current.number),
        "version": current.map(|current| &current.manifest.version),
        "kit": current.map(|current| &current.manifest.kit),
        "state_version": current.map(|current| current.manifest.state_version),
        "hash": current.map(|current| current.hash.to_string()),
        "shards": current.map(Generation::shard_count),
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
