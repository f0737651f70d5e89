//! The log of `serve` as JSON, one object a line: `[log] format = "json"`.
//!
//! From the first moment on: a mistake in the configuration is such a line as well, so the format is looked up before the
//! configuration is read.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::runtime::plugin;

/// Everything that goes to standard error is JSON.
static ON: AtomicBool = AtomicBool::new(false);

/// Whether everything that goes to standard error is JSON.
pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// From now on, everything that goes to standard error has this format.
pub(super) fn set(format: LogFormat) {
    let is_json = format == LogFormat::Json;
    ON.store(is_json, Ordering::Relaxed);
    plugin::crash::write_json(is_json);
}

/// Looks up the format in a configuration that may be full of mistakes.
pub(super) fn foresee(file: &Path) {
    // One that cannot be read is told as text.
    let text = std::fs::read_to_string(file).unwrap_or_default();
    set(format_in(&text));
}

fn format_in(text: &str) -> LogFormat {
    let mut in_log = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_log = line.split('#').next().is_some_and(|header| header.trim() == "[log]");
        }
        let is_json = |(key, value): (&str, &str)| {
            let value = value.split('#').next().unwrap_or_default().trim();
            key.trim() == "format" && ["\"json\"", "'json'"].contains(&value)
        };
        if in_log && line.split_once('=').is_some_and(is_json) {
            return LogFormat::Json;
        }
    }
    LogFormat::Text
}

/// A line about something that went wrong before the log was started, or after it has ended.
pub(super) fn error(message: &str) -> String {
    let message = message.trim_end().trim_start_matches("error: ");
    let line = json!({ "time": now(), "level": "ERROR", "target": "bennu", "message": message });
    format!("{line}\n")
}

fn now() -> String {
    let mut time = String::new();
    // Writing to memory does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

/// Writes an event as one JSON object: `time`, `level`, `target`, `message`, and each field of the event. A field whose name is taken
/// gets a `_` behind it.
#[derive(Debug)]
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        fields.0.insert("time".to_owned(), now().into());
        fields.0.insert("level".to_owned(), metadata.level().as_str().into());
        fields.0.insert("target".to_owned(), metadata.target().into());
        event.record(&mut fields);
        writeln!(out, "{}", Value::Object(fields.0))
    }
}

/// The fields of an event.
struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        let mut name = name.to_owned();
        // A line may have a message in its own words and one of a plugin.
        while self.0.contains_key(&name) {
            name.push('_');
        }
        self.0.insert(name, value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, u64::try_from(value).unwrap_or(u64::MAX));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        self.add(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn an_event_is_one_object_with_the_types_of_its_fields() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&written);
        let log = tracing_subscriber::fmt::layer()
            .event_format(JsonLines)
            .with_writer(move || Kept(Arc::clone(&to)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            let error: &dyn std::error::Error = &std::io::Error::other("broken");
            let took = 5_u128;
            tracing::warn!(
                count = 3,
                ratio = 0.5,
                done = true,
                error,
                took,
                level = "own",
                "two\nlines \"quoted\""
            );
        });
        let text = String::from_utf8(written.lock().expect("written").clone()).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        for (key, expected) in [
            ("level", json!("WARN")),
            ("message", json!("two\nlines \"quoted\"")),
            ("count", json!(3)),
            ("ratio", json!(0.5)),
            ("done", json!(true)),
            ("error", json!("broken")),
            ("took", json!(5)),
            ("level_", json!("own")),
        ] {
            assert_eq!(line[key], expected, "{key}");
        }
        assert!(
            line["target"]
                .as_str()
                .is_some_and(|target| target.starts_with("bennu::cli")),
            "{line}"
        );
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }

    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_format_is_known_before_the_configuration_is_read() {
        let is_json = |text: &str| format_in(text) == LogFormat::Json;
        assert!(is_json(
            "[server]\nbroken = = \n[log] # how\n  format = \"json\" # one a line\n"
        ));
        assert!(is_json("[log]\nformat='json'"));
        assert!(!is_json("[log]\nformat = \"text\""));
        assert!(!is_json("[log]\nlevel = \"info\"\n[other]\nformat = \"json\""));
        assert!(!is_json("# [log]\n# format = \"json\""));
        assert!(!is_json(""));
    }
}
