//! News for the page of `dev`, and why the configuration on disk was rejected, for pages that are opened later.

use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::json;
use tokio::sync::broadcast;

/// News for the page: the event's name and its JSON.
pub(crate) type DevEvent = (&'static str, String);

/// How far a page may fall behind. Beyond that, it gets the event `missed`.
const MOST_NEWS: usize = 64;

/// One per server, in `dev`.
#[derive(Debug)]
pub(crate) struct Board {
    news: broadcast::Sender<DevEvent>,
    /// Why the configuration on disk was rejected; `None`: it is in force.
    rejection: Mutex<Option<String>>,
    api: OnceLock<ApiAccess>,
}

/// How the page's user can call the API.
#[derive(Clone, Debug)]
pub(crate) struct ApiAccess {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// The key that `dev` has made up.
    pub(crate) key: String,
}

impl Board {
    /// A board without news.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            news: broadcast::channel(MOST_NEWS).0,
            rejection: Mutex::default(),
            api: OnceLock::new(),
        }
    }

    /// Sends an event to every open page.
    pub(crate) fn tell(&self, event: DevEvent) {
        // Fails if no page is open.
        let _ = self.news.send(event);
    }

    /// The configuration on disk was rejected for this reason.
    pub(crate) fn configuration_rejected(&self, reason: String) {
        let event = json!({ "reason": reason }).to_string();
        self.set_refusal(Some(reason));
        self.tell(("configuration_refused", event));
    }

    /// The configuration on disk is in force.
    pub(crate) fn configuration_replaced(&self) {
        self.set_refusal(None);
        self.tell(("configuration", "{}".to_owned()));
    }

    /// Why the configuration on disk was rejected, if it was.
    #[must_use]
    pub(crate) fn rejection(&self) -> Option<String> {
        self.rejection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refusal(&self, reason: Option<String>) {
        *self.rejection.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// The API is on, and can be called so.
    pub(crate) fn set_api(&self, access: ApiAccess) {
        // It starts once.
        let _ = self.api.set(access);
    }

    /// How the API can be called, if it is on.
    #[must_use]
    pub(crate) fn api(&self) -> Option<&ApiAccess> {
        self.api.get()
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
