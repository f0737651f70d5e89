//! Numbers in reports: digits in groups, percentiles.

use std::time::Duration;

use serde::Serialize;

/// An integer with a comma between thousands: `1234567` as `1,234,567`.
#[must_use]
pub fn grouped(value: impl Into<i128>) -> String {
    let value = value.into();
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The smallest value that is not below this share of the values. `None` if there are no values.
///
/// The values must be sorted. A share of 0.5 gives the median, 1.0 the maximum.
pub(crate) fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let at = (share * sorted.len() as f64).ceil() as usize;
    Some(sorted[at.saturating_sub(1).min(last)])
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// How times are distributed, in milliseconds. All zero if there are none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Percentiles {
    pub(crate) fn of(mut times_ms: Vec<f64>) -> Self {
        times_ms.sort_by(f64::total_cmp);
        let at = |share| quantile(&times_ms, share).unwrap_or_default();
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (value, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(grouped(value), expected);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u32> = (1..=100).collect();
        for (share, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&values, share), Some(expected), "{share}");
        }
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn percentiles_need_no_order() {
        let Percentiles { p50_ms, p99_ms, max_ms } = Percentiles::of(vec![3.0, 1.0, 2.0]);
        assert_eq!([p50_ms, p99_ms, max_ms], [2.0, 3.0, 3.0]);
        assert_eq!(Percentiles::of(Vec::new()).max_ms, 0.0);
    }
}
