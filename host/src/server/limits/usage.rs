//! How near clients are to their limits, and how often one wanted more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::runtime::rate::Limit;

/// For so long at least, and twice as long at most, a peak is shown: longer than Prometheus waits between two looks.
const SHOWN: Duration = Duration::from_secs(60);

/// A limit of addresses, clients or routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitName {
    /// `[limits.address] max_connections`
    AddressConnections,
    /// `[limits.address] max_sessions`
    AddressSessions,
    /// `[limits.address] connects_per_s`
    AddressConnects,
    /// `[limits.address] requests_per_s`
    AddressRequests,
    /// `[limits.address] max_addresses`
    Addresses,
    /// `[limits.client]`
    Client(Limit),
    /// `limits` of a route
    Route(Limit),
}

/// How often a limit has refused something.
#[derive(Debug)]
pub(crate) struct Refusals(Family<[(&'static str, &'static str); 1], Counter>);

/// The most that any client had used of its limits lately.
#[derive(Debug, Default)]
pub(crate) struct UsePeaks(Mutex<[Peak; 3]>);

#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    now: usize,
    before: usize,
    since: Option<Instant>,
}

impl LimitName {
    /// All that refuse something.
    pub(crate) const ALL: [Self; 10] = [
        Self::AddressConnections,
        Self::AddressSessions,
        Self::AddressConnects,
        Self::AddressRequests,
        Self::Client(Limit::Events),
        Self::Client(Limit::Joins),
        Self::Client(Limit::Bytes),
        Self::Route(Limit::Events),
        Self::Route(Limit::Joins),
        Self::Route(Limit::Bytes),
    ];

    /// In metrics. Stable.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::AddressConnections => "address_max_connections",
            Self::AddressSessions => "address_max_sessions",
            Self::AddressConnects => "address_connects_per_s",
            Self::AddressRequests => "address_requests_per_s",
            Self::Addresses => "address_max_addresses",
            Self::Client(Limit::Events) => "client_events_per_s",
            Self::Client(Limit::Joins) => "client_joins_per_s",
            Self::Client(Limit::Bytes) => "client_bytes_per_s",
            Self::Route(Limit::Events) => "route_events_per_s",
            Self::Route(Limit::Joins) => "route_joins_per_s",
            Self::Route(Limit::Bytes) => "route_bytes_per_s",
        }
    }

    /// The setting.
    #[must_use]
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::AddressConnections => "[limits.address] max_connections",
            Self::AddressSessions => "[limits.address] max_sessions",
            Self::AddressConnects => "[limits.address] connects_per_s",
            Self::AddressRequests => "[limits.address] requests_per_s",
            Self::Addresses => "[limits.address] max_addresses",
            Self::Client(Limit::Events) => "[limits.client] events_per_s",
            Self::Client(Limit::Joins) => "[limits.client] joins_per_s",
            Self::Client(Limit::Bytes) => "[limits.client] bytes_per_s",
            Self::Route(Limit::Events) => "[routes.limits] events_per_s",
            Self::Route(Limit::Joins) => "[routes.limits] joins_per_s",
            Self::Route(Limit::Bytes) => "[routes.limits] bytes_per_s",
        }
    }

    /// Whether it is counted in bytes.
    #[must_use]
    pub(crate) fn is_bytes(self) -> bool {
        matches!(self, Self::Client(Limit::Bytes) | Self::Route(Limit::Bytes))
    }
}

impl Refusals {
    /// Counts one.
    pub(crate) fn count(&self, limit: LimitName) {
        self.0.get_or_create(&[("limit", limit.label())]).inc();
    }

    /// How many there were of each.
    #[must_use]
    pub(crate) fn counts(&self) -> Vec<(LimitName, u64)> {
        let count = |limit: LimitName| (limit, self.0.get_or_create(&[("limit", limit.label())]).get());
        LimitName::ALL.map(count).into()
    }

    /// For the metrics.
    #[must_use]
    pub(crate) fn family(&self) -> Family<[(&'static str, &'static str); 1], Counter> {
        self.0.clone()
    }
}

impl Default for Refusals {
    /// A counter that begins with 1 would hide the first increase from `rate()`.
    fn default() -> Self {
        let all = Family::default();
        for limit in LimitName::ALL {
            drop(all.get_or_create(&[("limit", limit.label())]));
        }
        Self(all)
    }
}

impl UsePeaks {
    /// So much was used at most, of each of [`Limit::ALL`].
    pub(crate) fn tell(&self, used: [usize; 3], now: Instant) {
        for (peak, used) in self.peaks().iter_mut().zip(used) {
            peak.move_on(now);
            peak.now = peak.now.max(used);
        }
    }

    /// The most that was used of one of them.
    #[must_use]
    pub(crate) fn of(&self, limit: Limit, now: Instant) -> usize {
        let mut peaks = self.peaks();
        let place = Limit::ALL.iter().position(|known| *known == limit);
        place.map_or(0, |place| {
            peaks[place].move_on(now);
            peaks[place].now.max(peaks[place].before)
        })
    }

    fn peaks(&self) -> MutexGuard<'_, [Peak; 3]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peak {
    fn move_on(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age < SHOWN {
            return;
        }
        self.before = if age < 2 * SHOWN { self.now } else { 0 };
        (self.now, self.since) = (0, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_shown_for_a_while_and_then_forgotten() {
        let (peaks, start) = (UsePeaks::default(), Instant::now());
        let at = |after_s| start + Duration::from_secs(after_s);
        peaks.tell([7, 0, 0], start);
        peaks.tell([3, 1, 0], at(1));
        assert_eq!((peaks.of(Limit::Events, at(1)), peaks.of(Limit::Joins, at(1))), (7, 1));
        peaks.tell([2, 0, 0], at(61));
        assert_eq!(peaks.of(Limit::Events, at(62)), 7);
        assert_eq!(peaks.of(Limit::Events, at(122)), 2);
        assert_eq!(peaks.of(Limit::Events, at(400)), 0);
    }
}
