//! Makes one line of all that the log says about a reload: built, probed, topics moved, old code unloaded.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::screen::Screen;
use crate::cli::terminal::{BAD, GOOD, STRONG, styled};

/// How the line begins about a library that was saved or built again, but was rejected before. The rest says what goes on.
pub(super) const REJECTED_BEFORE: &str = "library not loaded: it has not changed since it was rejected; ";

/// Hears all events of the server, and shows those about reloads.
pub(super) struct Reloads {
    screen: Screen,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// How long the last build took, by plugin, until the server puts it in service.
    built: BTreeMap<String, f64>,
    /// The line about the last reload, by plugin.
    lines: BTreeMap<String, String>,
}

impl Reloads {
    pub(super) fn new(screen: Screen) -> Self {
        Self {
            screen,
            known: Mutex::default(),
        }
    }

    fn heard(&self, said: &Said) {
        let plugin = &said.plugin;
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*said.message {
            "built" => drop(known.built.insert(plugin.clone(), said.number("build_ms"))),
            "plugin in service" => {
                let built = known.built.remove(plugin);
                // What is in service at the start is in the list of routes.
                if built.is_some() || said.number("generation") > 1.0 {
                    let line = in_service(said, built);
                    self.screen.say_about(plugin, &line);
                    known.lines.insert(plugin.clone(), line);
                }
            }
            "generation unloaded" => {
                let unloaded = format!(
                    "generation {} unloaded in {}",
                    said.number("generation"),
                    time(said.number("took_ms"))
                );
                if let Some(line) = known.lines.remove(plugin) {
                    let rest = format!("{} {unloaded}", styled(STRONG, plugin));
                    self.screen.say_more(plugin, &format!("{line}, {unloaded}"), &rest);
                }
            }
            "library unchanged" => {
                let built = known.built.remove(plugin);
                self.screen.say(&unchanged(said, built, None));
            }
            "configuration replaced" => self
                .screen
                .say(&format!("{} configuration replaced", styled(GOOD, "✓"))),
            message => {
                if let Some(holds) = message.strip_prefix(REJECTED_BEFORE) {
                    let built = known.built.remove(plugin);
                    self.screen.say(&unchanged(said, built, Some(holds)));
                }
            }
        }
    }
}

/// The line about a build that gave the same library as before. `holds`: it was rejected then, and what goes on meanwhile.
fn unchanged(said: &Said, built: Option<f64>, holds: Option<&str>) -> String {
    let (mark, what) = match holds {
        None => (styled(GOOD, "✓"), "nothing changed".to_owned()),
        Some(holds) => {
            let why = &said.rejected_before;
            let what = format!("this library was rejected before; {holds}: {why} ({})", said.help);
            (styled(BAD, "✗"), what)
        }
    };
    let built = built.map_or_else(String::new, |build_ms| format!("built in {}, ", time(build_ms)));
    format!("{mark} {}: {built}{what}", styled(STRONG, &said.plugin))
}

fn in_service(said: &Said, built: Option<f64>) -> String {
    let mut line = format!(
        "{} {} generation {}:",
        styled(GOOD, "✓"),
        styled(STRONG, &said.plugin),
        said.number("generation")
    );
    if let Some(build_ms) = built {
        let _ = write!(line, " built in {},", time(build_ms));
    }
    let _ = write!(line, " probed in {}", time(said.number("probed_ms")));
    let topics = match said.number("topics") {
        0.0 => return line + ", no topics",
        1.0 => "1 topic".to_owned(),
        topics => format!("{topics} topics"),
    };
    let (took, pause) = (
        time(said.number("swap_ms")),
        time(said.number("longest_pause_us") / 1_000.0),
    );
    line + &format!(", {topics} moved in {took} (paused for {pause} at most)")
}

/// A time in milliseconds, shown in µs, ms or s.
pub(super) fn time(ms: f64) -> String {
    match ms {
        ms if ms >= 1_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms if ms >= 1.0 => format!("{ms:.0} ms"),
        ms => format!("{:.0} µs", ms * 1_000.0),
    }
}

impl<S: Subscriber> Layer<S> for Reloads {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        self.heard(&said);
    }
}

/// An event of the log.
#[derive(Default)]
struct Said {
    message: String,
    plugin: String,
    rejected_before: String,
    help: String,
    numbers: BTreeMap<&'static str, f64>,
}

impl Said {
    fn number(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "few digits are shown")]
impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "plugin" => self.plugin = value.to_owned(),
            "message" => self.message = value.to_owned(),
            "rejected_before" => self.rejected_before = value.to_owned(),
            "help" => self.help = value.to_owned(),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.numbers.insert(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.insert(field.name(), value as f64);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.numbers.insert(field.name(), value as f64);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_microseconds_milliseconds_or_seconds() {
        assert_eq!([0.08, 12.4, 1_240.0].map(time), ["80 µs", "12 ms", "1.2 s"]);
    }
}
