//! `[telemetry]` as values: which traces go where.

use std::path::PathBuf;
use std::time::Duration;

/// The environment variable that holds headers for the collector, as in OpenTelemetry: `name=value,name=value`.
pub(crate) const HEADERS_VARIABLE: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// `[telemetry]`. Without it, nothing is traced.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    not(feature = "telemetry"),
    allow(dead_code, reason = "a build without traces refuses it")
)]
pub(crate) struct Telemetry {
    /// Where the collector takes spans. Default `http://127.0.0.1:4318/v1/traces`.
    pub(crate) endpoint: String,
    /// A file of headers for the collector, unless [`HEADERS_VARIABLE`] is set.
    pub(crate) headers_file: Option<PathBuf>,
    /// How the server is called. `None`: as `OTEL_SERVICE_NAME` says, or else `bennu`.
    pub(crate) service_name: Option<String>,
    /// The part of traces that is chosen, from 0 to 1. Default 0.01.
    pub(crate) ratio: f64,
    /// Whose word on whether a trace is chosen counts. Default: that of backends.
    pub(crate) follow: Follow,
    /// Whether spans have the whole names of topics. Default false.
    pub(crate) topics: bool,
    /// How many spans may wait for the collector. Default 4,096.
    pub(crate) max_queue_spans: usize,
    /// How many joins and events of a client may be in the trace of its connect. Default 1,000.
    pub(crate) max_client_spans: usize,
    /// How many spans a plugin may open in one event. Default 100.
    pub(crate) max_spans_per_event: usize,
    /// How long spans may wait for others that go with them. Default 1 s.
    pub(crate) interval: Duration,
    /// How long the collector may take. Default 10 s.
    pub(crate) timeout: Duration,
    /// How long a stop waits for the last spans. Default 2 s.
    pub(crate) flush_timeout: Duration,
}

/// Whose word on whether a trace is chosen (the flag `sampled` of its `traceparent`) counts. That of others is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Nobody's.
    Nobody,
    /// That of backends, which have a key.
    Backends,
    /// That of clients, too.
    Everybody,
}
