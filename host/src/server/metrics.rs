//! Shows to Prometheus what the server counts.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::state::State;
use crate::runtime::metrics::PluginStats;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::store::Store;
use crate::runtime::trace::Tracer;

/// All of it in Prometheus' text format.
#[must_use]
pub(super) fn render(state: &State, plugins: &[Arc<PluginSlot>]) -> String {
    let metrics = &state.hub.metrics;
    let mut registry = Registry::with_prefix("bennu");
    registry.register(
        "sockets",
        "Connected sockets, long-poll sessions included",
        metrics.sockets.clone(),
    );
    registry.register("messages_in", "Messages from clients", metrics.messages_in.clone());
    registry.register("messages_out", "Messages to clients", metrics.messages_out.clone());
    registry.register(
        "bytes_in",
        "Bytes of the messages from clients",
        metrics.bytes_in.clone(),
    );
    registry.register(
        "bytes_out",
        "Bytes of the messages to clients, before compression",
        metrics.bytes_out.clone(),
    );
    registry.register(
        "withheld_messages",
        "Messages not sent because the client's protocol version cannot carry them",
        metrics.withheld_messages.clone(),
    );
    registry.register(
        "slow_consumers",
        "Connections closed because the client read too slowly",
        metrics.slow_consumers.clone(),
    );
    registry.register(
        "replaced_messages",
        "Messages that a newer one replaced because the client had fallen behind",
        metrics.replaced_messages.clone(),
    );
    registry.register(
        "closes",
        "Connections closed, by code and reason",
        state.closes.closed(),
    );
    registry.register(
        "refused",
        "Clients that were not let in, by reason",
        state.closes.refused(),
    );
    registry.register(
        "rate_limited",
        "Connections, requests and messages refused because of a limit by address, by client or by route",
        state.limited.family(),
    );
    registry.register("refused_connects", "Connects refused", metrics.refused_connects.clone());
    registry.register(
        "auth_refused",
        "Tokens refused, of clients that connect or show a new one",
        metrics.refused_tokens.clone(),
    );
    registry.register(
        "auth_expired",
        "Connections closed because their token had expired",
        metrics.expired_tokens.clone(),
    );
    registry.register(
        "http_broadcasts",
        "Messages sent that came over HTTP at a mount for clients of Supabase",
        metrics.http_broadcasts.clone(),
    );
    registry.register(
        "http_broadcasts_refused",
        "Requests with such messages that were refused, wholly or in part",
        metrics.refused_http_broadcasts.clone(),
    );
    registry.register(
        "refused_full",
        "Clients refused because the server was full (max_connections)",
        metrics.refused_full.clone(),
    );
    registry.register(
        "late_answers",
        "Answers of plugins for which no client waited any more",
        metrics.late_answers.clone(),
    );
    registry.register(
        "messages_undelivered",
        "Messages of plugins to other topics that were not delivered",
        metrics.undelivered.clone(),
    );
    registry.register(
        "log_lines_dropped",
        "Lines of the log dropped because standard error was slow, full or closed",
        metrics.dropped_lines.clone(),
    );
    registry.register(
        "log_lines_left_out",
        "Lines of the log left out because a client or a plugin caused too many of their kind",
        state.hub.client_lines.left_out(),
    );
    registry.register(
        "timers",
        "Timers that are due later, of plugins and of the host",
        metrics.timers.clone(),
    );
    let refused_ids = state.hub.pubsub.refused.count();
    state
        .api
        .register(&mut registry, &state.routing().config.api, refused_ids);
    registry.register(
        "clients",
        "Connected clients, by mount and transport",
        metrics.clients.clone(),
    );
    registry.register(
        "connects",
        "Clients that connected, by mount and transport",
        metrics.connects.clone(),
    );
    registry.register(
        "overloads",
        "Events and joins answered with `overloaded`",
        metrics.overloads.clone(),
    );
    if let Some(store) = state.hub.store() {
        register_store(registry.sub_registry_with_prefix("store"), store);
    }
    if let Some(tracer) = &state.hub.tracer {
        register_spans(registry.sub_registry_with_prefix("spans"), tracer);
    }
    if let Some(cluster) = state.cluster.get() {
        cluster.register(registry.sub_registry_with_prefix("cluster"));
    }
    super::usage::register(&mut registry, state);
    register_plugins(&mut registry, plugins);
    let mut text = String::new();
    encode(&mut text, &registry).expect("text is written to memory");
    text
}

