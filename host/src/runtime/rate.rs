//! Limits how much may come in a second: the algorithm is governor's (GCRA), the memory is the caller's.
//!
//! A [`Rate`] is the limit, a [`Spent`] is one number that says how much of it somebody has used. Nothing here reads a clock.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::config::{Pace, Paces};

/// Bytes count in steps of so many: a limit of gigabytes would not fit otherwise.
const STEP_BYTES: usize = 16;

/// What all times are counted from. With another limit, what was used of the one before stays used.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What one client, address or route has used of a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent(Cell<u64>);

/// A limit of so many in a second.
#[derive(Debug)]
pub(crate) struct Rate {
    limiter: RateLimiter<Spent, Store, Turn, NoOpMiddleware<Nanos>>,
    burst: NonZeroU32,
    /// The time that one of them takes to become free again.
    each: Duration,
    step: usize,
    /// The most that anybody had used since the last look, as time.
    peak: Cell<u64>,
}

/// The memory of a limiter: whoever asks brings their own.
#[derive(Debug)]
struct Store;

/// The time that its owner has set, since the start of the limiter.
#[derive(Debug, Default)]
struct Turn(Cell<u64>);

impl Rate {
    /// A limit of messages and the like.
    #[must_use]
    pub(crate) fn new(pace: Pace) -> Self {
        let burst = pace.per_s.saturating_mul(pace.burst_s);
        Self::of(Quota::per_second(pace.per_s).allow_burst(burst))
    }

    /// A limit of bytes.
    #[must_use]
    pub(crate) fn of_bytes(pace: Pace) -> Self {
        let steps = |number: u64| {
            let steps = u32::try_from(number.div_ceil(STEP_BYTES as u64)).unwrap_or(u32::MAX);
            NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN)
        };
        let (per_s, burst_s) = (u64::from(pace.per_s.get()), u64::from(pace.burst_s.get()));
        let quota = Quota::per_second(steps(per_s)).allow_burst(steps(per_s * burst_s));
        Self {
            step: STEP_BYTES,
            ..Self::of(quota)
        }
    }

    /// A limit of so many in a minute, all of which may come at once.
    #[must_use]
    pub(crate) fn in_a_minute(most: NonZeroU32) -> Self {
        Self::of(Quota::per_minute(most))
    }

    fn of(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::new(quota, Store, Turn::default()),
            burst: quota.burst_size(),
            each: quota.replenish_interval().max(Duration::from_nanos(1)),
            step: 1,
            peak: Cell::new(0),
        }
    }

    /// From now on it is this time.
    pub(crate) fn turn(&self, now: Instant) {
        let since = now.saturating_duration_since(*START);
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.limiter.clock().0.set(nanos);
    }

    /// Takes one.
    ///
    /// # Errors
    ///
    /// If there is none left: how long until there is.
    pub(crate) fn take(&self, spent: &Spent) -> Result<(), Duration> {
        let taken = self.limiter.check_key(spent);
        self.note(spent);
        taken.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Takes so many bytes; of more than may come at once, only those.
    ///
    /// # Errors
    ///
    /// If there are not so many left: how long until there are.
    pub(crate) fn take_bytes(&self, spent: &Spent, bytes: usize) -> Result<(), Duration> {
        let steps = u32::try_from(bytes.div_ceil(self.step)).unwrap_or(u32::MAX);
        let steps = NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN).min(self.burst);
        let taken = self.limiter.check_key_n(spent, steps);
        self.note(spent);
        match taken {
            Ok(taken) => taken.map_err(|until| until.wait_time_from(self.limiter.clock().now())),
            // Not for so few.
            Err(_) => Ok(()),
        }
    }

    /// How much of what may come at once is used.
    #[must_use]
    pub(crate) fn used(&self, spent: &Spent) -> usize {
        self.counted(self.left(spent))
    }

    /// The most of it that anybody had used since the last look.
    pub(crate) fn take_peak(&self) -> usize {
        self.counted(self.peak.take())
    }

    fn note(&self, spent: &Spent) {
        self.peak.set(self.peak.get().max(self.left(spent)));
    }

    /// The time until all is free again.
    fn left(&self, spent: &Spent) -> u64 {
        spent.0.get().saturating_sub(self.limiter.clock().0.get())
    }

    fn counted(&self, left: u64) -> usize {
        let used = u128::from(left).div_ceil(self.each.as_nanos());
        let used = usize::try_from(used).unwrap_or(usize::MAX).saturating_mul(self.step);
        used.min(self.most())
    }

    /// How much may come at once.
    #[must_use]
    pub(crate) fn most(&self) -> usize {
        (self.burst.get() as usize).saturating_mul(self.step)
    }
}

/// What is limited of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Messages that are no joins.
    Events,
    /// Joins.
    Joins,
    /// Bytes of both.
    Bytes,
}

/// The limits of messages, of one client or of one route.
#[derive(Debug)]
pub(crate) struct Rates {
    events: Option<Rate>,
    joins: Option<Rate>,
    bytes: Option<Rate>,
}

/// What was used of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllSpent {
    events: Spent,
    joins: Spent,
    bytes: Spent,
}

/// A message is beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Which.
    pub(crate) limit: Limit,
    /// How long until such a message would not be.
    pub(crate) wait: Duration,
}

impl Limit {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Events, Self::Joins, Self::Bytes];
}

