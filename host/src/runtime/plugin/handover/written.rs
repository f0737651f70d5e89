//! Collects the state that a plugin writes, and notes whether a plugin could read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bennu_plugin::abi::{effect, error, reason};
use bennu_wire::message::reason::CHANNEL_CRASH;
use bytes::Bytes;
use bytestring::ByteString;

use super::TooLarge;
use crate::runtime::capsule::{MemberState, Snapshot};
use crate::runtime::channel::{Ending, Input, Notice, Topic};
use crate::runtime::id::MemberId;
use crate::runtime::plugin::loader::{Calls, Effect, Go, Outcome};

/// How writing a topic went.
pub(super) enum Wrote {
    /// Its state, if it has any.
    State(Option<Snapshot>),
    /// The plugin panicked over the state of these. The others can be written once they have ended.
    Panicked(Vec<Panic>),
    /// The plugin could not write it.
    Failed(String),
}

/// A panic while the state of a member, or of the topic, was written.
pub(super) struct Panic {
    /// `None`: the topic.
    pub(super) member: Option<MemberId>,
    pub(super) message: ByteString,
}

impl Panic {
    /// The end of its member.
    pub(super) fn end(&self) -> Option<Input> {
        let ending = Ending::new(self.member?, reason::PANICKED, Notice::Error(CHANNEL_CRASH));
        let text = self.message.clone();
        Some(Input::End(Ending { text, ..ending }))
    }
}

/// Takes what the plugin writes, and how it went.
#[derive(Default)]
pub(super) struct Written {
    shared: Option<Bytes>,
    members: Vec<MemberState>,
    /// Promises that the plugin has found in the state.
    pub(super) promises: Vec<u64>,
    /// How much may still be written, if that is limited. State beyond that is left out, and the plugin is not told.
    bytes_left: Option<Arc<AtomicUsize>>,
    /// The topic's own state was left out.
    pub(super) too_large: Option<TooLarge>,
    pub(super) done: usize,
    /// The event that failed, and whether that was a panic.
    failed: Option<(String, bool)>,
    /// Panics over the state of single members.
    panics: Vec<Panic>,
}

impl Written {
    /// Takes only as many bytes as `bytes_left` says.
    pub(super) fn up_to(bytes_left: &Arc<AtomicUsize>) -> Self {
        Self {
            bytes_left: Some(Arc::clone(bytes_left)),
            ..Self::default()
        }
    }

    /// Takes room for so many bytes, if there is any.
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes_left.as_ref().is_none_or(|left| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
                .is_ok()
        })
    }

    pub(super) fn failure(&mut self) -> Option<String> {
        self.failed.take().map(|(why, _)| why)
    }

    /// How writing `topic` went.
    pub(super) fn wrote(self, version: u32, topic: &Topic) -> Wrote {
        match (self.failed, self.shared) {
            (Some((why, true)), _) => {
                let message = why.into();
                Wrote::Panicked(vec![Panic { member: None, message }])
            }
            (Some((why, false)), _) => Wrote::Failed(why),
            _ if !self.panics.is_empty() => Wrote::Panicked(self.panics),
            (None, None) => Wrote::Failed("no state was written".to_owned()),
            (None, Some(shared)) => Wrote::State(Some(Snapshot {
                version,
                handled: topic.handled(),
                shared,
                members: self.members,
            })),
        }
    }
}

impl Calls for Written {
    fn done(&mut self, index: usize, outcome: Outcome, message: &str) -> Go {
        self.done = index + 1;
        if outcome == Outcome::Ok {
            return Go::On;
        }
        self.failed = Some((message.to_owned(), outcome == Outcome::Panicked));
        Go::Back
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        match effect.kind {
            effect::STATE => {}
            effect::PROMISE_READ => {
                self.promises.push(effect.token);
                return 0;
            }
            // The topic's own state comes first. While state is read, there is none.
            effect::STOP if effect.number == u64::from(reason::PANICKED) && self.shared.is_some() => {
                self.panics.push(Panic {
                    member: MemberId::from_number(effect.member),
                    message: effect.name.into(),
                });
                return 0;
            }
            _ => return error::MISPLACED,
        }
        let (member, bytes) = (MemberId::from_number(effect.member), effect.payload.len());
        if self.too_large.is_some() || !self.has_room(bytes) {
            if member.is_none() {
                self.too_large = Some(TooLarge(bytes));
            }
            return 0;
        }
        let state = Bytes::copy_from_slice(effect.payload);
        match member {
            None => self.shared = Some(state),
            Some(member) => {
                let info = Bytes::new();
                self.members.push(MemberState { member, state, info });
            }
        }
        0
    }

    fn read(&mut self, _what: u32, _key: &str, _out: &mut Vec<u8>) -> i64 {
        error::MISPLACED
    }
}
