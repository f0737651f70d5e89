//! What a push is answered: [`Pushed`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::body::Body;
use super::core::{Core, To};
use super::expect::{self, Expect};

/// An event that was pushed: what it is answered.
#[derive(Clone)]
pub struct Pushed {
    core: Rc<RefCell<Core>>,
    number: u64,
    event: String,
}

impl Pushed {
    pub(super) fn new(core: &Rc<RefCell<Core>>, number: u64, event: &str) -> Self {
        Self {
            core: Rc::clone(core),
            number,
            event: event.to_owned(),
        }
    }

    /// The number by which [`Client::sent`](super::Client::sent) calls it.
    #[doc(hidden)]
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Asserts that it is answered with this status and payload. Returns the payload, binary as an array of its bytes.
    ///
    /// # Panics
    ///
    /// If it is answered otherwise, or not, by now or while there is patience. Says how.
    #[track_caller]
    pub fn assert_reply(&self, status: &str, payload: impl Expect) -> Value {
        let expected = format!("`{status}` {}", payload.shown());
        let failed = match self.reply() {
            Some((found, body)) if found == status && expect::is(&body, &payload) => return body.value(),
            Some((found, body)) => format!("`{}` was answered `{found}` {body}\nnot {expected}", self.event),
            None => format!("`{}` was not answered; expected was {expected}", self.event),
        };
        panic!("{failed}{}", self.core.borrow().logged())
    }

    /// Asserts that it has not been answered.
    ///
    /// # Panics
    ///
    /// If it has.
    #[track_caller]
    pub fn refute_reply(&self) {
        let mut core = self.core.borrow_mut();
        core.settle();
        let reply = core.replies.get(&self.number).cloned();
        drop(core);
        if let Some((status, body)) = reply {
            panic!("`{}` was answered `{status}` {body}", self.event);
        }
    }

    /// The reply. Waits for one that is promised.
    fn reply(&self) -> Option<(String, Body)> {
        let promised = |core: &Core| {
            let to_this = |to| matches!(to, To::Push { push, .. } if push == self.number);
            core.promises.values().any(|promise| to_this(promise.to))
        };
        let mut core = self.core.borrow_mut();
        let found = core.wait_until(|core| {
            let found = core.replies.get(&self.number).cloned();
            (found.is_some() || !promised(core)).then_some(found)
        });
        found.flatten()
    }
}

impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "push of `{}`", self.event)
    }
}
