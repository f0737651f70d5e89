//! What each connected client may send. Each I/O thread has its own of this, so nobody waits for anybody.

use std::net::IpAddr;
use std::time::Instant;

use crate::config::{Exempt, Limits};
use crate::runtime::rate::{AllSpent, Limit, Over, Rate, Rates, Spent};

/// The limits of clients.
#[derive(Debug)]
pub(crate) struct ClientRates {
    rates: Rates,
    refusals: Rate,
    exempt: Exempt,
    is_off: bool,
    now: Instant,
}

/// What one client has used of them.
#[derive(Debug, Default)]
pub(crate) struct ClientSpent {
    messages: AllSpent,
    refusals: Spent,
}

impl ClientRates {
    /// The limits of this configuration.
    #[must_use]
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            rates: Rates::new(&limits.client.paces),
            refusals: Rate::in_a_minute(limits.client.max_refusals),
            exempt: limits.exempt.clone(),
            is_off: !limits.client.paces.is_some(),
            now,
        }
    }

    /// From now on it is this time.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.now = now;
        self.rates.turn(now);
        self.refusals.turn(now);
    }

    /// What time it is.
    #[must_use]
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Whether a client at this address is limited.
    #[must_use]
    pub(crate) fn limits(&self, address: IpAddr) -> bool {
        !self.is_off && !self.exempt.includes(address)
    }

    /// Takes a message with so many bytes.
    ///
    /// # Errors
    ///
    /// If the client has sent too much.
    pub(crate) fn take(&self, spent: &ClientSpent, is_join: bool, bytes: usize) -> Result<(), Over> {
        self.rates.take(&spent.messages, is_join, bytes)
    }

    /// Takes a refusal. False: the client has had as many as it may have.
    #[must_use]
    pub(crate) fn bears(&self, spent: &ClientSpent) -> bool {
        self.refusals.take(&spent.refusals).is_ok()
    }

    /// The most that any client had used of each limit since the last look.
    pub(crate) fn take_peaks(&self) -> [usize; 3] {
        Limit::ALL.map(|limit| self.rates.of(limit).map_or(0, Rate::take_peak))
    }
}
