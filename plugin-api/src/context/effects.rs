//! How a callback asks the host for an [`Effect`].

use super::Context;
use crate::abi::{error, flag};
use crate::glue::{Effect, flags_of};
use crate::payload::IntoPayload;

impl<P> Context<P> {
    /// Asks for an effect given as bytes, for plugins that test the host.
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

    /// The same for another topic.
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
        // One large payload must not hold its memory for ever.
        scratch.clear();
        scratch.shrink_to(16 * 1024);
        self.scratch.set(scratch);
        answer
    }

    /// Asks for `effect`. The host logs it if it refuses it.
    pub(crate) fn emit(&self, effect: &Effect<'_>) -> i64 {
        self.calls.map_or(error::GONE, |calls| calls.effect(effect))
    }
}
