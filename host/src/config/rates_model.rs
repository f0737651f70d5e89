//! How much and how fast clients may be: limits by address, by client and by route.

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

/// So many in a second, and what comes at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How many in a second, over a longer time.
    pub(crate) per_s: NonZeroU32,
    /// How many seconds' worth of that may come at once.
    pub(crate) burst_s: NonZeroU32,
}

/// Clients to which limits by address and by client do not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exempt(pub(crate) Vec<IpNet>);

/// `[limits.address]`. One network of IPv6 (/64) counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressLimits {
    /// Connections. Beyond: status 429 to each request, and far beyond, none. Default 5,000.
    pub(crate) max_connections: usize,
    /// Connected clients, over WebSocket and long polling. Beyond: status 429. Default 5,000.
    pub(crate) max_sessions: usize,
    /// Clients that connect. Beyond: status 429. `None`: any. Default 500 a second.
    pub(crate) connects: Option<Pace>,
    /// Requests. Beyond: status 429. `None`: any. Default 2,000 a second.
    pub(crate) requests: Option<Pace>,
    /// How many addresses are told apart. Beyond: all others share the paces of one. Default 100,000.
    pub(crate) max_addresses: usize,
}

/// `[limits.client]`, for each connected client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// Its messages and what is in them. Beyond: `rate limited`.
    pub(crate) paces: Paces,
    /// How many refusals it may get in a minute. Beyond: close code 1008. Default 1,000.
    pub(crate) max_refusals: NonZeroU32,
}

/// What messages may come, of one client or on one route. `None`: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paces {
    /// Messages that are no joins.
    pub(crate) events: Option<Pace>,
    /// Joins.
    pub(crate) joins: Option<Pace>,
    /// Bytes of messages, with their frames.
    pub(crate) bytes: Option<Pace>,
}

impl Exempt {
    /// Whether this is such a client.
    #[must_use]
    pub(crate) fn includes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl Paces {
    /// Whether anything is limited.
    #[must_use]
    pub(crate) fn is_some(&self) -> bool {
        *self != Self::default()
    }
}
