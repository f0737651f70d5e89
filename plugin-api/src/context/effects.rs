//! How what a callback asks for gets to the host: each an [`Effect`], and what is refused is logged.

use super::Context;
use crate::abi::{effect, error, flag};
use crate::glue::{Effect, flags_of};
use crate::payload::IntoPayload;

impl<P> Context<P> {
    /// Asks for an effect byte by byte, for plugins that test the host.
    #[doc(hidden)]
    pub fn raw_effect(&self, kind: u32, binary: bool, name: &[u8], payload: &[u8]) -> i64 {
        let flags = if binary { flag::BINARY } else { 0 };
        self.emit(&Effect {
            kind,
            flags,
            member: self.member,
            name,
            payload,
            ..Effect::default()
        })
    }

    /// The same, about another topic.
    #[doc(hidden)]
    pub fn raw_effect_on(&self, topic: &str, kind: u32, name: &[u8], payload: &[u8]) -> i64 {
        self.emit(&Effect {
            kind,
            topic,
            member: self.member,
            name,
            payload,
            ..Effect::default()
        })
    }

    /// Asks for `effect` with `payload`.
    pub(crate) fn ask(&self, effect: Effect<'_>, payload: impl IntoPayload) -> i64 {
        let mut scratch = self.scratch.take();
        let payload = payload.lend(&mut scratch);
        let answer = self.emit(&Effect {
            flags: flags_of(payload),
            payload: payload.bytes(),
            ..effect
        });
        // One large payload must not be kept for ever.
        scratch.clear();
        scratch.shrink_to(16 * 1024);
        self.scratch.set(scratch);
        answer
    }

    /// Asks for `effect`. What the plugin cannot have meant is logged.
    pub(crate) fn emit(&self, effect: &Effect<'_>) -> i64 {
        let answer = self.calls.map_or(error::GONE, |calls| calls.effect(effect));
        if !matches!(answer, 0..|error::TRACKED| error::UNTRACKED | error::GONE) {
            let (kind, name) = (effect.kind, String::from_utf8_lossy(effect.name));
            let presence = matches!(
                effect.kind,
                effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE
            );
            let why = match answer {
                error::FIELD => self.long_field(effect),
                error::MISPLACED if presence => "presence of another topic cannot be changed".to_owned(),
                _ => refusal_text(answer),
            };
            tracing::warn!(kind, %name, why, "effect refused");
        }
        answer
    }

    /// Which field of a binary message is too long for its header.
    fn long_field(&self, effect: &Effect<'_>) -> String {
        let topic = if effect.topic.is_empty() {
            self.topic()
        } else {
            effect.topic
        };
        let (field, len) = match effect.kind {
            _ if topic.len() > 255 => ("topic", topic.len()),
            effect::REPLY => ("status", effect.name.len()),
            _ => ("event", effect.name.len()),
        };
        format!("its {field} has {len} bytes, a binary message has room for 255")
    }
}

pub(super) fn refusal_text(error: i64) -> String {
    match error {
        error::UNKNOWN => "this host does not know it".to_owned(),
        error::INVALID => "not UTF-8, not JSON, no object where one is needed, or too long".to_owned(),
        error::LIMIT => "a bound of the host is reached".to_owned(),
        error::MISPLACED => "not at this point".to_owned(),
        other => format!("error {other}"),
    }
}
