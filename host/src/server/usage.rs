//! What the process uses, and how near it is to its limits: for the metrics.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::state::State;

type LimitLabel = [(&'static str, &'static str); 1];

/// Registers the figures of the process, and each limit beside its use.
pub(super) fn register(registry: &mut Registry, state: &State) {
    let files = open_files();
    let process = registry.sub_registry_with_prefix("process");
    let cpu = Counter::<f64, AtomicU64>::default();
    let used = clock_gettime(ClockId::ProcessCPUTime);
    cpu.inc_by(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9);
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
    let max_connections = state.routing().config.limits.max_connections;
    let most_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let (limit, used) = (
        Family::<LimitLabel, Gauge>::default(),
        Family::<LimitLabel, Gauge>::default(),
    );
    for (name, most, now) in [
        ("max_connections", max_connections as u64, state.connections() as u64),
        ("open_files", most_files, files),
    ] {
        limit.get_or_create(&[("limit", name)]).set(shown(most));
        used.get_or_create(&[("limit", name)]).set(shown(now));
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

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page_size() as u64
}
