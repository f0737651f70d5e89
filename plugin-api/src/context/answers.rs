//! Answers that come later, and the end of a channel.

use super::{Context, MemberId};
use crate::abi::{effect, reason};
use crate::glue::Effect;
use crate::payload::IntoPayload;
use crate::remote::Later;
use crate::reply::Stop;

impl<P> Context<P> {
    /// Promises to answer the current join or event later. Return [`Join::later`](crate::JoinExt::later) or
    /// [`Reply::none`](crate::Reply::none), and pass the promise to [`Context::complete`] or
    /// [`Remote::complete`](crate::Remote::complete).
    ///
    /// A topic has at most `max_promises_per_topic` (default 10,000) open promises; the host answers further ones with
    /// `{"reason":"overloaded"}`. If a promise is dropped, its client waits until it times out.
    pub fn later(&self) -> Later {
        let serial = self.emit(&Effect {
            kind: effect::LATER,
            member: self.member,
            ..Effect::default()
        });
        self.promised.set(true);
        Later {
            topic: self.topic,
            serial: serial.try_into().unwrap_or(0),
            reply: self.replies,
        }
    }

    /// # Panics
    ///
    /// If the callback of this name made no promise: its client would wait for ever.
    pub(crate) fn check_promised(&self, callback: &str) {
        assert!(
            self.promised.get(),
            "`{callback}` returned `later()` without a promise: call `cx.later()` first"
        );
    }

    /// Keeps a promise, as [`Remote::complete`](crate::Remote::complete) does. A reply in the same topic is an effect of this
    /// callback.
    pub fn complete(&self, later: Later, status: &str, payload: impl IntoPayload) {
        if !later.reply || later.topic != self.topic {
            self.remote().complete(later, status, payload);
            return;
        }
        let name = status.as_bytes();
        self.ask(
            Effect {
                kind: effect::REPLY,
                token: later.serial,
                name,
                ..Effect::default()
            },
            payload,
        );
    }

    /// Ends the member's channel after this callback and its reply.
    pub fn stop(&self, why: Stop) {
        self.stop_member(MemberId(self.member), why);
    }

    /// Ends the channel of another member of the topic after this callback.
    pub fn stop_member(&self, member: MemberId, why: Stop) {
        let mut stops = self.stops.take();
        stops.push((member.0, why));
        self.stops.set(stops);
    }

    /// Tells the host who stops. Comes last in an event.
    pub(crate) fn emit_stops(&self) {
        for (member, why) in self.stops.take() {
            let (number, text) = match &why {
                Stop::Normal => (reason::NORMAL, ""),
                Stop::Shutdown => (reason::SHUTDOWN, ""),
                Stop::Other(text) => (reason::OTHER, text.as_str()),
            };
            self.emit_stop(member, number, text);
        }
    }

    pub(crate) fn emit_stop(&self, member: u64, why: u32, text: &str) -> i64 {
        let (number, name) = (why.into(), text.as_bytes());
        self.emit(&Effect {
            kind: effect::STOP,
            member,
            number,
            name,
            ..Effect::default()
        })
    }

    /// Forgets the stops of a callback that panicked.
    pub(super) fn forget_stops(&self) {
        self.stops.take();
    }
}