impl Rates {
    /// Limits of these paces.
    #[must_use]
    pub(crate) fn new(paces: &Paces) -> Self {
        Self {
            events: paces.events.map(Rate::new),
            joins: paces.joins.map(Rate::new),
            bytes: paces.bytes.map(Rate::of_bytes),
        }
    }

    /// From now on it is this time.
    pub(crate) fn turn(&self, now: Instant) {
        for rate in [&self.events, &self.joins, &self.bytes].into_iter().flatten() {
            rate.turn(now);
        }
    }

    /// Takes a message with so many bytes.
    ///
    /// # Errors
    ///
    /// If it is beyond a limit.
    pub(crate) fn take(&self, spent: &AllSpent, is_join: bool, bytes: usize) -> Result<(), Over> {
        let (limit, rate, own) = match is_join {
            true => (Limit::Joins, &self.joins, &spent.joins),
            false => (Limit::Events, &self.events, &spent.events),
        };
        if let Some(rate) = rate {
            rate.take(own).map_err(|wait| Over { limit, wait })?;
        }
        if let Some(rate) = &self.bytes {
            let limit = Limit::Bytes;
            rate.take_bytes(&spent.bytes, bytes)
                .map_err(|wait| Over { limit, wait })?;
        }
        Ok(())
    }

    /// The limit of these, if there is one.
    #[must_use]
    pub(crate) fn of(&self, limit: Limit) -> Option<&Rate> {
        match limit {
            Limit::Events => self.events.as_ref(),
            Limit::Joins => self.joins.as_ref(),
            Limit::Bytes => self.bytes.as_ref(),
        }
    }
}

impl AllSpent {
    /// What was used of one of them.
    #[must_use]
    pub(crate) fn of(&self, limit: Limit) -> &Spent {
        match limit {
            Limit::Events => &self.events,
            Limit::Joins => &self.joins,
            Limit::Bytes => &self.bytes,
        }
    }
}

impl Over {
    /// The wait in milliseconds, rounded up: a message that comes then is not beyond the limit.
    #[must_use]
    pub(crate) fn wait_ms(self) -> u64 {
        u64::try_from(self.wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

impl Hash for Spent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

impl StateStore for Store {
    type Key = Spent;

    fn measure_and_replace<T, F, E>(&self, spent: &Spent, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let until = spent.0.get();
        let (outcome, until) = decide((until > 0).then(|| until.into()))?;
        spent.0.set(until.into());
        Ok(outcome)
    }
}

impl Clock for Turn {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(per_s: u32, burst_s: u32) -> Pace {
        let whole = |number| NonZeroU32::new(number).expect("not zero");
        Pace {
            per_s: whole(per_s),
            burst_s: whole(burst_s),
        }
    }

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn so_many_come_at_once_and_then_so_many_in_a_second() {
        let (rate, spent, start) = (Rate::new(pace(10, 2)), Spent::default(), Instant::now());
        let passed = |after_ms| {
            rate.turn(start + millis(after_ms));
            (0..100).filter(|_| rate.take(&spent).is_ok()).count()
        };
        assert_eq!([0, 0, 50, 100, 1_100, 60_000].map(passed), [20, 0, 0, 1, 10, 20]);
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_let_through() {
        let (rate, spent, start) = (Rate::new(pace(3, 1)), Spent::default(), Instant::now());
        rate.turn(start);
        let wait = loop {
            if let Err(wait) = rate.take(&spent) {
                break wait;
            }
        };
        rate.turn(start + wait - Duration::from_nanos(1));
        assert!(rate.take(&spent).is_err());
        rate.turn(start + wait);
        assert!(rate.take(&spent).is_ok());
    }

    #[test]
    fn each_has_its_own() {
        let (rate, ann, bob) = (Rate::new(pace(1, 1)), Spent::default(), Spent::default());
        rate.turn(Instant::now());
        assert!(rate.take(&ann).is_ok() && rate.take(&ann).is_err() && rate.take(&bob).is_ok());
        assert_eq!((rate.used(&ann), rate.used(&bob), rate.take_peak()), (1, 1, 1));
        assert_eq!(rate.take_peak(), 0);
    }

    #[test]
    fn bytes_count_together_and_one_message_may_be_larger_than_the_limit() {
        let (rate, spent, start) = (Rate::of_bytes(pace(1_600, 1)), Spent::default(), Instant::now());
        rate.turn(start);
        assert!(rate.take_bytes(&spent, 800).is_ok() && rate.take_bytes(&spent, 700).is_ok());
        assert!(rate.take_bytes(&spent, 200).is_err());
        assert_eq!((rate.used(&spent), rate.most()), (1_504, 1_600));
        rate.turn(start + millis(1_000));
        assert!(rate.take_bytes(&spent, 1_000_000).is_ok());
        assert_eq!(rate.used(&spent), rate.most());
    }

    #[test]
    fn the_largest_limit_of_bytes_is_one() {
        let (rate, spent, start) = (Rate::of_bytes(pace(1 << 30, 60)), Spent::default(), Instant::now());
        rate.turn(start);
        while rate.take_bytes(&spent, 1 << 24).is_ok() {}
        rate.turn(start + millis(1_000));
        let passed = (0..1_000).filter(|_| rate.take_bytes(&spent, 1 << 24).is_ok()).count();
        assert!((64..70).contains(&passed), "{passed} times 16 MiB in a second");
    }
}
