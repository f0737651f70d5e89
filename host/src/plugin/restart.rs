//! Which changes of a configuration a running host cannot take up.

use crate::config::Config;

/// What is read only at the start, where `config` has it otherwise than the host was started with. What it had so `before`
/// was said then.
pub(super) fn needs_restart(config: &Config, before: &Config, started: &Config) -> Vec<&'static str> {
    type Same = fn(&Config, &Config) -> bool;
    let parts: [(&str, Same); 4] = [
        ("[server]", |a, b| a.server == b.server),
        ("[admin]", |a, b| a.admin == b.admin),
        ("max_inbox_bytes", |a, b| {
            a.limits.max_inbox_bytes == b.limits.max_inbox_bytes
        }),
        ("[log] level", |a, b| a.log.level == b.log.level),
    ];
    let differs = |same: Same| !same(config, started) && !same(config, before);
    { parts.into_iter() }
        .filter_map(|(part, same)| differs(same).then_some(part))
        .collect()
}
