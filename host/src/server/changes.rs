//! What has changed lately: reloads, rollbacks, other settings, limits that were reached, and what operators have done. The log says
//! all of it, too; this is for the dashboard.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::closes::unix_ms;

/// How many are kept. Beyond that, the oldest are forgotten.
const MOST: usize = 200;
/// The longest text that is kept, in bytes.
const MOST_TEXT: usize = 500;

/// The last changes of a server.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<VecDeque<Change>>);

/// Something that has changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When, in milliseconds since 1970.
    pub(crate) at_unix_ms: u64,
    /// What kind of change it is.
    pub(crate) kind: ChangeKind,
    /// The plugin that it is about.
    pub(crate) plugin: Option<String>,
    /// What has happened, on one line.
    pub(crate) text: String,
    /// The operator who did it, if one did.
    pub(crate) by: Option<String>,
}

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// The server has started.
    Start,
    /// Code of a plugin came into service.
    Reload,
    /// The previous code of a plugin took over again.
    Rollback,
    /// Code of a plugin, or a configuration, did not come into service; or no code of a plugin is in service any more.
    Rejection,
    /// Another configuration is in force.
    Configuration,
    /// A limit was reached.
    Limit,
    /// An operator has done something.
    Operator,
}

impl ChangeKind {
    /// The word for it in JSON. Stable.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Rollback => "rollback",
            Self::Rejection => "rejection",
            Self::Configuration => "configuration",
            Self::Limit => "limit",
            Self::Operator => "operator",
        }
    }
}

impl Changes {
    /// Notes a change of now. Of the text it keeps the first line.
    pub(crate) fn note(&self, kind: ChangeKind, plugin: Option<&str>, text: &str) {
        self.push(Change::now(kind, plugin, text));
    }

    /// Notes what an operator has done.
    pub(crate) fn note_by(&self, operator: &str, plugin: Option<&str>, text: &str) {
        self.push(Change {
            by: Some(operator.to_owned()),
            ..Change::now(ChangeKind::Operator, plugin, text)
        });
    }

    /// All that are kept, the newest first.
    #[must_use]
    pub(crate) fn newest(&self) -> Vec<Change> {
        self.lock().iter().rev().cloned().collect()
    }

    fn push(&self, change: Change) {
        let mut changes = self.lock();
        if changes.len() >= MOST {
            changes.pop_front();
        }
        changes.push_back(change);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Change>> {
        // The changes are whole wherever a holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    fn now(kind: ChangeKind, plugin: Option<&str>, text: &str) -> Self {
        let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Self {
            at_unix_ms: unix_ms(),
            kind,
            plugin: plugin.map(str::to_owned),
            text: line[..line.floor_char_boundary(MOST_TEXT)].to_owned(),
            by: None,
        }
    }

    /// As the dashboard gets it.
    #[must_use]
    pub(crate) fn shown(&self) -> Value {
        json!({
            "at_unix_ms": self.at_unix_ms, "kind": self.kind.name(), "plugin": self.plugin, "text": self.text, "by": self.by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_kept_and_the_newest_comes_first() {
        let changes = Changes::default();
        for number in 0..=MOST {
            changes.note(ChangeKind::Reload, Some("room"), &format!("generation {number}"));
        }
        changes.note_by("ann", None, "1 client disconnected");
        let kept = changes.newest();
        assert_eq!(kept.len(), MOST);
        assert_eq!(
            (kept[0].kind, kept[0].by.as_deref()),
            (ChangeKind::Operator, Some("ann"))
        );
        assert_eq!(
            (&*kept[1].text, &*kept[MOST - 1].text),
            ("generation 200", "generation 2")
        );
    }

    #[test]
    fn of_a_long_text_the_beginning_of_the_first_line_is_kept() {
        let changes = Changes::default();
        changes.note(
            ChangeKind::Rejection,
            None,
            "\nerror: unknown key\n  --> bennu.toml:3\n",
        );
        changes.note(ChangeKind::Rejection, None, &"ü".repeat(MOST_TEXT));
        let kept = changes.newest();
        assert_eq!(kept[1].text, "error: unknown key");
        assert_eq!(kept[0].text, "ü".repeat(MOST_TEXT / 2));
    }
}
