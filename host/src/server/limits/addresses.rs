//! What each address has: connections, connected clients, and what it asked for lately.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::TurnedAway;
use super::usage::{LimitName, Refusals};
use crate::config::{AddressLimits, Exempt, Limits, Proxies};
use crate::runtime::client_lines::Source;
use crate::runtime::rate::{Rate, Spent};
use crate::server::closes::RefusalReason;

/// With fewer addresses nobody looks for quiet ones.
const FEW: usize = 1_024;
/// How long until they are looked for again: that takes a look at all.
const SWEEP: Duration = Duration::from_secs(1);

/// The addresses of all clients. One per server.
#[derive(Debug)]
pub(crate) struct Addresses {
    table: Mutex<Table>,
    refusals: Arc<Refusals>,
}

#[derive(Debug)]
struct Table {
    limits: AddressLimits,
    exempt: Exempt,
    proxies: Proxies,
    connects: Option<Rate>,
    requests: Option<Rate>,
    known: HashMap<Source, Known>,
    /// When quiet ones were last looked for.
    swept: Option<Instant>,
}

/// One address.
#[derive(Debug, Default)]
struct Known {
    counts: Arc<Counts>,
    connects: Spent,
    requests: Spent,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    sessions: AtomicUsize,
}

/// The place of a connection among those of its address.
#[derive(Debug)]
pub(crate) struct ConnectionPlace(Arc<Counts>);

/// The place of a connected client among those of its address.
#[derive(Debug)]
pub(crate) struct SessionPlace(Arc<Counts>);

/// Whether an address may have one more connection.
#[derive(Debug)]
pub(crate) enum Room {
    /// Nobody counts its connections.
    Unlimited,
    /// It may.
    Free(ConnectionPlace),
    /// It has as many as it may have: this one is only told so.
    Crowded(ConnectionPlace),
    /// There are so many that even a refusal costs too much.
    Flooded,
}

/// What an address has used of a limit, and how much it may.
pub(crate) type Use = (LimitName, usize, usize);

impl Addresses {
    /// Nobody has come yet.
    #[must_use]
    pub(crate) fn new(limits: &Limits, proxies: &Proxies, refusals: &Arc<Refusals>) -> Self {
        let table = Table {
            limits: limits.address,
            exempt: limits.exempt.clone(),
            proxies: proxies.clone(),
            connects: limits.address.connects.map(Rate::new),
            requests: limits.address.requests.map(Rate::new),
            known: HashMap::new(),
            swept: None,
        };
        Self {
            table: Mutex::new(table),
            refusals: Arc::clone(refusals),
        }
    }

    /// Other limits, from now on. Who is connected stays, and what was used stays used.
    pub(crate) fn set_limits(&self, limits: &Limits, proxies: &Proxies) {
        let mut table = self.table();
        let known = std::mem::take(&mut table.known);
        let new = Self::new(limits, proxies, &self.refusals);
        *table = Table {
            known,
            ..new.table.into_inner().unwrap_or_else(PoisonError::into_inner)
        };
    }

