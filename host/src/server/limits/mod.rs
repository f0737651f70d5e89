//! How much one address and one client may do, and how often somebody wanted more.
//!
//! Nothing here is kept of a client that is gone, or of an address that has been quiet.

mod addresses;
mod clients;
mod usage;

use std::time::Duration;

use http::StatusCode;

pub(crate) use addresses::{Addresses, ConnectionPlace, Room, SessionPlace, Use};
pub(crate) use clients::{ClientRates, ClientSpent};
pub(crate) use usage::{LimitName, Refusals, UsePeaks};

use crate::server::closes::{RefusalReason, Refused};

/// How long a client should wait that was refused because others of its address are connected. Nobody knows when one of them goes.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(5);

/// A client that is turned away before anybody looks at what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    /// Why.
    pub(crate) reason: RefusalReason,
    /// What exactly: the setting.
    pub(crate) detail: Option<&'static str>,
    /// When it may come again, if that is known.
    pub(crate) wait: Option<Duration>,
}

impl TurnedAway {
    /// For this reason, which is not about its address.
    #[must_use]
    pub(crate) fn new(reason: RefusalReason) -> Self {
        Self {
            reason,
            detail: None,
            wait: None,
        }
    }

    /// Its address has as many of these as it may have.
    #[must_use]
    fn full(detail: &'static str) -> Self {
        Self {
            reason: RefusalReason::AddressFull,
            detail: Some(detail),
            wait: Some(RETRY_AFTER_FULL),
        }
    }

    /// Its address has as many connections as it may have.
    #[must_use]
    pub(crate) fn crowded() -> Self {
        Self::full("[limits.address] max_connections")
    }

    /// The status of the answer.
    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        match self.wait {
            Some(_) => StatusCode::TOO_MANY_REQUESTS,
            None => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What `Retry-After` says: whole seconds, so that who obeys is not too early.
    #[must_use]
    pub(crate) fn retry_after_s(&self) -> Option<u32> {
        let seconds = |wait: Duration| u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
        self.wait.map(|wait| seconds(wait).max(1))
    }

    /// For the record.
    #[must_use]
    pub(crate) fn refused(&self) -> Refused {
        Refused::new(self.reason, self.status().as_u16(), self.detail)
    }

    /// For the record, if there is no answer.
    #[must_use]
    pub(crate) fn unanswered(&self) -> Refused {
        Refused::new(self.reason, None, self.detail)
    }
}
