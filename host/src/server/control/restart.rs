//! Finds changes to the configuration that need a restart.

use crate::config::Config;

/// A part that the host reads only at its start: its section, its key unless it is the whole section, and how to compare it.
type Part = (&'static str, Option<&'static str>, fn(&Config, &Config) -> bool);

const PARTS: [Part; 12] = [
    ("server", None, |a, b| a.server == b.server),
    ("listeners", None, |a, b| a.listeners == b.listeners),
    ("tls", None, |a, b| a.tls == b.tls),
    ("admin", Some("listen"), |a, b| a.admin.listen == b.admin.listen),
    ("admin", Some("max_connections"), |a, b| {
        a.admin.max_connections == b.admin.max_connections
    }),
    ("api", Some("listen"), |a, b| a.api.listen == b.api.listen),
    ("limits", Some("max_inbox_bytes"), |a, b| {
        a.limits.max_inbox_bytes == b.limits.max_inbox_bytes
    }),
    ("cluster", None, |a, b| a.cluster == b.cluster),
    ("telemetry", None, |a, b| a.telemetry == b.telemetry),
    ("store", None, |a, b| a.store == b.store),
    ("log", Some("format"), |a, b| a.log.format == b.log.format),
    ("log", Some("max_queue_bytes"), |a, b| {
        a.log.max_queue_bytes == b.log.max_queue_bytes
    }),
];

/// The parts that need a restart because `config` differs from what the host was started with, as `FILE:LINE: [SECTION] KEY`. Leaves
/// out what already differed in the same way `before`.
pub(super) fn needs_restart(config: &Config, before: &Config, started: &Config) -> Vec<String> {
    let differs = |(_, _, same): &&Part| !same(config, started) && !same(config, before);
    { PARTS.iter().filter(differs) }
        .flat_map(|(section, key, _)| config.changed_keys(section, *key, [before, started]))
        .collect()
}
