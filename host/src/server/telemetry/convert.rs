//! Our spans as those of OpenTelemetry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Link, SpanContext as Context, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::config::Telemetry;
use crate::runtime::trace::{Finished, Kind, SpanContext, Value};

/// How the server is called if nobody says.
const NAME: &str = "bennu";

/// Who sends the spans: `service.name` and the like. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` count, too.
pub(super) fn resource(settings: &Telemetry) -> Resource {
    let named = |variable| std::env::var(variable).unwrap_or_default();
    let is_named =
        !named("OTEL_SERVICE_NAME").is_empty() || named("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match &settings.service_name {
        Some(name) => builder.with_service_name(name.clone()),
        None if is_named => builder,
        None => builder.with_service_name(NAME),
    }
    .build()
}

/// What made the spans.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(NAME)
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// A span that has ended.
pub(super) fn span(finished: Finished, scope: &InstrumentationScope) -> SpanData {
    let outcome = finished.outcome.map(|outcome| outcome.to_string());
    let mut attributes: Vec<_> = finished
        .attributes
        .into_iter()
        .map(|(key, value)| match value {
            Value::Text(text) => KeyValue::new(key, text.to_string()),
            Value::Number(number) => KeyValue::new(key, number),
        })
        .collect();
    let status = match &outcome {
        Some(outcome) if finished.has_failed => Status::error(outcome.clone()),
        _ => Status::Unset,
    };
    attributes.extend(outcome.map(|outcome| KeyValue::new("bennu.outcome", outcome)));
    let mut links = SpanLinks::default();
    let link = finished.link.map(|link| Link::new(context(link), Vec::new(), 0));
    links.links.extend(link);
    SpanData {
        span_context: context(finished.context),
        parent_span_id: finished
            .parent
            .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_be_bytes())),
        parent_span_is_remote: finished.has_remote_parent,
        span_kind: match finished.kind {
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
        },
        name: finished.name,
        start_time: time(finished.begun),
        end_time: time(finished.ended),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status,
        instrumentation_scope: scope.clone(),
    }
}

fn context(context: SpanContext) -> Context {
    Context::new(
        TraceId::from_bytes(context.trace.to_be_bytes()),
        SpanId::from_bytes(context.span.to_be_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
