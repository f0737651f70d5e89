//! Counters and gauges, which the server shows to Prometheus.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// The path of a mount, and the name of a transport.
pub(crate) type MountLabels = [(&'static str, String); 2];

/// What the server counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Sockets that speak channels, long-poll sessions included.
    pub(crate) sockets: Gauge,
    /// Connected clients, by mount and transport.
    pub(crate) clients: Family<MountLabels, Gauge>,
    /// Clients that connected, by mount and transport.
    pub(crate) connects: Family<MountLabels, Counter>,
    /// Events and joins that were answered with `overloaded`.
    pub(crate) overloads: Counter,
    /// Messages from clients.
    pub(crate) messages_in: Counter,
    /// Messages to clients, each receiver of a broadcast counted.
    pub(crate) messages_out: Counter,
    /// Bytes of the messages from clients.
    pub(crate) bytes_in: Counter,
    /// Bytes of the messages to clients, with their frames, before compression.
    pub(crate) bytes_out: Counter,
    /// Messages that were not sent because the client's protocol version cannot carry them.
    pub(crate) withheld_messages: Counter,
    /// Connections that were closed because their client took its messages too slowly.
    pub(crate) slow_consumers: Counter,
    /// Messages that a newer one replaced because their client had fallen behind.
    pub(crate) replaced_messages: Counter,
    /// Refused connects.
    pub(crate) refused_connects: Counter,
    /// Tokens that were refused, by the reason.
    pub(crate) refused_tokens: Family<[(&'static str, &'static str); 1], Counter>,
    /// Connections that were closed because their token had expired.
    pub(crate) expired_tokens: Counter,
    /// Messages that came over HTTP at a mount, and were sent.
    pub(crate) http_broadcasts: Counter,
    /// Requests with such messages of which one at least was refused.
    pub(crate) refused_http_broadcasts: Counter,
    /// Clients that were refused because there were `max_connections`.
    pub(crate) refused_full: Counter,
    /// Answers of plugins that nobody waited for any more.
    pub(crate) late_answers: Counter,
    /// Messages to other topics that nobody got.
    pub(crate) undelivered: Counter,
    /// Log lines that were dropped because standard error did not take them in time.
    pub(crate) dropped_lines: Counter,
    /// Timers of plugins and of the server that are due later, as of the last request for metrics.
    pub(crate) timers: Gauge,
}

/// What the server counts for a plugin, over all its generations.
#[derive(Debug, Default)]
pub(crate) struct PluginStats {
    /// Events that it handled.
    pub(crate) events: Counter,
    /// Nanoseconds in its handlers.
    pub(crate) handler_nanos: Counter,
    /// Callbacks that panicked.
    pub(crate) panics: Counter,
    /// Callbacks that took longer than `warn_ms`.
    pub(crate) slow_handlers: Counter,
    /// Callbacks that took longer than `deadline_ms`; each cost its shard.
    pub(crate) hangs: Counter,
    /// Abandoned threads that have not returned.
    pub(crate) stuck_threads: Gauge,
    /// Effects that the server refused.
    pub(crate) refused_effects: Counter,
    /// Generations that came into service.
    pub(crate) loads: Counter,
    /// Rejected libraries.
    pub(crate) refused_loads: Counter,
    /// Topics that a reload has moved.
    pub(crate) migrated_topics: Counter,
    /// Topics that a reload could not move.
    pub(crate) failed_migrations: Counter,
    /// Rollbacks to the previous code.
    pub(crate) rollbacks: Counter,
    /// Generations whose library is still in memory though none of its code runs.
    pub(crate) leaked_generations: Gauge,
    /// Stored topics that came into memory.
    pub(crate) woken_topics: Counter,
    /// Topics that were stored and left memory.
    pub(crate) hibernated_topics: Counter,
    /// Stored topics that its code could not read.
    pub(crate) unreadable_topics: Counter,
    /// Times that a topic could not be stored.
    pub(crate) unstored_topics: Counter,
    /// Memory that stays at each reload, the least of the last few.
    pub(crate) leaked_bytes_per_reload: Gauge,
}

impl Metrics {
    /// Shows a count of refused tokens for each of these reasons from the beginning: 0.
    pub(crate) fn begin_refused_tokens(&self, reasons: &[&'static str]) {
        for reason in reasons {
            drop(self.refused_tokens.get_or_create(&[("reason", *reason)]));
        }
    }

    /// Counts a token that is refused for this reason.
    pub(crate) fn refused_token(&self, reason: &'static str) {
        self.refused_tokens.get_or_create(&[("reason", reason)]).inc();
    }
}

/// A time as the log and JSON write it: milliseconds, with microseconds as decimals.
#[must_use]
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
