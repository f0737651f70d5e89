//! The host's functions that a plugin may call from any of its threads, at any time.

use bennu_plugin::abi::{Token, error};
use bennu_plugin::refused_effect;
use bennu_wire::message::Payload;
use bytes::Bytes;

use super::backtrace::Panics;
use super::env::Env;
use super::loader::{COMPLETE, HostCalls, Line, SEND, crash, said};
use super::log;
use crate::runtime::channel::{Input, Refused, Topic};
use crate::runtime::id::MemberId;

/// Stands for the host; see [`bennu_plugin::abi::Host`].
#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) env: Env,
    pub(super) panics: Panics,
}

impl HostCalls for Bridge {
    fn complete(&self, token: Token, binary: bool, status: &str, payload: &[u8]) -> i64 {
        let payload = match checked(binary, payload) {
            Ok(payload) => payload,
            Err(code) => return self.counted(COMPLETE, None, code),
        };
        let serial = token.serial;
        if token.topic == 0 {
            let known = self
                .env
                .hub
                .connects
                .complete(serial, status.into(), payload.bytes().clone());
            return if known { 0 } else { self.late() };
        }
        let Some(topic) = self.env.slot.find_number(token.topic) else {
            return self.late();
        };
        // Only once, and only if somebody still waits.
        if !topic.record().awaited.remove(&serial) {
            return self.late();
        }
        let input = Input::Complete {
            serial,
            status: status.into(),
            payload,
        };
        let pushed = topic.push(input);
        if pushed == Err(Refused::Overloaded) {
            topic.record().awaited.insert(serial);
        }
        self.counted(COMPLETE, Some(&*topic), answer(pushed))
    }

    fn most_bytes(&self) -> usize {
        self.env.slot.config().max_effect_bytes_per_event
    }

    fn refused(&self, what: &'static str, error: i64) {
        let why = || match error {
            error::LIMIT => "max_effect_bytes_per_event is reached".to_owned(),
            error => refused_effect::text(error),
        };
        self.env.refused(what, None, "", (error, why));
    }

    fn send(&self, topic: u64, member: u64, binary: bool, name: &str, payload: &[u8]) -> i64 {
        let payload = match checked(binary, payload) {
            Ok(payload) => payload,
            Err(code) => return self.counted(SEND, None, code),
        };
        let Some(topic) = self.env.slot.find_number(topic) else {
            return error::GONE;
        };
        let member = MemberId::from_number(member);
        let pushed = topic.push(Input::Info {
            member,
            name: name.into(),
            payload,
            timer: None,
        });
        self.counted(SEND, Some(&*topic), answer(pushed))
    }

    fn log(&self, level: u32, target: &str, message: &str) {
        let (plugin, message) = (&*self.env.slot.name, said(message));
        match level {
            1 => tracing::error!(plugin, target, "{message}"),
            2 => tracing::warn!(plugin, target, "{message}"),
            3 => tracing::info!(plugin, target, "{message}"),
            4 => tracing::debug!(plugin, target, "{message}"),
            _ => tracing::trace!(plugin, target, "{message}"),
        }
    }

    fn log_enabled(&self, level: u32, target: &str) -> bool {
        log::enabled(level, target)
    }

    fn record(&self, line: &Line<'_>) {
        log::write(&self.env, line);
    }

    fn panicked(&self, message: &str, place: &str) {
        let message = said(message);
        self.panics.note(&message, &said(place));
        // A panic in a callback is noted when the callback is over.
        if crash::entry_at_hand().is_none() {
            self.env.thread_panicked(&message);
        }
    }
}

impl Bridge {
    /// Counts refusals, except those of calls that only came too late.
    fn counted(&self, what: &'static str, topic: Option<&Topic>, code: i64) -> i64 {
        if matches!(code, error::INVALID | error::LIMIT) {
            let why = || match code {
                error::LIMIT => "max_mailbox_messages or max_mailbox_message_bytes is reached".to_owned(),
                error => refused_effect::text(error),
            };
            self.env.refused(what, topic, "", (code, why));
        }
        code
    }

    /// Nobody waits for the answer, or anybody ever did.
    fn late(&self) -> i64 {
        self.env.hub.metrics.late_answers.inc();
        error::GONE
    }
}

fn checked(binary: bool, payload: &[u8]) -> Result<Payload, i64> {
    if binary {
        Ok(Payload::Binary(Bytes::copy_from_slice(payload)))
    } else {
        super::effects::json(payload).map(Payload::Json)
    }
}

/// The answer to a plugin that has sent something to a topic.
fn answer(pushed: Result<(), Refused>) -> i64 {
    match pushed {
        Ok(()) => 0,
        Err(Refused::Overloaded) => error::LIMIT,
        Err(Refused::Closed) => error::GONE,
    }
}
