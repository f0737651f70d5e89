//! A question of a backend to a topic, and the way back for its answer.

use std::sync::{Mutex, PoisonError};

use bennu_wire::message::Payload;
use bytestring::ByteString;
use tokio::sync::oneshot;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// The plugin has answered. A callback that returns no reply answers `ok` and `{}`.
    Replied {
        /// `ok`, `error`, or the plugin's own.
        status: ByteString,
        /// The response.
        payload: Payload,
    },
    /// The topic does not exist, and the call should not make it.
    NotAlive,
    /// The plugin was built with a kit that knows no calls.
    Unhandled,
    /// The callback panicked, or did not return in time.
    Crashed,
    /// The topic has ended before it answered.
    Ended,
    /// What the callback has changed could not be stored, so the change is undone; or the stored state could not be read.
    Unstored(&'static str),
}

/// Who waits for the answer to a call. Dropped without an answer, it answers [`Called::Ended`].
#[derive(Debug)]
pub(crate) struct Caller(Mutex<Option<oneshot::Sender<Called>>>);

impl Caller {
    /// A caller, and where its answer arrives; that it is dropped stands for [`Called::Ended`].
    #[must_use]
    pub(crate) fn new() -> (Self, oneshot::Receiver<Called>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Mutex::new(Some(sender))), receiver)
    }

    /// Answers, unless it is answered already.
    pub(crate) fn answer(&self, called: Called) {
        if let Some(sender) = self.take() {
            // Nobody waits any more after the deadline.
            let _ = sender.send(called);
        }
    }

    /// The same caller, for a promise that outlives this event. What is left has nothing to answer.
    #[must_use]
    pub(crate) fn promised(&self) -> Self {
        Self(Mutex::new(self.take()))
    }

    /// Whether somebody still waits for the answer.
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn take(&self) -> Option<oneshot::Sender<Called>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
