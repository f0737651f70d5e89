//! Sends spans to a collector: OTLP over HTTP, as protobuf.
//!
//! From the top:
//!
//! 1. [`Exporter`]: its thread takes spans from the queue of the [`Tracer`](crate::runtime::trace::Tracer), and nobody waits for it.
//! 2. [`convert`]: our spans as those of OpenTelemetry. The crate `opentelemetry-otlp` makes protobuf of them.
//! 3. [`client`]: the way over HTTP. [`headers`]: what the collector wants to see.
//!
//! A build without the feature `telemetry` has none of it.

#[cfg(not(feature = "telemetry"))]
mod absent;
#[cfg(feature = "telemetry")]
mod client;
#[cfg(feature = "telemetry")]
mod convert;
#[cfg(feature = "telemetry")]
mod exporter;
#[cfg(feature = "telemetry")]
mod headers;

#[cfg(not(feature = "telemetry"))]
pub(crate) use absent::{Exporter, TelemetryError};
#[cfg(feature = "telemetry")]
pub(crate) use exporter::{Exporter, TelemetryError};
