//! What the process uses, and how near it is to its limits: for the metrics and the dashboard.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::limits::{self, LimitName};
use super::routing::Routing;
use super::state::State;
use crate::runtime::rate::{Limit, Rates};

type LimitLabel = Vec<(&'static str, String)>;

/// A limit and how much of it is in use.
#[derive(Clone, Debug)]
pub(super) struct Use {
    /// The setting, with its section.
    pub(super) setting: String,
    /// As the metrics name it, if that is not the setting without its section.
    name: Option<&'static str>,
    /// The topic of the route that it is for.
    route: Option<String>,
    used: u64,
    most: u64,
    is_bytes: bool,
}

impl Use {
    /// So much of so much.
    pub(super) fn of(setting: impl Into<String>, used: usize, most: usize) -> Self {
        Self {
            setting: setting.into(),
            name: None,
            route: None,
            used: used as u64,
            most: most as u64,
            is_bytes: false,
        }
    }

    /// The same, in bytes.
    #[must_use]
    pub(super) fn in_bytes(self) -> Self {
        Self { is_bytes: true, ..self }
    }

    /// A limit of addresses, clients or routes. Of one in a second, it is what may come at once, and how much of that was used by
    /// whoever used most.
    fn named((name, used, most): limits::Use) -> Self {
        Self {
            name: Some(name.label()),
            is_bytes: name.is_bytes(),
            ..Self::of(name.setting(), used, most)
        }
    }

    /// As the dashboard gets it.
    pub(super) fn shown(&self) -> Value {
        json!({ "setting": self.setting, "used": self.used, "most": self.most, "is_bytes": self.is_bytes })
    }

    /// The setting without its section, as the metrics name it.
    fn label(&self) -> LimitLabel {
        let name = self.setting.rsplit(' ').next().unwrap_or_default();
        let mut label = vec![("limit", self.name.unwrap_or(name).to_owned())];
        label.extend(self.route.clone().map(|route| ("route", route)));
        label
    }
}

/// The limits of the whole server. So many files are open.
pub(super) fn limits(state: &State, open_files: u64) -> Vec<Use> {
    let routing = state.routing();
    let limits = &routing.config.limits;
    let most_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let mut all = vec![
        Use::of("[limits] max_connections", state.connections(), limits.max_connections),
        Use {
            used: open_files,
            most: most_files,
            ..Use::of("open_files", 0, 0)
        },
    ];
    all.extend(paces(state, &routing));
    all
}

/// The limits by address, by client and by route.
fn paces(state: &State, routing: &Routing) -> Vec<Use> {
    let now = Instant::now();
    let mut all: Vec<Use> = state.addresses.used(now).into_iter().map(Use::named).collect();
    let rates = Rates::new(&routing.config.limits.client.paces);
    for limit in Limit::ALL {
        let used = (LimitName::Client(limit), state.peaks.of(limit, now));
        all.extend(rates.of(limit).map(|rate| Use::named((used.0, used.1, rate.most()))));
    }
    for route in routing.routes.all() {
        all.extend(route.used(now).into_iter().map(|(limit, used, most)| Use {
            setting: format!("{} of {}", LimitName::Route(limit).setting(), route.topic),
            route: Some(route.topic.to_string()),
            ..Use::named((LimitName::Route(limit), used, most))
        }));
    }
    all
}

/// Registers the figures of the process, and each limit beside its use.
pub(super) fn register(registry: &mut Registry, state: &State) {
    let files = open_files();
    let process = registry.sub_registry_with_prefix("process");
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(cpu_seconds());
    process.register("cpu_seconds", "Processor time of the process", cpu);
    process.register(
        "resident_memory_bytes",
        "Memory of the process",
        gauge(resident_bytes()),
    );
    process.register(
        "open_files",
        "Open files of the process, connections included",
        gauge(files),
    );
    let (limit, used) = (
        Family::<LimitLabel, Gauge>::default(),
        Family::<LimitLabel, Gauge>::default(),
    );
    for each in limits(state, files) {
        limit.get_or_create(&each.label()).set(shown(each.most));
        used.get_or_create(&each.label()).set(shown(each.used));
    }
    registry.register("limit", "The value of a limit", limit);
    registry.register("limit_used", "How much of a limit is in use", used);
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(shown(value));
    gauge
}

fn shown(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Processor time of the process.
pub(super) fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// Open files of the process. Takes longer the more there are.
pub(super) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// Memory of the process.
pub(super) fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page_size() as u64
}
