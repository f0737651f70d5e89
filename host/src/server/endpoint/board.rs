//! What the page of `dev` is told: news as they come, and what holds meanwhile for who opens it later.

use std::sync::{Mutex, PoisonError};

use serde_json::json;
use tokio::sync::broadcast;

/// News for the page: the event's name and its JSON.
pub(crate) type DevEvent = (&'static str, String);

/// News that a page may be behind. Beyond: it is told that it has missed some.
const MOST_NEWS: usize = 64;

/// One per host, in `dev`.
#[derive(Debug)]
pub(crate) struct Board {
    news: broadcast::Sender<DevEvent>,
    /// Why the configuration that holds is not the one that was saved last, where it is not.
    refusal: Mutex<Option<String>>,
}

impl Board {
    /// Nothing has happened yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            news: broadcast::channel(MOST_NEWS).0,
            refusal: Mutex::default(),
        }
    }

    /// Tells every page that is open.
    pub(crate) fn tell(&self, event: DevEvent) {
        // Nobody may be listening.
        let _ = self.news.send(event);
    }

    /// The configuration was refused, for this reason; the one before stays.
    pub(crate) fn configuration_refused(&self, reason: String) {
        let event = json!({ "reason": reason }).to_string();
        self.set_refusal(Some(reason));
        self.tell(("configuration_refused", event));
    }

    /// The configuration that was saved last holds.
    pub(crate) fn configuration_replaced(&self) {
        self.set_refusal(None);
        self.tell(("configuration", "{}".to_owned()));
    }

    /// Why the configuration that was saved last does not hold, if it does not.
    #[must_use]
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refusal(&self, reason: Option<String>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// News from now on.
    #[must_use]
    pub(crate) fn listen(&self) -> broadcast::Receiver<DevEvent> {
        self.news.subscribe()
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}
