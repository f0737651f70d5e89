//! Tells the terminal and the page that plugins are being built.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::adapter::strip_str;
use serde_json::json;

use super::screen::Screen;
use crate::cli::terminal::{ODD, styled};
use crate::server::control::{Command, Service};

/// What cargo writes while another cargo holds a lock that it needs.
pub(super) const WAITS: &str = "Blocking waiting for file lock";

/// What a build is for.
pub(super) struct Due {
    /// Plugins with changes of their own: what comes of them is always told.
    pub(super) changed: BTreeSet<String>,
    /// Whether something has changed that decides over all plugins. Of a plugin without changes of its own it is then told
    /// only if cargo had to compile something.
    pub(super) all: bool,
}

/// A build that the terminal and the page know of.
#[derive(Clone)]
pub(super) struct Building {
    screen: Screen,
    service: Service,
    shown: String,
    /// Plugins that are built only because something has changed that decides over all. They are told of when cargo compiles something.
    others: Arc<[String]>,
    is_compiling: Arc<AtomicBool>,
}

impl Building {
    pub(super) fn start(screen: Screen, service: Service, due: &Due, names: &[String]) -> Self {
        let changed: Vec<String> = due.changed.iter().cloned().collect();
        let others = names
            .iter()
            .filter(|name| due.all && !due.changed.contains(*name))
            .cloned();
        let building = Self {
            shown: if changed.is_empty() {
                "plugins".to_owned()
            } else {
                changed.join(", ")
            },
            others: others.collect(),
            is_compiling: Arc::default(),
            screen,
            service,
        };
        building.tell(&changed);
        building.screen.status(&format!("building {}", building.shown));
        building
    }

    fn tell(&self, names: &[String]) {
        for name in names {
            let event = json!({ "plugin": name }).to_string();
            self.service.send(Command::News(("building", event)));
        }
    }

    /// Hears each line that cargo says.
    pub(super) fn listener(&self) -> impl FnMut(&str) + Send + 'static {
        let building = self.clone();
        move |line| {
            let line = strip_str(line).to_string();
            if line.contains(WAITS) {
                building.screen.say(&waiting(&line));
            }
            if line.contains("Compiling") && !building.is_compiling.swap(true, Ordering::AcqRel) {
                building.tell(&building.others);
            }
            building
                .screen
                .status(&format!("building {}: {}", building.shown, line.trim()));
        }
    }

    pub(super) fn is_told(&self, name: &String) -> bool {
        self.is_compiling.load(Ordering::Acquire) && self.others.contains(name)
    }
}

/// What cargo waits for.
pub(super) fn waiting(line: &str) -> String {
    let lock = line
        .split_once(" on ")
        .map_or("target directory", |(_, lock)| lock.trim());
    format!(
        "{} waiting for cargo's lock on the {lock}: another cargo runs",
        styled(ODD, "!")
    )
}