    /// Counts a connection that begins.
    pub(crate) fn connection(&self, address: IpAddr, now: Instant) -> Room {
        let mut table = self.table();
        let most = table.limits.max_connections;
        if !table.limits(address) {
            return Room::Unlimited;
        }
        let source = table.source(address, now);
        if source == Source::Others {
            return Room::Unlimited;
        }
        let counts = &table.known.entry(source).or_default().counts;
        let before = counts.connections.load(Ordering::Relaxed);
        if before < most {
            return Room::Free(ConnectionPlace::new(counts));
        }
        self.refusals.count(LimitName::AddressConnections);
        match before < most.saturating_add((most / 8).max(16)) {
            true => Room::Crowded(ConnectionPlace::new(counts)),
            false => Room::Flooded,
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    ///
    /// If the address has sent too many lately.
    pub(crate) fn request(&self, address: IpAddr, now: Instant) -> Result<(), TurnedAway> {
        let mut table = self.table();
        if table.requests.is_none() || !table.limits(address) {
            return Ok(());
        }
        let source = table.source(address, now);
        let Table { known, requests, .. } = &mut *table;
        let known = known.entry(source).or_default();
        let Some(rate) = requests else { return Ok(()) };
        rate.turn(now);
        rate.take(&known.requests).map_err(|wait| {
            self.refusals.count(LimitName::AddressRequests);
            TurnedAway {
                reason: RefusalReason::TooManyRequests,
                detail: Some("[limits.address] requests_per_s"),
                wait: Some(wait),
            }
        })
    }

    /// Takes a client that connects. `None`: its address is not limited.
    ///
    /// # Errors
    ///
    /// If too many of its address have done so lately, or are connected.
    pub(crate) fn session(&self, address: IpAddr, now: Instant) -> Result<Option<SessionPlace>, TurnedAway> {
        let mut table = self.table();
        let most = table.limits.max_sessions;
        if !table.limits(address) {
            return Ok(None);
        }
        let source = table.source(address, now);
        let is_counted = source != Source::Others;
        let Table { known, connects, .. } = &mut *table;
        let known = known.entry(source).or_default();
        if let Some(rate) = connects {
            rate.turn(now);
            rate.take(&known.connects).map_err(|wait| {
                self.refusals.count(LimitName::AddressConnects);
                TurnedAway {
                    reason: RefusalReason::TooManyConnects,
                    detail: Some("[limits.address] connects_per_s"),
                    wait: Some(wait),
                }
            })?;
        }
        if is_counted && known.counts.sessions.load(Ordering::Relaxed) >= most {
            self.refusals.count(LimitName::AddressSessions);
            return Err(TurnedAway::full("[limits.address] max_sessions"));
        }
        Ok(is_counted.then(|| SessionPlace::new(&known.counts)))
    }

    /// Of each limit, how much the address has used that has used most of it, and how much it may.
    pub(crate) fn used(&self, now: Instant) -> Vec<Use> {
        let table = self.table();
        let most_of = |count: fn(&Counts) -> &AtomicUsize| {
            let counts = table.known.values().map(|known| count(&known.counts));
            counts.map(|count| count.load(Ordering::Relaxed)).max().unwrap_or(0)
        };
        let mut all = vec![
            (
                LimitName::AddressConnections,
                most_of(|counts| &counts.connections),
                table.limits.max_connections,
            ),
            (
                LimitName::AddressSessions,
                most_of(|counts| &counts.sessions),
                table.limits.max_sessions,
            ),
            (LimitName::Addresses, table.known.len(), table.limits.max_addresses),
        ];
        let of_rate = |name, rate: Option<&Rate>, spent: fn(&Known) -> &Spent| {
            let rate = rate?;
            rate.turn(now);
            let used = table.known.values().map(|known| rate.used(spent(known)));
            Some((name, used.max().unwrap_or(0), rate.most()))
        };
        all.extend(of_rate(LimitName::AddressConnects, table.connects.as_ref(), |known| {
            &known.connects
        }));
        all.extend(of_rate(LimitName::AddressRequests, table.requests.as_ref(), |known| {
            &known.requests
        }));
        all
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked while it counted has miscounted at most.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether this address is limited.
    fn limits(&self, address: IpAddr) -> bool {
        !self.exempt.includes(address) && !self.proxies.trusts(address)
    }

    /// By what this address is known.
    fn source(&mut self, address: IpAddr, now: Instant) -> Source {
        let source = Source::of(address);
        if self.known.contains_key(&source) {
            return source;
        }
        let is_time = |swept: Instant| now.saturating_duration_since(swept) >= SWEEP;
        if self.known.len() >= FEW.min(self.limits.max_addresses) && self.swept.is_none_or(is_time) {
            self.forget_quiet(now);
        }
        match self.known.len() >= self.limits.max_addresses {
            true => Source::Others,
            false => source,
        }
    }

    /// Forgets addresses of which there is nothing to know.
    fn forget_quiet(&mut self, now: Instant) {
        let Self {
            known,
            connects,
            requests,
            ..
        } = self;
        for rate in [&*connects, &*requests].into_iter().flatten() {
            rate.turn(now);
        }
        let uses = |rate: &Option<Rate>, spent: &Spent| rate.as_ref().is_some_and(|rate| rate.used(spent) > 0);
        known.retain(|_, known| {
            Arc::strong_count(&known.counts) > 1 || uses(connects, &known.connects) || uses(requests, &known.requests)
        });
        self.swept = Some(now);
    }
}

impl ConnectionPlace {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SessionPlace {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Mode, Pace};

    /// The addresses of a server with these settings, of which no client is exempt.
    fn addresses(settings: &str) -> Addresses {
        let text = format!(
            "[limits]\nexempt = [\"127.0.0.0/8\"]\n[proxies]\ntrusted = [\"10.9.9.9\"]\n[limits.address]\n{settings}"
        );
        let config = Config::parse(Path::new("bennu.toml"), &text, Mode::Serve).expect("a configuration");
        Addresses::new(&config.limits, &config.proxies, &Arc::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_so_many_connections_and_is_then_told_so_and_then_not_even_that() {
        let (addresses, now) = (addresses("max_connections = 2"), Instant::now());
        let mut places: Vec<Room> = (0..19).map(|_| addresses.connection(ip("10.0.0.1"), now)).collect();
        let kinds = |places: &[Room]| {
            let is = |room: &&Room| matches!(room, Room::Crowded(_));
            (
                places.iter().filter(|room| matches!(room, Room::Free(_))).count(),
                places.iter().filter(is).count(),
            )
        };
        assert_eq!(kinds(&places), (2, 16));
        assert!(matches!(places.last(), Some(Room::Flooded)));
        assert!(matches!(addresses.connection(ip("10.0.0.2"), now), Room::Free(_)));
        places.clear();
        assert!(matches!(addresses.connection(ip("10.0.0.1"), now), Room::Free(_)));
    }

    #[test]
    fn a_client_that_is_gone_makes_room_for_the_next() {
        let (addresses, now) = (addresses("max_sessions = 1"), Instant::now());
        let first = addresses.session(ip("10.0.0.1"), now).expect("there is room");
        let refused = addresses.session(ip("10.0.0.1"), now).expect_err("there is none");
        assert_eq!(
            (refused.reason, refused.status().as_u16()),
            (RefusalReason::AddressFull, 429)
        );
        drop(first);
        assert!(addresses.session(ip("10.0.0.1"), now).is_ok());
    }

    #[test]
    fn whoever_connects_too_often_is_told_when_to_come_back() {
        let (addresses, now) = (addresses("connects_per_s = 2\nburst_s = 1"), Instant::now());
        let connect = |address, now| addresses.session(ip(address), now).map(drop);
        assert!(connect("10.0.0.1", now).is_ok() && connect("10.0.0.1", now).is_ok());
        let refused = connect("10.0.0.1", now).expect_err("too often");
        assert_eq!(refused.reason, RefusalReason::TooManyConnects);
        assert_eq!(
            (refused.wait, refused.retry_after_s()),
            (Some(Duration::from_millis(500)), Some(1))
        );
        assert!(connect("10.0.0.2", now).is_ok());
        assert!(connect("10.0.0.1", now + Duration::from_millis(500)).is_ok());
    }

    #[test]
    fn this_machine_and_proxies_are_not_limited() {
        let (addresses, now) = (
            addresses("connects_per_s = 1\nburst_s = 1\nrequests_per_s = 1"),
            Instant::now(),
        );
        for address in ["127.0.0.1", "127.3.2.1", "::ffff:127.0.0.1", "10.9.9.9"] {
            for _ in 0..20 {
                assert!(addresses.session(ip(address), now).is_ok() && addresses.request(ip(address), now).is_ok());
                assert!(matches!(addresses.connection(ip(address), now), Room::Unlimited));
            }
        }
        assert_eq!(addresses.table().known.len(), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (addresses, now) = (addresses("max_sessions = 1"), Instant::now());
        let _first = addresses.session(ip("2001:db8::1"), now).expect("there is room");
        assert!(addresses.session(ip("2001:db8::2"), now).is_err());
        assert!(addresses.session(ip("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn addresses_that_are_quiet_are_forgotten_and_those_without_room_share_one() {
        let (addresses, now) = (
            addresses("max_addresses = 3\nconnects_per_s = 1\nburst_s = 2\nrequests_per_s = 0"),
            Instant::now(),
        );
        let connect = |last: u8, now| addresses.session(IpAddr::from([10, 0, 0, last]), now);
        let stays = connect(1, now).expect("there is room");
        assert!(connect(2, now).is_ok() && connect(3, now).is_ok());
        let shared = [4, 5, 6].map(|last| connect(last, now).is_ok());
        assert_eq!(shared, [true, true, false], "the burst of one");
        assert_eq!(addresses.table().known.len(), 4);
        let later = now + Duration::from_secs(5);
        assert!(connect(7, later).is_ok());
        assert_eq!(
            addresses.table().known.len(),
            2,
            "the one that is connected, and the new one"
        );
        drop(stays);
    }

    #[test]
    fn other_limits_hold_at_once_and_forget_nobody() {
        let (addresses, now) = (addresses("max_sessions = 1"), Instant::now());
        let _first = addresses.session(ip("10.0.0.1"), now).expect("there is room");
        let mut limits = {
            let text = "[limits.address]\nmax_sessions = 2";
            Config::parse(Path::new("bennu.toml"), text, Mode::Serve).expect("a configuration")
        };
        limits.limits.address.connects = Some(Pace {
            per_s: NonZeroU32::MIN,
            burst_s: NonZeroU32::MIN.saturating_add(9),
        });
        addresses.set_limits(&limits.limits, &limits.proxies);
        let _second = addresses.session(ip("10.0.0.1"), now).expect("there is more room");
        assert!(addresses.session(ip("10.0.0.1"), now).is_err());
        let used = addresses.used(now);
        assert!(used.contains(&(LimitName::AddressSessions, 2, 2)), "{used:?}");
    }
}