/// What becomes of spans.
fn register_spans(registry: &mut Registry, tracer: &Tracer) {
    let counts = &tracer.counts;
    registry.register(
        "exported",
        "Spans that the collector has taken",
        counts.exported.clone(),
    );
    let dropped = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (reason, count) in [
        ("queue_full", &counts.full),
        ("not_taken", &counts.refused),
        ("event_full", &counts.beyond),
    ] {
        dropped.get_or_create(&[("reason", reason)]).inc_by(count.get());
    }
    registry.register("dropped", "Spans that are lost, by reason", dropped);
    let waiting = Gauge::<i64>::default();
    waiting.set(shown(tracer.queue().len() as u64));
    registry.register("waiting", "Spans that wait for the collector", waiting);
}

/// What the store of topics counts.
fn register_store(registry: &mut Registry, store: &Store) {
    let stats = store.stats();
    registry.register("writes", "Topics written or forgotten", stats.writes.clone());
    registry.register("write_bytes", "Bytes of the topics written", stats.bytes.clone());
    registry.register("syncs", "Syncs, each of one or more writes", stats.syncs.clone());
    registry.register(
        "failures",
        "Writes that failed: the disk or `[store] max_bytes` is full, the store is damaged, or NATS is away or refuses them",
        stats.failures.clone(),
    );
    let seconds = Counter::<f64, AtomicU64>::default();
    seconds.inc_by(stats.nanos.get() as f64 / 1e9);
    registry.register("write_seconds", "Time that writes and their syncs took", seconds);
    let bytes = Gauge::<i64>::default();
    bytes.set(shown(store.bytes()));
    registry.register(
        "bytes",
        "Bytes that stored topics take on the disk, or in the bucket of a cluster",
        bytes,
    );
}

/// What is counted of all plugins: each name is described once, and has a line for each of them.
fn register_plugins(registry: &mut Registry, plugins: &[Arc<PluginSlot>]) {
    let mut table = Table {
        registry: registry.sub_registry_with_prefix("plugin"),
        plugins,
    };
    table.counter("events", "Events handled", |stats| &stats.events);
    table.counter("panics", "Callbacks that panicked", |stats| &stats.panics);
    table.counter("slow_handlers", "Callbacks that took longer than warn_ms", |stats| {
        &stats.slow_handlers
    });
    table.counter("hangs", "Callbacks that took longer than deadline_ms", |stats| {
        &stats.hangs
    });
    table.gauge("stuck_threads", "Abandoned threads that have not returned", |slot| {
        slot.stats.stuck_threads.get()
    });
    table.counter("refused_effects", "Effects the host refused", |stats| {
        &stats.refused_effects
    });
    table.counter("loads", "Generations that came into service", |stats| &stats.loads);
    table.counter("refused_loads", "Libraries rejected", |stats| &stats.refused_loads);
    table.counter(
        "migrated_topics",
        "Topics that a reload has moved to new code",
        |stats| &stats.migrated_topics,
    );
    table.counter(
        "failed_migrations",
        "Topics that a reload could not move to new code",
        |stats| &stats.failed_migrations,
    );
    table.counter("rollbacks", "Rollbacks to the previous code", |stats| &stats.rollbacks);
    table.counter("woken_topics", "Stored topics that came into memory", |stats| {
        &stats.woken_topics
    });
    table.counter(
        "hibernated_topics",
        "Topics that were stored and left memory",
        |stats| &stats.hibernated_topics,
    );
    table.counter(
        "unreadable_topics",
        "Times that a stored topic could not be read, and its joins were refused",
        |stats| &stats.unreadable_topics,
    );
    table.counter("unstored_topics", "Times that a topic could not be stored", |stats| {
        &stats.unstored_topics
    });
    table.gauge(
        "leaked_generations",
        "Generations that have ended but stay in memory",
        |slot| slot.stats.leaked_generations.get(),
    );
    table.gauge(
        "leaked_bytes_per_reload",
        "Memory that each reload leaves behind, the smallest value of the last few",
        |slot| slot.stats.leaked_bytes_per_reload.get(),
    );
    table.gauge(
        "topics",
        "Topics it serves now",
        |slot| shown(slot.topic_count() as u64),
    );
    table.gauge("members", "Clients in its topics, each topic counted", |slot| {
        let topics = slot.topics();
        shown(topics.iter().map(|topic| topic.record().members.len() as u64).sum())
    });
    table.gauge("waiting_bytes", "Bytes that wait for its handlers", |slot| {
        shown(slot.waiting_bytes() as u64)
    });
    table.seconds("handler_seconds", "Time in its handlers", |stats| {
        stats.handler_nanos.get()
    });
    table.steps();
    table.gauge("generation", "The generation in service, 0 if there is none", |slot| {
        shown(slot.current().map_or(0, |generation| generation.number))
    });
}

