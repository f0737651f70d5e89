//! Clients that do not keep up with their topic, on purpose. They are counted separately.

use std::collections::BTreeMap;

use serde::Serialize;

use super::client::{Client, State};

/// How a client reads once it has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// At once.
    AtOnce,
    /// At most this many bytes per second.
    Slowly(u32),
    /// Not at all.
    Never,
}

impl Reading {
    /// Whether the client may fall behind.
    pub(super) fn lags(self) -> bool {
        self != Self::AtOnce
    }
}

/// The slow clients, or the stuck ones.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Laggards {
    pub(super) clients: u64,
    pub(super) joined: u64,
    /// How many the server closed after they had joined.
    pub(super) closed: u64,
    /// Why clients were closed or never joined, and how many for each reason.
    pub(super) ends: BTreeMap<String, u64>,
    /// How many messages the slowest client had not read when the sending ended.
    pub(super) behind: u64,
    /// How many messages the server never sent to clients that stayed.
    pub(super) skipped: u64,
}

impl Laggards {
    /// Counts a client that ended for this reason.
    pub(super) fn ended(&mut self, had_joined: bool, why: &str) {
        self.closed += u64::from(had_joined);
        *self.ends.entry(why.to_owned()).or_default() += 1;
    }
}

/// All clients that do not keep up.
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

    /// The counters of clients that read like this. `None` for those that keep up.
    pub(super) fn of(&mut self, reading: Reading) -> Option<&mut Laggards> {
        match reading {
            Reading::AtOnce => None,
            Reading::Slowly(_) => Some(&mut self.slow),
            Reading::Never => Some(&mut self.stuck),
        }
    }

    /// Notes how far behind a client is, after `sent` messages to its topic.
    pub(super) fn measure(&mut self, client: &Client, sent: u64) {
        if let Some(laggards) = self.of(client.reading) {
            laggards.behind = laggards.behind.max(sent - client.received);
        }
    }

    /// Counts what a client never got, after it has read all it was sent.
    pub(super) fn count_skipped(&mut self, client: &Client, sent: u64) {
        if client.state != State::Joined {
            return;
        }
        if let Some(laggards) = self.of(client.reading) {
            laggards.skipped += sent - client.received;
        }
    }
}
