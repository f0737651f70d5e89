//! Numbers that nobody outside can foresee.

use std::sync::atomic::{AtomicU64, Ordering};

/// The step of the sequence: SplitMix64's.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of random numbers, one for all threads: SplitMix64, from a random beginning.
#[derive(Debug)]
pub(super) struct Ids(AtomicU64);

impl Ids {
    pub(super) fn new() -> Self {
        let mut seed = [0; 8];
        // A system without random bytes would not have started: the keys of tokens come from there, too.
        let _ = getrandom::fill(&mut seed);
        Self(AtomicU64::new(u64::from_ne_bytes(seed)))
    }

    /// The next one. Never 0, which stands for none.
    pub(super) fn next(&self) -> u64 {
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)).max(1)
    }

    /// The next one as a number from 0 to below 1.
    pub(super) fn chance(&self) -> f64 {
        // As many bits as such a number has.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
