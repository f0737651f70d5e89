//! Reads `dialect = "0.11"` of a mount, and the settings that belong to it.

use bennu_wire::dialect::Dialect;
use toml::Spanned;

use super::amount::HOUR_MS;
use super::handshake::origin;
use super::longpoll::crypto;
use super::model::{LongPoll, Phoenix011};
use super::reader::Section;

const ORIGINS: &str = "origins";
/// The settings of long polling.
const WINDOW: &str = "longpoller_window_ms";
const PUBSUB_TIMEOUT: &str = "longpoller_pubsub_timeout_ms";
const CRYPTO: &str = "longpoller_crypto";

/// What the mount has for clients of Phoenix 0.11; `None`: it has another dialect. The buffer limits of the mount's `longpoll` apply
/// to it, too.
pub(super) fn phoenix_0_11(mount: &Section<'_>, dialect: Dialect, longpoll: Option<&LongPoll>) -> Option<Phoenix011> {
    if dialect != Dialect::Phoenix011 {
        let is_known = mount.value("dialect").is_none() || dialect == Dialect::Supabase;
        refuse(mount, &[ORIGINS, WINDOW, PUBSUB_TIMEOUT, CRYPTO], is_known, |key| {
            let message = format!("`{key}` belongs to another dialect");
            (message, "add `dialect = \"0.11\"` to the mount, or remove this setting")
        });
        return None;
    }
    refuse(mount, &[WINDOW, PUBSUB_TIMEOUT, CRYPTO], longpoll.is_none(), |key| {
        let message = format!("`{key}` has no effect: `longpoll` is off");
        (message, "remove one of the two")
    });
    Some(Phoenix011 {
        origins: mount
            .texts(ORIGINS)
            .map(|entries| entries.iter().filter_map(|entry| origin(mount, entry)).collect()),
        longpoll: longpoll.map(|modern| LongPoll {
            window: mount.millis(WINDOW, 10_000, 1..=HOUR_MS),
            pubsub_timeout: mount.millis(PUBSUB_TIMEOUT, 1_000, 1..=HOUR_MS),
            crypto: crypto(mount.section(CRYPTO), CRYPTO),
            ..modern.clone()
        }),
    })
}

/// Asks for these keys. If they are out of place, notes each one that the mount has.
fn refuse(
    mount: &Section<'_>,
    keys: &[&'static str],
    out_of_place: bool,
    why: impl Fn(&str) -> (String, &'static str),
) {
    for (key, value) in keys.iter().filter_map(|key| Some((key, mount.value(key)?))) {
        if out_of_place {
            let (message, help) = why(key);
            let refused = mount.mistakes.error(Spanned::span(value), message);
            mount.mistakes.add(refused.help(help));
        }
    }
}
