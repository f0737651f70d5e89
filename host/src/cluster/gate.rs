//! Keeps shards from going on as home after a standstill of the process.
//!
//! A process that was stopped, or a machine that was suspended, for longer than its lease may have lost its topics without knowing.
//! The lease's thread beats; a shard that finds the last beat too long ago waits, before it handles anything, until the cluster's
//! thread has asked the broker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How often a shard looks whether the lease's thread runs again.
const LOOK: Duration = Duration::from_millis(1);

/// The gate before all shards.
#[derive(Debug)]
pub(super) struct Gate {
    /// When the lease's thread last ran, in milliseconds of the clock that never stands still.
    beat: AtomicU64,
    /// For how long it may be silent.
    patience: Duration,
    /// Nobody passes until the broker was asked.
    shut: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
    /// This node has left the cluster.
    over: AtomicBool,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            beat: AtomicU64::new(now_ms()),
            patience,
            shut: AtomicBool::new(false),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            over: AtomicBool::new(false),
        }
    }

    /// The lease's thread runs. Returns for how long it has not, if that was too long: then the gate is shut.
    pub(super) fn beat(&self) -> Option<Duration> {
        let now = now_ms();
        let late = self.late(now);
        if late.is_some() {
            // Before the beat, so that no shard finds the gate open in between.
            self.shut.store(true, Ordering::SeqCst);
        }
        self.beat.store(now, Ordering::SeqCst);
        late
    }

    fn late(&self, now: u64) -> Option<Duration> {
        let silent = Duration::from_millis(now.saturating_sub(self.beat.load(Ordering::SeqCst)));
        (silent > self.patience && !self.over.load(Ordering::Relaxed)).then_some(silent)
    }

    /// Whether nobody passes.
    #[must_use]
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    /// The broker was asked, and what this node has lost was ended.
    pub(super) fn open(&self) {
        let _lock = self.locked();
        self.shut.store(false, Ordering::SeqCst);
        self.opened.notify_all();
    }

    /// The node leaves the cluster: nobody beats any more, and all pass.
    pub(super) fn remove(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.open();
    }

    /// Waits while the gate is shut, or has to be.
    pub(super) fn pass(&self) {
        while self.late(now_ms()).is_some() {
            // All threads wake at the same time, and this one came first.
            thread::sleep(LOOK);
        }
        if self.is_shut() {
            let opened = self.opened.wait_while(self.locked(), |()| self.is_shut());
            drop(opened.expect("no holder of the gate panics"));
        }
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().expect("no holder of the gate panics")
    }
}

/// Milliseconds that also count while the machine is suspended.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn after_a_standstill_nobody_passes_before_the_broker_was_asked() {
        let gate = Arc::new(Gate::new(Duration::from_millis(40)));
        gate.pass();
        // That time passes without a beat is what the test is about.
        thread::sleep(Duration::from_millis(60));
        let passing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.pass())
        };
        assert!(gate.beat().is_some() && gate.is_shut());
        gate.beat();
        thread::sleep(Duration::from_millis(10));
        assert!(!passing.is_finished());
        gate.remove();
        passing.join().expect("it passes");
    }
}
