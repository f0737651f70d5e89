//! Without the feature `async` there is no async work.

use std::time::Duration;

/// None.
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
