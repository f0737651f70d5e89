//! Reads `[telemetry]`.

use serde_json::json;
use toml::Spanned;
use toml::de::DeValue;

use super::amount::{DAY_MS, HOUR_MS, MANY};
use super::around::Surroundings;
use super::reader::Section;
use super::telemetry_model::{Follow, HEADERS_VARIABLE, Telemetry};

/// Where a collector on this machine takes spans.
const ENDPOINT: &str = "http://127.0.0.1:4318/v1/traces";
/// Whose word counts.
const FOLLOW: [(&str, Follow); 3] = [
    ("nobody", Follow::Nobody),
    ("backends", Follow::Backends),
    ("everybody", Follow::Everybody),
];
/// The part of traces that is chosen where the file does not say.
const RATIO: f64 = 0.01;
/// The longest name of a service, in bytes.
const MOST_NAME: usize = 255;

/// `None` if the section is missing.
pub(super) fn telemetry(section: Section<'_>, around: &Surroundings<'_>) -> Option<Telemetry> {
    let is_built = cfg!(any(feature = "telemetry", test));
    if section.is_there() && !is_built {
        let built = section
            .mistakes
            .error(section.at.clone(), "this `bennu` was built without `[telemetry]`");
        section
            .mistakes
            .add(built.help("build it with `cargo build --release --features telemetry`"));
    }
    let telemetry = Telemetry {
        endpoint: endpoint(&section),
        headers_file: around.path(section.text("headers_file")),
        service_name: service_name(&section),
        ratio: ratio(&section),
        follow: section.choice("follow", &FOLLOW, Follow::Backends),
        topics: section.flag("topics", false),
        max_queue_spans: section.count("max_queue_spans", 4_096, 16..=1_000_000),
        max_client_spans: section.count("max_client_spans", 1_000, 0..=MANY),
        max_spans_per_event: section.count("max_spans_per_event", 100, 0..=10_000),
        interval: section.millis("interval_ms", 1_000, 1..=HOUR_MS),
        timeout: section.millis("timeout_ms", 10_000, 1..=HOUR_MS),
        flush_timeout: section.millis("flush_timeout_ms", 2_000, 0..=DAY_MS),
    };
    let is_there = section.is_there();
    section.finish();
    // `check` goes on after a mistake, and nobody could send anything.
    (is_there && is_built).then_some(telemetry)
}

/// The address of a collector. What must stay secret does not belong into it.
fn endpoint(section: &Section<'_>) -> String {
    let text = section.text("endpoint");
    section.note("endpoint", json!({ "type": "string", "default": ENDPOINT }));
    let Some(text) = text else {
        return ENDPOINT.to_owned();
    };
    let url = text.get_ref().parse::<http::Uri>().ok();
    let parts = url
        .as_ref()
        .and_then(|url| Some((url.scheme_str()?, url.authority()?, url)));
    let wrong = match parts {
        Some((_, authority, url)) if authority.as_str().contains('@') || url.query().is_some() => Some((
            "`endpoint` must not hold a password, nor a key in a query",
            format!("set a header in {HEADERS_VARIABLE}, or in the file that `headers_file` names"),
        )),
        Some(("http" | "https", _, url)) if url.path() == "/" => Some((
            "`endpoint` needs the path where the collector takes spans",
            format!("write `{}/v1/traces`", text.get_ref().trim_end_matches('/')),
        )),
        Some(("http" | "https", ..)) => None,
        _ => Some((
            "this is not the URL of a collector that speaks OTLP over HTTP",
            format!("write such as \"{ENDPOINT}\""),
        )),
    };
    if let Some((message, help)) = wrong {
        section
            .mistakes
            .add(section.mistakes.error(text.span(), message).help(help));
    }
    text.into_inner()
}

fn service_name(section: &Section<'_>) -> Option<String> {
    let text = section.text("service_name")?;
    let is_plain = |name: &str| (1..=MOST_NAME).contains(&name.len()) && !name.contains(char::is_control);
    if !is_plain(text.get_ref()) {
        let message = format!("`service_name` must have 1 to {MOST_NAME} bytes, without control characters");
        section.mistakes.add(section.mistakes.error(text.span(), message));
    }
    Some(text.into_inner())
}

/// A number from 0 to 1.
fn ratio(section: &Section<'_>) -> f64 {
    section.note(
        "ratio",
        json!({ "type": "number", "minimum": 0, "maximum": 1, "default": RATIO }),
    );
    let Some(value) = section.value("ratio") else {
        return RATIO;
    };
    let number = match value.get_ref() {
        DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().ok(),
        DeValue::Integer(_) => super::json::integer(value.get_ref()).map(|whole| whole as f64),
        _ => None,
    };
    number.filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
        let wrong = section
            .mistakes
            .error(Spanned::span(value), "`ratio` must be a number from 0 to 1");
        section
            .mistakes
            .add(wrong.help("0.01 traces one client in a hundred, 1.0 traces all of them"));
        RATIO
    })
}
