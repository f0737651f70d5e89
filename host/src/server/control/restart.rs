//! Which changes of a configuration a running host cannot take up.

use crate::config::Config;

/// A part that is read only at the start: its section, its key where it is not all of the section, and whether two are the same.
type Part = (&'static str, Option<&'static str>, fn(&Config, &Config) -> bool);

const PARTS: [Part; 4] = [
    ("server", None, |a, b| a.server == b.server),
    ("admin", None, |a, b| a.admin == b.admin),
    ("limits", Some("max_inbox_bytes"), |a, b| {
        a.limits.max_inbox_bytes == b.limits.max_inbox_bytes
    }),
    ("log", Some("level"), |a, b| a.log.level == b.log.level),
];

/// What is read only at the start, where `config` has it otherwise than the host was started with, as `FILE:LINE: [SECTION] KEY`.
/// What it had so `before` was said then.
pub(super) fn needs_restart(config: &Config, before: &Config, started: &Config) -> Vec<String> {
    let differs = |(_, _, same): &&Part| !same(config, started) && !same(config, before);
    { PARTS.iter().filter(differs) }
        .flat_map(|(section, key, _)| config.changed_keys(section, *key, [before, started]))
        .collect()
}