/// Metrics with one value for each plugin.
struct Table<'a> {
    registry: &'a mut Registry,
    plugins: &'a [Arc<PluginSlot>],
}

type Labels = [(&'static str, String); 1];
type StepLabels = [(&'static str, String); 2];
type RefusalLabels = [(&'static str, String); 3];

impl Table<'_> {
    fn counter(&mut self, name: &str, help: &str, counter: impl Fn(&PluginStats) -> &Counter) {
        let family = Family::<Labels, Counter>::default();
        for slot in self.plugins {
            family.get_or_create(&labels(slot)).inc_by(counter(&slot.stats).get());
        }
        self.registry.register(name, help, family);
    }

    fn seconds(&mut self, name: &str, help: &str, nanos: impl Fn(&PluginStats) -> u64) {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        for slot in self.plugins {
            family
                .get_or_create(&labels(slot))
                .inc_by(nanos(&slot.stats) as f64 / 1e9);
        }
        self.registry.register(name, help, family);
    }

    /// How often each step of the pipeline let a library pass, and how often it refused one, by reason.
    fn steps(&mut self) {
        let passed = Family::<StepLabels, Counter>::default();
        let refused = Family::<RefusalLabels, Counter>::default();
        for slot in self.plugins {
            let [plugin] = labels(slot);
            let journal = slot.journal.read();
            for (step, count) in journal.passed {
                let labels = [plugin.clone(), ("step", step.name().to_owned())];
                passed.get_or_create(&labels).inc_by(count);
            }
            for ((step, code), count) in journal.rejections {
                let labels = [plugin.clone(), ("step", step.name().to_owned()), ("code", code)];
                refused.get_or_create(&labels).inc_by(count);
            }
        }
        self.registry
            .register("steps_passed", "Libraries that passed a step", passed);
        self.registry
            .register("refusals", "Libraries rejected, by step and reason", refused);
    }

    fn gauge(&mut self, name: &str, help: &str, gauge: impl Fn(&PluginSlot) -> i64) {
        let family = Family::<Labels, Gauge>::default();
        for slot in self.plugins {
            family.get_or_create(&labels(slot)).set(gauge(slot));
        }
        self.registry.register(name, help, family);
    }
}

fn labels(slot: &PluginSlot) -> Labels {
    [("plugin", slot.name.clone())]
}

fn shown(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
