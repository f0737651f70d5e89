//! Limits the log lines that clients cause, so that nobody can flood the log from outside.
//!
//! Each kind of line has a burst for each source (the address of a client, or a plugin); then it has one line in each pause. What
//! is not logged is counted in `/metrics`, and the next line says how many were left out. There is a limit to the sources that
//! are told apart: beyond it, all others share one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tracing::Level;

use crate::config::LineLimits;

/// Writes a line that a client caused: `client_line!(WARN, lines, "kind", source, fields…, "message")`. If it may not be written,
/// it is counted; if the filter of the log does not want it, nothing happens.
macro_rules! client_line {
    ($level:ident, $lines:expr, $kind:literal, $source:expr, $($event:tt)+) => {
        if tracing::enabled!(tracing::Level::$level)
            && let Some(line) = $lines.admit(tracing::Level::$level, $kind, $source)
        {
            tracing::event!(tracing::Level::$level, left_out = line.left_out, $($event)+);
        }
    };
}
pub(crate) use client_line;

/// The lines of all clients. One per server.
#[derive(Debug)]
pub(crate) struct ClientLines {
    lines: Mutex<Lines>,
    /// Something was left out that no line has told yet.
    untold: AtomicBool,
    left_out: Family<[(&'static str, &'static str); 1], Counter>,
}

#[derive(Debug)]
struct Lines {
    limits: LineLimits,
    sources: HashMap<(&'static str, Source), Said>,
    /// When room was last made. That takes a look at all sources, so it is done once in a pause.
    swept: Option<Instant>,
}

/// Who caused a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A client at this address. One network of IPv6 (/64) is one source: it has more addresses than anybody can count.
    Peer(IpAddr),
    /// The plugin of this name: its clients made it do something.
    Plugin(Box<str>),
    /// All those for whom there is no room.
    Others,
}

/// What was said lately of one source.
#[derive(Debug)]
struct Said {
    /// The level of these lines.
    level: Level,
    /// Lines that may follow at once.
    left: u32,
    /// When `left` was last filled up.
    filled: Instant,
    /// Lines that were left out since the last one.
    unsaid: u64,
}

/// Lines of one kind and source that no line has told.
#[derive(Debug)]
struct Rest {
    level: Level,
    key: (&'static str, Source),
    left_out: u64,
}

/// Permission to write one line; [`client_line`] asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// How many like it were left out since the last one; nothing if none was.
    pub(crate) left_out: Option<u64>,
}

impl Source {
    /// The client at this address.
    #[must_use]
    pub(crate) fn of(address: IpAddr) -> Self {
        Self::Peer(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Ipv6Addr::from(network).into()
            }
            address => address,
        })
    }
}

impl ClientLines {
    /// Nothing was said yet.
    #[must_use]
    pub(crate) fn new(limits: LineLimits) -> Self {
        Self {
            lines: Mutex::new(Lines {
                limits,
                sources: HashMap::new(),
                swept: None,
            }),
            untold: AtomicBool::new(false),
            left_out: Family::default(),
        }
    }

    /// Other limits, from now on.
    pub(crate) fn set_limits(&self, limits: LineLimits) {
        self.lines().limits = limits;
    }

    /// Asks whether a line of this kind may be written. `None`: it is only counted.
    pub(crate) fn admit(&self, level: Level, kind: &'static str, source: Source) -> Option<Line> {
        let line = self.lines().admit(level, (kind, source), Instant::now());
        if line.is_none() {
            self.left_out.get_or_create(&[("kind", kind)]).inc();
            self.untold.store(true, Ordering::Relaxed);
        }
        line
    }

    /// Says how many lines were left out, where no line of their kind has followed for a pause. To be called now and then.
    pub(crate) fn tell_rest(&self) {
        if !self.untold.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut rest = Vec::new();
        let waits = self.lines().take_rest(Instant::now(), &mut rest);
        self.untold.fetch_or(waits, Ordering::Relaxed);
        for Rest { level, key, left_out } in rest {
            let (kind, source) = key;
            if level <= Level::WARN {
                tracing::warn!(kind, %source, left_out, "more lines like these were left out");
            } else {
                tracing::info!(kind, %source, left_out, "more lines like these were left out");
            }
        }
    }

