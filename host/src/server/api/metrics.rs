//! What the API counts of itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config;

type RequestLabels = [(&'static str, String); 2];
type ReasonLabels = [(&'static str, &'static str); 1];

/// Counters and gauges of the API. They are there whether it is on or not.
#[derive(Debug, Default)]
pub(crate) struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    /// Messages that were sent.
    pub(super) published: Counter,
    /// Connections that were closed.
    pub(super) disconnected: Counter,
    /// Open connections of backends.
    pub(super) connections: Gauge,
    /// Requests at work, besides calls.
    pub(super) running: Gauge,
    /// Calls at work.
    pub(super) calling: Gauge,
    /// Answers that are remembered, and their bytes.
    pub(super) remembered: AtomicUsize,
    pub(super) remembered_bytes: AtomicUsize,
    /// Answers that were forgotten before their time, because there were too many.
    pub(super) forgotten: Counter,
}

impl ApiMetrics {
    /// Counts an answer, by verb and status.
    pub(super) fn answered(&self, verb: &'static str, status: u16) {
        let labels = [("verb", verb.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a request, or a message of one, that was refused.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Adds all of it, with the limits beside their use.
    pub(crate) fn register(&self, registry: &mut Registry, config: &config::Api, refused_ids: usize) {
        let registry = registry.sub_registry_with_prefix("api");
        registry.register(
            "requests",
            "Requests of backends, by verb and status",
            self.requests.clone(),
        );
        registry.register(
            "refused",
            "Requests of backends, and messages of them, that were refused, by reason",
            self.refused.clone(),
        );
        registry.register(
            "published",
            "Messages of backends that were sent",
            self.published.clone(),
        );
        registry.register(
            "disconnected",
            "Connections that backends have closed",
            self.disconnected.clone(),
        );
        registry.register(
            "idempotency_forgotten",
            "Answers forgotten before their time, as there were too many",
            self.forgotten.clone(),
        );
        let remembered = self.remembered.load(Ordering::Relaxed);
        let remembered_bytes = self.remembered_bytes.load(Ordering::Relaxed);
        let mut gauge = |name: &str, help: &str, value: usize| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        let now = |gauge: &Gauge| usize::try_from(gauge.get()).unwrap_or(0);
        gauge("connections", "Connections of backends", now(&self.connections));
        gauge("connections_limit", "Their limit", config.max_connections);
        gauge(
            "running",
            "Requests of backends at work, besides calls",
            now(&self.running),
        );
        gauge("running_limit", "Their limit", config.max_concurrent);
        gauge("calling", "Calls of backends at work", now(&self.calling));
        gauge("calling_limit", "Their limit", config.max_calls);
        gauge("idempotency_keys", "Answers that are remembered", remembered);
        gauge("idempotency_keys_limit", "Their limit", config.max_idempotency_keys);
        gauge(
            "idempotency_bytes",
            "Bytes of answers that are remembered",
            remembered_bytes,
        );
        gauge("idempotency_bytes_limit", "Their limit", config.max_idempotency_bytes);
        gauge(
            "refused_ids",
            "Socket ids that may not connect for a while",
            refused_ids,
        );
        gauge("refused_ids_limit", "Their limit", config.max_refused_ids);
    }
}
