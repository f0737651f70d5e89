//! Who uses the system's loader: it lets one thread at a time open or close a library, and never says which.
//!
//! A library whose constructor does not return, or a destructor that the system runs, holds it for good. Whoever comes then
//! waits no longer than its deadline, and says who is to blame.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::clock;

/// Who uses it now.
static USER: Mutex<Option<User>> = Mutex::new(None);
static FREE: Condvar = Condvar::new();

/// Somebody who uses the system's loader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's loader is busy: plugin {plugin} has been {doing} for {} s and does not return; restart the server", clock::since(*.since).as_secs())]
pub(crate) struct User {
    /// Whose library it is about.
    pub(crate) plugin: String,
    /// What is done with that.
    pub(crate) doing: &'static str,
    since: Instant,
}

/// The loader is ours while this lives.
#[derive(Debug)]
pub(super) struct Using(());

/// Waits for the loader, at most `patience`.
///
/// # Errors
///
/// With who has it.
pub(super) fn enter(plugin: &str, doing: &'static str, patience: Duration) -> Result<Using, User> {
    let (until, mut wait, mut user) = (clock::now() + patience, patience, lock());
    loop {
        (user, _) = FREE
            .wait_timeout_while(user, wait, |user| user.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        let Some(other) = &*user else { break };
        wait = clock::rest(until).ok_or_else(|| other.clone())?;
    }
    *user = Some(User {
        plugin: plugin.to_owned(),
        doing,
        since: clock::now(),
    });
    Ok(Using(()))
}

/// Who has used it for longer than `patience`, if anybody has.
pub(crate) fn stuck(patience: Duration) -> Option<User> {
    lock().clone().filter(|user| clock::since(user.since) > patience)
}

impl Drop for Using {
    fn drop(&mut self) {
        *lock() = None;
        FREE.notify_one();
    }
}

fn lock() -> MutexGuard<'static, Option<User>> {
    USER.lock().unwrap_or_else(PoisonError::into_inner)
}
