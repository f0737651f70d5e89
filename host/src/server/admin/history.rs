//! The last hour, minute by minute: how many clients were closed and refused for which reasons, which limits were reached, and what
//! happened to plugins. Counters are compared once a minute, so clients notice nothing of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};

use super::Admin;
use crate::server::changes::ChangeKind;
use crate::server::closes::unix_ms;
use crate::server::state::State;

/// How many minutes are kept.
const MINUTES: usize = 60;

/// What is counted, and for what: a reason, a limit, or a plugin with what happened to it.
type Counts = BTreeMap<(&'static str, String), u64>;

/// The history of a server.
#[derive(Debug)]
pub(super) struct History {
    state: Arc<State>,
    minutes: Mutex<Minutes>,
}

#[derive(Debug, Default)]
struct Minutes {
    /// The last minutes, the oldest first.
    past: VecDeque<Minute>,
    /// The counters as they were when the last of them ended.
    counted: Counts,
    since_unix_ms: u64,
}

/// What happened in one minute.
#[derive(Clone, Debug)]
struct Minute {
    since_unix_ms: u64,
    /// Only what is not 0.
    counts: Counts,
    connections: usize,
}

impl History {
    /// Begins to count.
    pub(super) fn start(state: &Arc<State>) -> Self {
        state.changes.note(ChangeKind::Start, None, "server started");
        Self {
            state: Arc::clone(state),
            minutes: Mutex::new(Minutes {
                counted: counted(state),
                since_unix_ms: unix_ms(),
                ..Minutes::default()
            }),
        }
    }

    /// Ends the present minute.
    pub(super) fn end_minute(&self) {
        let now = counted(&self.state);
        let mut minutes = self.minutes();
        let ended = minutes.present(&now, self.state.connections());
        let before = minutes
            .past
            .back()
            .map(|minute| minute.counts.clone())
            .unwrap_or_default();
        for ((kind, name), count) in &ended.counts {
            if *kind == "limit" && !before.contains_key(&(*kind, name.clone())) {
                let text = format!("{name}: {count} in a minute");
                self.state.changes.note(ChangeKind::Limit, None, &text);
            }
        }
        minutes.counted = now;
        minutes.since_unix_ms = unix_ms();
        minutes.past.push_back(ended);
        while minutes.past.len() >= MINUTES {
            minutes.past.pop_front();
        }
    }

    fn shown(&self) -> Value {
        let now = counted(&self.state);
        let minutes = self.minutes();
        let present = minutes.present(&now, self.state.connections());
        let all: Vec<Minute> = minutes.past.iter().cloned().chain([present]).collect();
        drop(minutes);
        let mut series: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        for (index, minute) in all.iter().enumerate() {
            for ((kind, name), count) in &minute.counts {
                let counts = series.entry((*kind, &**name)).or_insert_with(|| vec![0; all.len()]);
                counts[index] = *count;
            }
        }
        let series: Vec<_> = series
            .into_iter()
            .map(|((kind, name), counts)| json!({ "kind": kind, "name": name, "counts": counts }))
            .collect();
        let changes: Vec<_> = self
            .state
            .changes
            .newest()
            .iter()
            .map(|change| change.shown())
            .collect();
        json!({
            "now_unix_ms": unix_ms(),
            "since_unix_ms": all.iter().map(|minute| minute.since_unix_ms).collect::<Vec<_>>(),
            "connections": all.iter().map(|minute| minute.connections).collect::<Vec<_>>(),
            "series": series,
            "changes": changes,
        })
    }

    fn minutes(&self) -> MutexGuard<'_, Minutes> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Minutes {
    /// The minute that has not ended yet.
    fn present(&self, now: &Counts, connections: usize) -> Minute {
        let more = now.iter().filter_map(|(key, count)| {
            // The counters of a plugin that was removed and added again begin anew.
            let more = count.saturating_sub(self.counted.get(key).copied().unwrap_or(0));
            (more > 0).then(|| (key.clone(), more))
        });
        Minute {
            since_unix_ms: self.since_unix_ms,
            counts: more.collect(),
            connections,
        }
    }
}

/// The counters as they are now.
fn counted(state: &State) -> Counts {
    let mut counts = Counts::new();
    for ((what, reason), count) in state.closes.counts() {
        counts.insert((what, reason.to_owned()), count);
    }
    let metrics = &state.hub.metrics;
    for (name, count) in [
        ("max_connections reached, clients refused", metrics.refused_full.get()),
        ("mailboxes full, events answered `overloaded`", metrics.overloads.get()),
        (
            "clients too slow, messages replaced by newer ones",
            metrics.replaced_messages.get(),
        ),
        ("clients too slow, connections closed", metrics.slow_consumers.get()),
        ("log too slow, lines dropped", metrics.dropped_lines.get()),
        ("messages to other topics not delivered", metrics.undelivered.get()),
    ] {
        counts.insert(("limit", name.to_owned()), count);
    }
    for (limit, count) in state.limited.counts() {
        counts.insert(("limit", format!("{}: refused", limit.setting())), count);
    }
    for (name, count) in [
        ("connections asked for", state.asked_connections()),
        ("messages from clients", metrics.messages_in.get()),
        ("messages to clients", metrics.messages_out.get()),
    ] {
        counts.insert(("traffic", name.to_owned()), count);
    }
    for slot in state.routing().routes.plugins.values() {
        let stats = &slot.stats;
        for (what, counter) in [
            ("loads", &stats.loads),
            ("libraries rejected", &stats.refused_loads),
            ("rollbacks", &stats.rollbacks),
            ("panics", &stats.panics),
            ("handlers too slow", &stats.slow_handlers),
            ("handlers that did not return", &stats.hangs),
            ("effects refused", &stats.refused_effects),
        ] {
            counts.insert(("plugin", format!("{}: {what}", slot.name)), counter.get());
        }
    }
    counts
}

/// Shows the last hour and the last changes.
pub(super) async fn history(Shared(admin): Shared<Admin>) -> Json<Value> {
    Json(admin.history.shown())
}
