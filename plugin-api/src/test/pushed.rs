//! A pushed event, or a call of a backend, and its reply: [`Pushed`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::body::Body;
use super::core::{Core, To};
use super::expect::{self, Expect};

/// A pushed event, or a call of a backend.
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

    /// Asserts the status and the payload of the reply, and waits for a promised one. Returns the payload; a binary one as an array of
    /// its bytes.
    ///
    /// # Panics
    ///
    /// If the reply differs, or does not come. Shows the reply.
    #[track_caller]
    pub fn assert_reply(&self, status: &str, payload: impl Expect) -> Value {
        let expected = format!("`{status}` {}", payload.shown());
        let failed = match self.reply() {
            Some((found, body)) if found == status && expect::is(&body, &payload) => return body.value(),
            Some((found, body)) => format!("`{}` was answered `{found}` {body}\nnot {expected}", self.event),
            None => format!("`{}` was not answered; expected {expected}", self.event),
        };
        panic!("{failed}{}", self.core.borrow().logged())
    }

    /// Asserts that there is no reply yet.
    ///
    /// # Panics
    ///
    /// If there is one.
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

    /// The reply. Waits for a promised one.
    fn reply(&self) -> Option<(String, Body)> {
        let promised = |core: &Core| {
            let to_this = |to| matches!(to, To::Push { push, .. } | To::Call { push } if push == self.number);
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
