//! Reads the limits by address, by client and by route.

use std::num::NonZeroU32;

use super::amount::{GIBIBYTE, MANY};
use super::listeners::{network, networks};
use super::rates_model::{AddressLimits, ClientLimits, Exempt, Pace, Paces};
use super::reader::Section;

/// The most that may come in a second: what a count of 32 bits takes.
const MOST_PER_S: usize = 10_000_000;
/// The longest time of which the worth may come at once.
const MOST_BURST_S: u64 = 60;

/// What a table of paces has if it says nothing.
struct Usual {
    events: usize,
    joins: usize,
    bytes: usize,
    burst_s: u64,
}

pub(super) fn address(mut section: Section<'_>) -> AddressLimits {
    section.name = "`[limits.address]`".to_owned();
    let burst_s = burst_s(&section, 5);
    let limits = AddressLimits {
        max_connections: section.count("max_connections", 5_000, 1..=MANY),
        max_sessions: section.count("max_sessions", 5_000, 1..=MANY),
        connects: pace(section.count("connects_per_s", 500, 0..=MOST_PER_S), burst_s),
        requests: pace(section.count("requests_per_s", 2_000, 0..=MOST_PER_S), burst_s),
        max_addresses: section.count("max_addresses", 100_000, 1..=MANY),
    };
    section.finish();
    limits
}

pub(super) fn client(mut section: Section<'_>) -> ClientLimits {
    section.name = "`[limits.client]`".to_owned();
    let usual = Usual {
        events: 500,
        joins: 50,
        bytes: 10 << 20,
        burst_s: 5,
    };
    let limits = ClientLimits {
        paces: paces(&section, &usual),
        // The range fits.
        max_refusals: whole(section.count("max_refusals", 1_000, 1..=1_000_000)).unwrap_or(NonZeroU32::MIN),
    };
    section.finish();
    limits
}

/// `limits` of a route: none, unless it says some.
pub(super) fn route(mut section: Section<'_>) -> Paces {
    section.name = "`limits` of a route".to_owned();
    let usual = Usual {
        events: 0,
        joins: 0,
        bytes: 0,
        burst_s: 1,
    };
    let paces = paces(&section, &usual);
    section.finish();
    paces
}

/// The networks whose clients are not limited. By default the machine itself: a proxy there that is not in `[proxies]` would bring
/// all clients with one address.
pub(super) fn exempt(section: &Section<'_>) -> Exempt {
    let own = || ["127.0.0.0/8", "::1"].iter().filter_map(|text| network(text)).collect();
    Exempt(networks(section, "exempt").unwrap_or_else(own))
}

fn paces(section: &Section<'_>, usual: &Usual) -> Paces {
    let burst_s = burst_s(section, usual.burst_s);
    Paces {
        events: pace(section.count("events_per_s", usual.events, 0..=MOST_PER_S), burst_s),
        joins: pace(section.count("joins_per_s", usual.joins, 0..=MOST_PER_S), burst_s),
        bytes: pace(section.count("bytes_per_s", usual.bytes, 0..=GIBIBYTE), burst_s),
    }
}

fn burst_s(section: &Section<'_>, usual: u64) -> NonZeroU32 {
    let seconds = section.number("burst_s", usual, 1..=MOST_BURST_S);
    // The range fits.
    whole(seconds as usize).unwrap_or(NonZeroU32::MIN)
}

/// Zero means that nothing is limited.
fn pace(per_s: usize, burst_s: NonZeroU32) -> Option<Pace> {
    whole(per_s).map(|per_s| Pace { per_s, burst_s })
}

fn whole(number: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(number).ok()?)
}
