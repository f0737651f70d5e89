//! Reads what a mount says of the Phoenix 0.11 dialect: `dialect = "0.11"` and the settings that go with it.

use toml::Spanned;

use super::handshake::origin;
use super::model::{LongPoll, Phoenix011};
use super::reader::Section;
use super::sections::{HOUR_MS, crypto};

const ORIGINS: &str = "origins";
/// Those of long polling.
const WINDOW: &str = "longpoller_window_ms";
const PUBSUB_TIMEOUT: &str = "longpoller_pubsub_timeout_ms";
const CRYPTO: &str = "longpoller_crypto";

/// The dialect of a mount, if it is turned on. What the mount keeps for clients of long polling, it keeps for these too.
pub(super) fn phoenix_0_11(mount: &Section<'_>, longpoll: Option<&LongPoll>) -> Option<Phoenix011> {
    if !mount.choice("dialect", &[("0.11", true)], false) {
        let unnamed = mount.value("dialect").is_none();
        refuse(mount, &[ORIGINS, WINDOW, PUBSUB_TIMEOUT, CRYPTO], unnamed, |key| {
            let message = format!("`{key}` is a setting of another dialect");
            (message, "add `dialect = \"0.11\"` to the mount, or leave it out")
        });
        return None;
    }
    refuse(mount, &[WINDOW, PUBSUB_TIMEOUT, CRYPTO], longpoll.is_none(), |key| {
        let message = format!("`{key}` has no effect: `longpoll` is off");
        (message, "leave out one of the two")
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

/// Asks for these keys, and, if they are out of place, notes each one that is there.
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
