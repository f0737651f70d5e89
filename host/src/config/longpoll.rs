//! Reads `longpoll` of a mount.

use serde_json::json;
use toml::de::DeValue;

use super::amount::{GIBIBYTE, HOUR_MS, MANY, MEBIBYTE};
use super::model::{Crypto, Digest, LongPoll};
use super::reader::Section;
use super::shape::Shape;

/// The most iterations for a key that each request derives: a few milliseconds.
const MOST_PER_REQUEST: u32 = 10_000;

/// Long polling; `None` if it is off.
pub(super) fn longpoll(mount: &Section<'_>) -> Option<LongPoll> {
    let section = match mount.value("longpoll").map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Boolean(false), _)) => return None,
        None | Some((DeValue::Boolean(true), _)) => Section::new("`longpoll`", mount.at.clone(), None, mount.mistakes),
        Some((DeValue::Table(table), at)) => Section::new("`longpoll`", at, Some(table), mount.mistakes),
        Some((_, at)) => {
            let wrong = mount
                .mistakes
                .error(at, "`longpoll` must be `true`, `false` or a table");
            mount
                .mistakes
                .add(wrong.help("write `longpoll = { window_ms = 10_000 }`, or leave it out for the defaults"));
            return None;
        }
    };
    let table = Shape::Either(vec![json!({ "type": "boolean" })], section.fields.clone());
    mount.fields.note("longpoll", table);
    let longpoll = LongPoll {
        window: section.millis("window_ms", 10_000, 1..=HOUR_MS),
        pubsub_timeout: section.millis("pubsub_timeout_ms", 2_000, 1..=HOUR_MS),
        max_buffer_messages: section.count("max_buffer_messages", 10_000, 1..=MANY),
        max_buffer_bytes: section.count("max_buffer_bytes", 4 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_batch_messages: section.count("max_batch_messages", 10_000, 1..=MANY),
        crypto: crypto(section.section("crypto"), "crypto"),
    };
    section.finish();
    Some(longpoll)
}

/// How Bennu derives a key, from the table `key`.
pub(super) fn crypto(mut section: Section<'_>, key: &str) -> Crypto {
    section.name = format!("`{key}`");
    let digests = [
        ("sha256", Digest::Sha256),
        ("sha384", Digest::Sha384),
        ("sha512", Digest::Sha512),
    ];
    let crypto = Crypto {
        iterations: u32::try_from(section.number("iterations", 1_000, 1..=1_000_000)).unwrap_or(1_000),
        length: key_length(&section),
        digest: section.choice("digest", &digests, Digest::Sha256),
        cache: section.flag("cache", true),
    };
    if !crypto.cache
        && crypto.iterations > MOST_PER_REQUEST
        && let Some(value) = section.value("iterations")
    {
        let wrong = section.mistakes.error(
            value.span(),
            "without `cache`, each request derives the key anew: so many iterations would hold up other clients"
                .to_owned(),
        );
        section
            .mistakes
            .add(wrong.help("write at most 10_000, or leave `cache` on"));
    }
    section.finish();
    crypto
}

fn key_length(section: &Section<'_>) -> usize {
    let length = section.count("length", 32, 0..=MANY);
    section.note("length", json!({ "enum": [16, 32], "default": 32 }));
    if ![16, 32].contains(&length)
        && let Some(value) = section.value("length")
    {
        let wrong = section
            .mistakes
            .error(value.span(), format!("a key of {length} bytes fits no cipher"));
        section
            .mistakes
            .add(wrong.help("write 16 for AES-128 or 32 for AES-256"));
    }
    length
}