    /// How many lines were left out, by kind.
    #[must_use]
    pub(crate) fn left_out(&self) -> Family<[(&'static str, &'static str); 1], Counter> {
        self.left_out.clone()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Whoever panicked while it counted has miscounted at most.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn admit(&mut self, level: Level, (kind, source): (&'static str, Source), now: Instant) -> Option<Line> {
        let LineLimits { burst, pause, sources } = self.limits;
        let mut key = (kind, source);
        if !self.sources.contains_key(&key) && self.sources.len() >= sources {
            self.make_room(now);
            if self.sources.len() >= sources {
                key.1 = Source::Others;
            }
        }
        let said = self.sources.entry(key).or_insert(Said {
            level,
            left: burst,
            filled: now,
            unsaid: 0,
        });
        said.fill(burst, pause, now);
        match said.left.checked_sub(1) {
            Some(left) => {
                said.left = left;
                let unsaid = std::mem::take(&mut said.unsaid);
                Some(Line {
                    left_out: (unsaid > 0).then_some(unsaid),
                })
            }
            None => {
                said.unsaid += 1;
                None
            }
        }
    }

    /// Forgets sources of which there is nothing left to know.
    fn make_room(&mut self, now: Instant) {
        let LineLimits { burst, pause, .. } = self.limits;
        if self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= pause)
        {
            self.swept = Some(now);
            self.sources.retain(|_, said| !said.is_over(burst, pause, now));
        }
    }

    /// Takes what is to be told now. True: there is more that is to be told later.
    fn take_rest(&mut self, now: Instant, into: &mut Vec<Rest>) -> bool {
        let LineLimits { burst, pause, .. } = self.limits;
        let mut waits = false;
        for (key, said) in &mut self.sources {
            said.fill(burst, pause, now);
            if said.unsaid > 0 && said.left > 0 {
                said.left -= 1;
                into.push(Rest {
                    level: said.level,
                    key: key.clone(),
                    left_out: std::mem::take(&mut said.unsaid),
                });
            }
            waits |= said.unsaid > 0;
        }
        waits
    }
}

impl Said {
    fn fill(&mut self, burst: u32, pause: Duration, now: Instant) {
        let pauses = now.saturating_duration_since(self.filled).as_nanos() / pause.as_nanos().max(1);
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(pauses).min(burst);
        self.filled = match self.left < burst {
            true => self.filled + pause * pauses,
            false => now,
        };
    }

    /// Whether nothing would be different if this was forgotten.
    fn is_over(&self, burst: u32, pause: Duration, now: Instant) -> bool {
        let until_full = pause * burst.saturating_sub(self.left);
        self.unsaid == 0 && now.saturating_duration_since(self.filled) >= until_full
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(address) if address.is_ipv6() => write!(f, "{address}/64"),
            Self::Peer(address) => write!(f, "{address}"),
            Self::Plugin(name) => write!(f, "plugin {name}"),
            Self::Others => f.write_str("others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LineLimits = LineLimits {
        burst: 2,
        pause: Duration::from_secs(1),
        sources: 3,
    };

    struct Bench {
        lines: Lines,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let lines = Lines {
                limits: LIMITS,
                sources: HashMap::new(),
                swept: None,
            };
            let start = Instant::now();
            Self { lines, start }
        }

        /// What comes of a line at that time: how many were left out before it, or `None` where it is left out itself.
        fn at(&mut self, ms: u64, kind: &'static str, address: &str) -> Option<u64> {
            let source = Source::of(address.parse().expect("an address"));
            let now = self.start + Duration::from_millis(ms);
            let line = self.lines.admit(Level::WARN, (kind, source), now);
            line.map(|line| line.left_out.unwrap_or(0))
        }

        fn rest(&mut self, ms: u64) -> Vec<u64> {
            let mut rest = Vec::new();
            self.lines.take_rest(self.start + Duration::from_millis(ms), &mut rest);
            rest.into_iter().map(|rest| rest.left_out).collect()
        }
    }

    #[test]
    fn after_a_burst_there_is_a_line_in_each_pause_with_how_many_were_left_out() {
        let mut bench = Bench::new();
        let said = [0, 0, 1, 500, 1_000, 1_001, 5_000, 5_000, 5_000].map(|ms| bench.at(ms, "no route", "10.0.0.1"));
        assert_eq!(
            said,
            [Some(0), Some(0), None, None, Some(2), None, Some(1), Some(0), None]
        );
    }

    #[test]
    fn each_kind_and_each_address_has_its_own_lines() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.at(0, "no route", "10.0.0.1");
        }
        assert_eq!(bench.at(0, "no route", "10.0.0.1"), None);
        assert_eq!(bench.at(0, "no route", "10.0.0.2"), Some(0));
        assert_eq!(bench.at(0, "origin", "10.0.0.1"), Some(0));
    }

    #[test]
    fn whoever_has_a_network_of_ipv6_is_one_source() {
        let mut bench = Bench::new();
        let said = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3", "2001:db8:0:1::1"]
            .map(|address| bench.at(0, "no route", address));
        assert_eq!(said, [Some(0), Some(0), None, Some(0)]);
        assert_eq!(
            Source::of("::ffff:10.0.0.1".parse().unwrap()),
            Source::of([10, 0, 0, 1].into())
        );
    }

    #[test]
    fn beyond_the_limit_all_other_sources_share_one_until_there_is_room() {
        let mut bench = Bench::new();
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            assert_eq!(bench.at(0, "no route", address), Some(0));
        }
        let said = ["10.0.0.4", "10.0.0.5", "10.0.0.6"].map(|address| bench.at(0, "no route", address));
        assert_eq!(said, [Some(0), Some(0), None]);
        assert!(bench.lines.sources.len() <= LIMITS.sources + 1);
        assert_eq!(bench.rest(1_000), [1]);
        assert_eq!(bench.at(10_000, "no route", "10.0.0.7"), Some(0));
        assert_eq!(bench.lines.sources.len(), 1, "the others are over");
    }

    #[test]
    fn what_was_left_out_is_told_even_if_nothing_follows() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            bench.at(0, "no route", "10.0.0.1");
        }
        assert_eq!(
            (bench.rest(999), bench.rest(1_000), bench.rest(9_000)),
            (vec![], vec![3], vec![])
        );
    }
}
