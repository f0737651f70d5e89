//! How one generation fares, counted where it happens, and the bell that wakes whoever draws conclusions.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What one generation did.
#[derive(Debug, Default)]
pub struct Health {
    events: AtomicU64,
    panics: AtomicU64,
    errors: AtomicU64,
    /// Errors ring, too.
    heeds_errors: bool,
    bell: Arc<Bell>,
}

impl Health {
    /// Nothing yet. Panics ring `bell`, and so do errors where they are heeded.
    #[must_use]
    pub fn new(bell: Arc<Bell>, heeds_errors: bool) -> Self {
        Self {
            bell,
            heeds_errors,
            ..Self::default()
        }
    }

    /// An event was handled.
    pub fn handled(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// A callback panicked.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Something was written into the plugin's journal that counts for nothing here.
    pub fn noted(&self) {
        self.bell.ring();
    }

    /// An event was answered with the status `error`, or an effect was refused.
    pub fn erred(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.heeds_errors {
            self.bell.ring();
        }
    }

    /// Events that were handled.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Callbacks that panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Answers with the status `error`, and refused effects.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// Wakes somebody, once until that one has looked.
#[derive(Default)]
pub struct Bell {
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    rung: AtomicBool,
}

impl Bell {
    /// Says who is to be woken. Only the first call counts.
    pub fn wakes(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    fn ring(&self) {
        if let Some(wake) = self.wake.get()
            && !self.rung.swap(true, Ordering::AcqRel)
        {
            wake();
        }
    }

    /// Whoever was woken looks now: what happens from here on rings again.
    pub fn heard(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("rung", &self.rung).finish_non_exhaustive()
    }
}
