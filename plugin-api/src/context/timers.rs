//! Messages and timers. They are data, and so survive a reload.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Context;
use crate::abi::effect;
use crate::glue::Effect;
use crate::payload::IntoPayload;

/// Names a timer, for [`Context::cancel`]. Can be kept in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timer(u64);

impl<P> Context<P> {
    /// Sends the message `name` to the member (in a callback of the topic: to the topic). It arrives in `handle_info` or
    /// `handle_topic_info`, after this event and those that already wait.
    pub fn send(&self, name: &str, payload: impl IntoPayload) {
        self.send_after(Duration::ZERO, name, payload);
    }

    /// Sends the message `name` after `delay`, in whole milliseconds. The timer survives a reload, and ends with its member. A topic
    /// has at most `max_timers_per_topic` (default 10,000) timers; the host refuses further ones, and logs that.
    pub fn send_after(&self, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        self.timer(self.member, delay, name, payload)
    }

    /// Sends the message `name` to the topic after `delay`. It arrives in `handle_topic_info`, whether or not the member is still
    /// there. The timer survives a reload.
    pub fn topic_send_after(&self, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        self.timer(0, delay, name, payload)
    }

    /// Stops a timer. Does nothing if it has fired.
    pub fn cancel(&self, timer: Timer) {
        self.emit(&Effect {
            kind: effect::CANCEL,
            number: timer.0,
            ..Effect::default()
        });
    }

    fn timer(&self, member: u64, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        let number = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let effect = Effect {
            kind: effect::SEND,
            member,
            number,
            name: name.as_bytes(),
            ..Effect::default()
        };
        Timer(self.ask(effect, payload).try_into().unwrap_or(0))
    }
}
