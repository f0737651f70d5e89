//! Counters and gauges. The server shows them to Prometheus.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// What the host counts of itself.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Sockets that speak channels, long-poll sessions included.
    pub(crate) sockets: Gauge,
    /// Messages from clients.
    pub(crate) messages_in: Counter,
    /// Messages to clients, each receiver of a broadcast counted.
    pub(crate) messages_out: Counter,
    /// Messages that were not sent, as the client's version has no way to write them.
    pub(crate) withheld_messages: Counter,
    /// Connections that were closed because their client took its messages too slowly.
    pub(crate) slow_consumers: Counter,
    /// Messages that a newer one took the place of, as their client had fallen behind.
    pub(crate) replaced_messages: Counter,
    /// Connects that were refused, by whomever.
    pub(crate) refused_connects: Counter,
    /// Clients that were refused because there were `max_connections`.
    pub(crate) refused_full: Counter,
    /// Answers that came when nobody waited for them any more.
    pub(crate) late_answers: Counter,
    /// Messages to other topics that nobody got.
    pub(crate) undelivered: Counter,
    /// Timers that are due later, of plugins and of the host. As of the last time that somebody asked.
    pub(crate) timers: Gauge,
}

/// What the host counts of a plugin, all its generations together.
#[derive(Debug, Default)]
pub(crate) struct PluginStats {
    /// Events that it handled.
    pub(crate) events: Counter,
    /// Callbacks that panicked.
    pub(crate) panics: Counter,
    /// Callbacks that took longer than `warn_ms`.
    pub(crate) slow_handlers: Counter,
    /// Callbacks that took longer than `deadline_ms`, whose shard was given up.
    pub(crate) hangs: Counter,
    /// Threads that were given up and have not come back.
    pub(crate) stuck_threads: Gauge,
    /// Effects that the host refused.
    pub(crate) refused_effects: Counter,
    /// Generations that came into service.
    pub(crate) loads: Counter,
    /// Libraries that were refused.
    pub(crate) refused_loads: Counter,
    /// Topics that were carried over.
    pub(crate) migrated_topics: Counter,
    /// Topics that could not be carried over.
    pub(crate) failed_migrations: Counter,
    /// Generations that gave their topics back to the one before.
    pub(crate) rollbacks: Counter,
    /// Generations whose library is still in memory though nothing of it runs.
    pub(crate) leaked_generations: Gauge,
    /// Memory that stays at each reload, the least of the last few.
    pub(crate) leaked_bytes_per_reload: Gauge,
}

/// A time as the log and JSON have it: milliseconds, down to the microsecond.
#[must_use]
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
