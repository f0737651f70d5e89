//! Counts the faults of one generation, and wakes the control thread when there are some.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What one generation did.
#[derive(Debug, Default)]
pub(crate) struct Health {
    panics: AtomicU64,
    errors: AtomicU64,
    /// Errors raise the signal, too.
    heeds_errors: bool,
    signal: Arc<FaultSignal>,
}

impl Health {
    /// No faults yet. Panics raise `signal`, and so do errors if `heeds_errors`.
    #[must_use]
    pub(crate) fn new(signal: Arc<FaultSignal>, heeds_errors: bool) -> Self {
        Self {
            signal,
            heeds_errors,
            ..Self::default()
        }
    }

    /// A callback panicked.
    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.signal.raise();
    }

    /// The plugin's journal has a new entry that is not counted here.
    pub(crate) fn noted(&self) {
        self.signal.raise();
    }

    /// An event was answered with the status `error`, or an effect was refused.
    pub(crate) fn erred(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.heeds_errors {
            self.signal.raise();
        }
    }

    /// Callbacks that panicked.
    #[must_use]
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Answers with the status `error`, and refused effects.
    #[must_use]
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// Wakes the control thread, once until it has looked.
#[derive(Default)]
pub(crate) struct FaultSignal {
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    raised: AtomicBool,
}

impl FaultSignal {
    /// Sets what wakes it. Only the first call counts.
    pub(crate) fn wakes(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    fn raise(&self) {
        if let Some(wake) = self.wake.get()
            && !self.raised.swap(true, Ordering::AcqRel)
        {
            wake();
        }
    }

    /// The control thread looks now. What happens from here on raises the signal again.
    pub(crate) fn heard(&self) {
        self.raised.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for FaultSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultSignal")
            .field("raised", &self.raised)
            .finish_non_exhaustive()
    }
}
