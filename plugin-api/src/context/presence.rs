//! Who is there: tracking members, and reading who else is tracked.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Context;
use crate::abi::{effect, error, read};
use crate::glue::Effect;
use crate::payload::{IntoPayload, read_json};

/// Who is present: what is tracked, by key.
pub type Presences = BTreeMap<String, Presence>;

/// All that is tracked under one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// One for each member that tracks the key, the oldest first, with its `phx_ref` in it.
    pub metas: Vec<serde_json::Value>,
    /// What stands beside them: see [`Context::describe`].
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl<P> Context<P> {
    /// Tracks the member under `key` on its own topic, with `meta`, a JSON object, until it untracks or its channel ends.
    /// In a join, `presence_state` follows the reply; everyone on the topic gets `presence_diff`. Returns whether it was
    /// not tracked under this key already. A callback of the topic has nobody to track: that is an error in the log.
    pub fn track(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::TRACK, key, meta)
    }

    /// Replaces what is tracked for the member under `key`. Returns whether it was tracked.
    pub fn update(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::UPDATE, key, meta)
    }

    /// Ends the member's tracking under `key`. Returns whether it was tracked.
    pub fn untrack(&self, key: &str) -> bool {
        let effect = Effect {
            kind: effect::UNTRACK,
            member: self.member,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.emit(&effect) >= 0
    }

    /// Sends the keys of `extra`, a JSON object, beside the `metas` of `key` in states and diffs from now on, until nobody
    /// is tracked under it: what all devices of one user have in common, say. Announces nothing by itself. Returns
    /// whether anybody is tracked under `key`. `metas` is no key of it.
    #[doc(alias = "fetch")]
    pub fn describe(&self, key: &str, extra: impl IntoPayload) -> bool {
        let effect = Effect {
            kind: effect::DESCRIBE,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.ask(effect, extra) >= 0
    }

    /// Who is present on the topic, with what this event has changed. Read anew at each call.
    #[must_use]
    #[doc(alias = "list")]
    pub fn presences(&self) -> Presences {
        self.read_presence(read::PRESENCE, "").unwrap_or_default()
    }

    /// What is tracked on the topic under `key`, by whichever members, with what this event has changed.
    #[must_use]
    #[doc(alias = "get_by_key")]
    pub fn presence(&self, key: &str) -> Option<Presence> {
        self.read_presence(read::PRESENCE_KEY, key)
    }

    /// Reads presence; `None` where nobody is tracked. What else fails is logged.
    fn read_presence<T: DeserializeOwned>(&self, what: u32, key: &str) -> Option<T> {
        let read = self.calls.map_or(Err(error::GONE), |calls| calls.read(what, key));
        let found = match read {
            Ok(json) => read_json(&json).map_err(|error| error.message),
            Err(error::UNTRACKED) => return None,
            Err(error) => Err(crate::refusal::text(error)),
        };
        found
            .inspect_err(|error| tracing::error!(error, "presence could not be read"))
            .ok()
    }

    /// Pushes `presence_state` to the member's client. [`Context::track`] does so by itself; this is for members that
    /// watch without being tracked.
    pub fn push_presence(&self) {
        self.emit(&Effect {
            kind: effect::PRESENCE,
            member: self.member,
            ..Effect::default()
        });
    }

    fn presence_effect(&self, kind: u32, key: &str, meta: impl IntoPayload) -> bool {
        if self.member == 0 {
            tracing::error!(key, "nobody is tracked: only a member can be, on its own topic");
            return false;
        }
        self.ask(
            Effect {
                kind,
                member: self.member,
                name: key.as_bytes(),
                ..Effect::default()
            },
            meta,
        ) >= 0
    }
}
