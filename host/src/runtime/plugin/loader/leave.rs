//! Ends a process that has loaded plugins.
//!
//! `exit` would call what libraries have registered for it, and unload them, while their threads are still at work. A destructor
//! that crashes or hangs would then turn a good end into a bad one. The kernel takes back everything that a process has.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

static LOADED: AtomicBool = AtomicBool::new(false);

/// From now on the process may have code of plugins in it.
pub(super) fn plugins_are_loaded() {
    LOADED.store(true, Ordering::Relaxed);
}

/// Ends the process if it has loaded plugins, with code 1 if it `failed` and 0 otherwise. Returns if it has loaded none.
pub(crate) fn with(failed: bool) {
    if !LOADED.load(Ordering::Relaxed) {
        return;
    }
    // Nobody to tell if these fail.
    let _ = (std::io::stdout().flush(), std::io::stderr().flush());
    // SAFETY: the process ends here.
    unsafe { libc::_exit(i32::from(failed)) }
}
