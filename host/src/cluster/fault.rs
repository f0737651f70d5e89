//! Faults on purpose, so that tests can show what comes of them. A release build has none.

#[cfg(debug_assertions)]
pub(super) use self::wanted::{be_slow, loses_ack, loses_broadcast, loses_move};

#[cfg(debug_assertions)]
mod wanted {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// The number in an environment variable; 0 if it is not set.
    fn number(variable: &str) -> u64 {
        let wanted = std::env::var(variable).ok();
        wanted.and_then(|wanted| wanted.parse().ok()).unwrap_or(0)
    }

    /// Whether one of the first is lost, of which so many are left.
    fn is_of_first(left: &AtomicU64) -> bool {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    /// Whether a write that moves a partition is lost: nobody hears of it, and their states must not be.
    pub(in crate::cluster) fn loses_move() -> bool {
        static LEFT: LazyLock<AtomicU64> = LazyLock::new(|| number("BENNU_FAULT_LOST_MOVES").into());
        is_of_first(&LEFT)
    }

    /// Whether the word that a topic is stored is lost: nobody may take it for not stored.
    pub(in crate::cluster) fn loses_ack() -> bool {
        static LEFT: LazyLock<AtomicU64> = LazyLock::new(|| number("BENNU_FAULT_LOST_ACKS").into());
        is_of_first(&LEFT)
    }

    /// Whether a broadcast to other nodes is lost: one of so many is.
    pub(in crate::cluster) fn loses_broadcast() -> bool {
        static OF: LazyLock<u64> = LazyLock::new(|| number("BENNU_FAULT_LOST_BROADCASTS"));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        *OF > 0 && (COUNT.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(*OF)
    }

    /// Has the cluster's thread do nothing for so many milliseconds.
    pub(in crate::cluster) async fn be_slow() {
        static MS: LazyLock<u64> = LazyLock::new(|| number("BENNU_FAULT_SLOW_CLUSTER"));
        if *MS > 0 {
            tokio::time::sleep(Duration::from_millis(*MS)).await;
        }
    }
}

#[cfg(not(debug_assertions))]
pub(super) const fn loses_move() -> bool {
    false
}

#[cfg(not(debug_assertions))]
pub(super) const fn loses_ack() -> bool {
    false
}

#[cfg(not(debug_assertions))]
pub(super) const fn loses_broadcast() -> bool {
    false
}

#[cfg(not(debug_assertions))]
pub(super) async fn be_slow() {}
