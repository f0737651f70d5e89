//! Clients that do not keep up with what their topic is told, on purpose. They are counted apart.

use std::collections::BTreeMap;

use serde::Serialize;

use super::client::{Client, State};

/// How a client reads once it has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All there is.
    AtOnce,
    /// So many bytes a second, at most.
    Slowly(u32),
    /// Nothing.
    Never,
}

impl Reading {
    /// Whether this reads less than there may be.
    pub(super) fn lags(self) -> bool {
        self != Self::AtOnce
    }
}

/// Those that read in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Laggards {
    pub(super) clients: u64,
    pub(super) joined: u64,
    /// By the server, after they had joined.
    pub(super) closed: u64,
    /// Why those that were closed, or never joined, are at an end, and how many of them.
    pub(super) ends: BTreeMap<String, u64>,
    /// Messages of its topic that the one furthest behind had not read when the sending ended.
    pub(super) behind: u64,
    /// Messages that those that stayed were never sent, once they had read all they were sent.
    pub(super) skipped: u64,
}

impl Laggards {
    /// One has left for this reason.
    pub(super) fn ended(&mut self, had_joined: bool, why: &str) {
        self.closed += u64::from(had_joined);
        *self.ends.entry(why.to_owned()).or_default() += 1;
    }
}

/// All that lag.
#[derive(Clone, Debug, Default)]
pub(super) struct Lagging {
    pub(super) slow: Laggards,
    pub(super) stuck: Laggards,
}

impl Lagging {
    pub(super) fn new(slow: u32, stuck: u32) -> Self {
        let laggards = |clients: u32| Laggards {
            clients: clients.into(),
            ..Laggards::default()
        };
        Self {
            slow: laggards(slow),
            stuck: laggards(stuck),
        }
    }

    /// Those that read like this; none keeps count here of those that keep up.
    pub(super) fn of(&mut self, reading: Reading) -> Option<&mut Laggards> {
        match reading {
            Reading::AtOnce => None,
            Reading::Slowly(_) => Some(&mut self.slow),
            Reading::Never => Some(&mut self.stuck),
        }
    }

    /// Takes note of how far behind a client is whose topic was sent so many messages.
    pub(super) fn measure(&mut self, client: &Client, sent: u64) {
        if let Some(laggards) = self.of(client.reading) {
            laggards.behind = laggards.behind.max(sent - client.received);
        }
    }

    /// Takes note of what a client never got that has read all it was sent.
    pub(super) fn count_skipped(&mut self, client: &Client, sent: u64) {
        if client.state != State::Joined {
            return;
        }
        if let Some(laggards) = self.of(client.reading) {
            laggards.skipped += sent - client.received;
        }
    }
}
