//! The time for which the process ran: a clock that stands still while the process does.
//!
//! A process can be stopped (SIGSTOP), or its machine paused. Nobody can send, answer or return in that time, so nobody is judged
//! by it: idle clients, handlers that hang and joins without an answer are measured by [`now`], not by [`Instant::now`].
//!
//! The watchdog beats every few milliseconds. Between two beats the clock advances by [`MOST`] at the very most; when a beat comes
//! later than that, the process stood still. Nothing here waits, and reading the clock takes no lock.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::error::Elapsed;

/// How much time passes between two beats at most.
const MOST: Duration = Duration::from_millis(100);
/// A standstill of at least this length is followed by [`RECOVERY`].
const STANDSTILL: Duration = Duration::from_secs(1);
/// How long nobody is judged after a standstill: what has come meanwhile is read in that time.
const RECOVERY: Duration = Duration::from_secs(2);
/// How long to wait before another look at a deadline that is over for the system and not for this clock.
const AGAIN: Duration = Duration::from_millis(100);

static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock::new(Instant::now()));

/// The current time, without the time for which the process stood still.
#[must_use]
pub(crate) fn now() -> Instant {
    CLOCK.at(Instant::now())
}

/// The time that has passed on this clock since it showed `then`.
#[must_use]
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Whether anybody may be judged by their silence: not during a standstill, and not just after one.
#[must_use]
pub(crate) fn may_judge() -> bool {
    CLOCK.may_judge(Instant::now())
}

/// How long to wait for a deadline before another look. `None`: it is over, and whoever missed it may be judged.
#[must_use]
pub(crate) fn rest(until: Instant) -> Option<Duration> {
    CLOCK.rest(until, Instant::now())
}

/// The wall clock, in milliseconds since 1970. For what outlives the process; it may be set back.
#[must_use]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits for `future`, for at most `limit` of the time for which the process runs.
///
/// # Errors
///
/// If `future` takes longer.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let end = now() + limit;
    let (mut future, mut wait) = (pin!(future), limit);
    loop {
        match tokio::time::timeout(wait, &mut future).await {
            Ok(done) => return Ok(done),
            Err(elapsed) => wait = rest(end).ok_or(elapsed)?,
        }
    }
}

/// Waits for a message, for at most `limit` of the time for which the process runs.
///
/// # Errors
///
/// If none comes in time, or no sender is left.
pub(crate) fn recv_timeout<T>(receiver: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    let (end, mut wait) = (now() + limit, limit);
    loop {
        match receiver.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => wait = rest(end).ok_or(RecvTimeoutError::Timeout)?,
            done => return done,
        }
    }
}

