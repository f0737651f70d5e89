//! Presence: tracking members, and reading who is tracked.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Context;
use crate::abi::{effect, error, read};
use crate::glue::Effect;
use crate::payload::{IntoPayload, read_json};

/// The presence list of a topic, by key.
pub type Presences = BTreeMap<String, Presence>;

/// The presence under one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// The meta of each member that is tracked under the key, with its `phx_ref`; the oldest first.
    pub metas: Vec<serde_json::Value>,
    /// The description of the key: see [`Context::describe`].
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl<P> Context<P> {
    /// Tracks the member under `key` on its topic until it is untracked or its channel ends. `meta` is a JSON object. Everyone on
    /// the topic gets a `presence_diff`; if called in `join`, a `presence_state` follows the reply. Returns false if the member is
    /// already tracked under this key. A callback of the topic has nobody to track: it gets false, and the log an error.
    pub fn track(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::TRACK, key, meta)
    }

    /// Replaces the member's meta under `key`. Returns whether it was tracked.
    pub fn update(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::UPDATE, key, meta)
    }

    /// Stops tracking the member under `key`. Returns false if the host refuses.
    pub fn untrack(&self, key: &str) -> bool {
        let effect = Effect {
            kind: effect::UNTRACK,
            member: self.member,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.emit(&effect) >= 0
    }

    /// Describes `key`: from now on `presence_state` and `presence_diff` have the keys of `extra` beside its `metas`, until nobody is
    /// tracked under it. Use it for what all devices of a user have in common. `extra` is a JSON object without the key `metas`.
    /// Sends nothing by itself. Returns whether anybody is tracked under `key`.
    #[doc(alias = "fetch")]
    pub fn describe(&self, key: &str, extra: impl IntoPayload) -> bool {
        let effect = Effect {
            kind: effect::DESCRIBE,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.ask(effect, extra) >= 0
    }

    /// The topic's presence list, including the changes of this callback. Each call reads it again.
    #[must_use]
    #[doc(alias = "list")]
    pub fn presences(&self) -> Presences {
        self.read_presence(read::PRESENCE, "").unwrap_or_default()
    }

    /// The presence under `key` on the topic, including the changes of this callback.
    #[must_use]
    #[doc(alias = "get_by_key")]
    pub fn presence(&self, key: &str) -> Option<Presence> {
        self.read_presence(read::PRESENCE_KEY, key)
    }

    /// Reads presence; `None` if nobody is tracked. Logs any other failure.
    fn read_presence<T: DeserializeOwned>(&self, what: u32, key: &str) -> Option<T> {
        let read = self.calls.map_or(Err(error::GONE), |calls| calls.read(what, key));
        let found = match read {
            Ok(json) => read_json(&json).map_err(|error| error.message),
            Err(error::UNTRACKED) => return None,
            Err(error) => Err(crate::refused_effect::text(error)),
        };
        found
            .inspect_err(|error| tracing::error!(error, "cannot read presence"))
            .ok()
    }

    /// Pushes `presence_state` to the member's client, for members that watch without being tracked. After a
    /// [`Context::track`] in `join` the host does so by itself.
    pub fn push_presence(&self) {
        self.emit(&Effect {
            kind: effect::PRESENCE,
            member: self.member,
            ..Effect::default()
        });
    }

    fn presence_effect(&self, kind: u32, key: &str, meta: impl IntoPayload) -> bool {
        if self.member == 0 {
            tracing::error!(key, "cannot track: a callback of the topic has no member");
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
