//! When connections end because their token does.
//!
//! A token expires by the wall clock, and that clock can be set. If it is set back, tokens are good for longer; that is what it
//! says. If it jumps ahead, perhaps only for a moment, everybody's token would be over at once. So a jump counts only after it
//! has lasted: until then time goes on as it did before. And however many tokens are over, only some connections end at a time,
//! so that their clients do not all come back together.

use std::time::{Duration, Instant};

/// By how much the wall clock may be ahead of the time that passed before that counts as a jump.
const JUMP_MS: u64 = 2_000;
/// How long a jump must last.
const DOUBT: Duration = Duration::from_secs(10);

/// Judges expiry for one I/O thread.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// When it looked last, and what time it was then.
    looked: Option<(Instant, u64)>,
    /// Since when the wall clock has been ahead.
    ahead: Option<Instant>,
}

impl Expiries {
    /// The time that tokens are judged by, now that the wall clock shows `wall_ms`.
    pub(crate) fn time_ms(&mut self, now: Instant, wall_ms: u64) -> u64 {
        let Some((before, time_ms)) = self.looked else {
            self.looked = Some((now, wall_ms));
            return wall_ms;
        };
        let passed = now.saturating_duration_since(before).as_millis();
        let expected_ms = time_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let is_ahead = wall_ms > expected_ms.saturating_add(JUMP_MS);
        let since = self.ahead.filter(|_| is_ahead).unwrap_or(now);
        let is_doubted = is_ahead && now.saturating_duration_since(since) < DOUBT;
        self.ahead = is_doubted.then_some(since);
        let time_ms = if is_doubted { expected_ms } else { wall_ms };
        self.looked = Some((now, time_ms));
        time_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 1_700_000_000_000;

    /// The times that are judged by, when the wall clock is `ahead(t)` milliseconds ahead of `t`, a quarter of a second apart.
    fn judged(ahead: impl Fn(u64) -> i64, for_ms: u64) -> Vec<i64> {
        let (mut expiries, start) = (Expiries::default(), Instant::now());
        let at = |ms: u64| {
            let wall = (START_MS + ms).saturating_add_signed(ahead(ms));
            let time = expiries.time_ms(start + Duration::from_millis(ms), wall);
            time.cast_signed() - (START_MS + ms).cast_signed()
        };
        (0..=for_ms).step_by(250).map(at).collect()
    }

    #[test]
    fn a_clock_that_is_set_right_step_by_step_is_followed() {
        assert!(
            judged(|ms| (ms / 100).cast_signed(), 60_000)
                .iter()
                .enumerate()
                .all(|(at, ahead)| *ahead == at as i64 * 250 / 100)
        );
    }

    #[test]
    fn a_jump_ahead_that_is_taken_back_is_never_seen() {
        let hour = |ms| if (5_000..12_000).contains(&ms) { 3_600_000 } else { 0 };
        assert!(judged(hour, 30_000).iter().all(|ahead| *ahead == 0));
    }

    #[test]
    fn a_jump_ahead_that_lasts_counts_in_the_end() {
        let seen = judged(|ms| if ms >= 5_000 { 3_600_000 } else { 0 }, 30_000);
        let first = seen.iter().position(|ahead| *ahead != 0);
        assert_eq!(first, Some((5_000 + 10_000) / 250));
        assert!(seen[60..].iter().all(|ahead| *ahead == 3_600_000));
    }

    #[test]
    fn a_clock_that_is_set_back_counts_at_once() {
        let seen = judged(|ms| if ms >= 5_000 { -3_600_000 } else { 0 }, 10_000);
        assert_eq!((seen[19], seen[20]), (0, -3_600_000));
    }
}