/// Keeps the clock going. Without a beat the clock stops after [`MOST`]; without any `Heart` it shows the system's time.
#[derive(Debug)]
pub(crate) struct Heart(&'static Clock);

impl Heart {
    /// Takes over the clock of the process.
    pub(crate) fn start() -> Self {
        CLOCK.start(Instant::now());
        Self(&CLOCK)
    }

    /// To be called at least every [`MOST`].
    pub(crate) fn beat(&self) {
        self.0.beat(Instant::now());
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// All times are nanoseconds since `start`.
#[derive(Debug)]
struct Clock {
    start: Instant,
    /// The time for which the process stood still, in total.
    lost: AtomicU64,
    /// What the clock shows at most before the next beat.
    ceiling: AtomicU64,
    /// What the clock showed when the last long standstill ended.
    resumed: AtomicU64,
    hearts: AtomicUsize,
    /// Only one thread moves the clock at a time.
    moving: Mutex<()>,
}

impl Clock {
    fn new(start: Instant) -> Self {
        Self {
            start,
            lost: AtomicU64::new(0),
            ceiling: AtomicU64::new(u64::MAX),
            resumed: AtomicU64::new(0),
            hearts: AtomicUsize::new(0),
            moving: Mutex::new(()),
        }
    }

    fn at(&self, time: Instant) -> Instant {
        self.start + Duration::from_nanos(self.shown(time))
    }

    fn shown(&self, time: Instant) -> u64 {
        // The ceiling first: whoever sees the new one sees what was lost before it, too.
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let ran = self.since_start(time).saturating_sub(self.lost.load(Ordering::Acquire));
        ran.min(ceiling)
    }

    fn may_judge(&self, time: Instant) -> bool {
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let resumed = self.resumed.load(Ordering::Acquire);
        let shown = self.shown(time);
        shown < ceiling && (resumed == 0 || shown >= resumed + nanos(RECOVERY))
    }

    fn rest(&self, until: Instant, time: Instant) -> Option<Duration> {
        let rest = until.saturating_duration_since(self.at(time));
        let is_over = rest.is_zero() && self.may_judge(time);
        (!is_over).then(|| rest.max(AGAIN))
    }

    fn start(&self, time: Instant) {
        let _moving = self.moving.lock().expect("no holder panics");
        if self.hearts.fetch_add(1, Ordering::AcqRel) == 0 {
            self.ceiling.store(self.shown(time) + nanos(MOST), Ordering::Release);
        }
    }

    fn end(&self) {
        let _moving = self.moving.lock().expect("no holder panics");
        if self.hearts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ceiling.store(u64::MAX, Ordering::Release);
        }
    }

    fn beat(&self, time: Instant) {
        let _moving = self.moving.lock().expect("no holder panics");
        let (shown, lost) = (self.shown(time), self.lost.load(Ordering::Acquire));
        let total = self.since_start(time) - shown;
        // In this order: a thread that reads in between sees the clock stand still.
        self.lost.store(total, Ordering::Release);
        if total - lost >= nanos(STANDSTILL) {
            self.resumed.store(shown, Ordering::Release);
        }
        self.ceiling.store(shown + nanos(MOST), Ordering::Release);
    }

    fn since_start(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.start))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that beats, and what it shows after so many milliseconds.
    fn beating() -> (Clock, Instant) {
        let start = Instant::now();
        let clock = Clock::new(start);
        clock.start(start);
        (clock, start)
    }

    fn ms(clock: &Clock, start: Instant, at: u64) -> u128 {
        (clock.at(start + Duration::from_millis(at)) - start).as_millis()
    }

    #[test]
    fn a_clock_that_beats_shows_the_time() {
        let (clock, start) = beating();
        for at in (0..1_000).step_by(20) {
            clock.beat(start + Duration::from_millis(at));
            assert_eq!(ms(&clock, start, at + 10), u128::from(at + 10));
        }
        assert!(clock.may_judge(start + Duration::from_millis(1_000)));
    }

    #[test]
    fn a_standstill_does_not_count_and_nobody_is_judged_until_what_came_was_read() {
        let (clock, start) = beating();
        let at = |ms| start + Duration::from_millis(ms);
        clock.beat(at(20));
        assert_eq!(
            ms(&clock, start, 60_000),
            120,
            "it stands still before anybody has noticed"
        );
        assert!(!clock.may_judge(at(60_000)));
        clock.beat(at(60_000));
        assert_eq!(ms(&clock, start, 60_010), 130);
        for beat in (60_020..62_000).step_by(20) {
            assert!(!clock.may_judge(at(beat)));
            clock.beat(at(beat));
        }
        clock.beat(at(62_000));
        assert!(clock.may_judge(at(62_000)));
    }

    #[test]
    fn a_deadline_is_over_when_the_process_ran_for_so_long_and_what_came_was_read() {
        let (clock, start) = beating();
        let at = |ms| start + Duration::from_millis(ms);
        let until = at(1_000);
        assert_eq!(clock.rest(until, at(0)), Some(Duration::from_secs(1)));
        // It stands still for a minute, half a second before the deadline.
        (0..=500).step_by(20).for_each(|beat| clock.beat(at(beat)));
        clock.beat(at(60_600));
        assert_eq!(clock.rest(until, at(60_600)), Some(Duration::from_millis(400)));
        (60_600..=61_200).step_by(20).for_each(|beat| clock.beat(at(beat)));
        assert_eq!(
            clock.rest(until, at(61_200)),
            Some(AGAIN),
            "not just after a standstill"
        );
        (61_200..=62_600).step_by(20).for_each(|beat| clock.beat(at(beat)));
        assert_eq!(clock.rest(until, at(62_600)), None);
    }

    #[test]
    fn a_beat_that_is_a_little_late_keeps_nobody_from_being_judged() {
        let (clock, start) = beating();
        let at = |ms| start + Duration::from_millis(ms);
        clock.beat(at(500));
        assert_eq!(ms(&clock, start, 510), 110);
        assert!(clock.may_judge(at(510)));
    }

    #[test]
    fn without_a_heart_the_clock_goes_on_by_itself() {
        let (clock, start) = beating();
        clock.beat(start + Duration::from_secs(60));
        clock.end();
        assert_eq!(ms(&clock, start, 70_000), 10_100);
    }

    #[test]
    fn a_message_that_is_too_slow_is_not_waited_for() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let limit = Duration::from_millis(1);
        assert_eq!(recv_timeout(&receiver, limit), Err(RecvTimeoutError::Timeout));
        sender.send(7).expect("there is a receiver");
        assert_eq!(recv_timeout(&receiver, limit), Ok(7));
        drop(sender);
        assert_eq!(recv_timeout(&receiver, limit), Err(RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn a_future_that_is_too_slow_is_given_up() {
        assert!(
            timeout(Duration::from_millis(1), std::future::pending::<()>())
                .await
                .is_err()
        );
        assert_eq!(timeout(Duration::from_secs(5), async { 7 }).await.ok(), Some(7));
    }
}
