//! Stands for the module `tasks` if the feature `async` is off.

use std::time::Duration;

/// No async work.
#[derive(Clone, Default)]
pub(crate) struct Tasks {}

impl Tasks {
    pub(crate) fn during_init<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(crate) fn end(&self, _: Duration) -> bool {
        true
    }
}
