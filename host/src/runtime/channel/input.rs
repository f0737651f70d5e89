//! What waits in a topic's mailbox.

use bennu_wire::message::{Payload, Ref, RefText};
use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use super::Caller;
use crate::runtime::id::MemberId;
use crate::runtime::trace::{Traced, bytes_of};

/// What a client's input takes besides its frame: its place in a queue, which may have twice as many places as it needs, and
/// what the allocator and the frame's reference count add.
const PLACE: usize = 2 * size_of::<Input>() + 64;

/// The most that a frame may have besides a small payload if the payload alone is kept: refs, topic and event, usually.
pub(crate) const HEAD: usize = 64;

/// What a call does where there is no topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Create {
    /// It is refused.
    No,
    /// It makes the topic, which stays for its linger time.
    Yes,
    /// It makes the topic, which ends with the call.
    Passing,
}

/// One thing that a topic has to handle.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client asks to join.
    Join {
        /// The member that it becomes.
        member: MemberId,
        /// The join's payload.
        params: Payload,
        /// JSON of `wire::MemberInfo`, or empty.
        info: Bytes,
        /// The size of the frame that `params` is a slice of.
        frame_bytes: usize,
        /// The join, if it is traced.
        trace: Traced,
    },
    /// A client pushed an event.
    In {
        /// The sender.
        member: MemberId,
        /// As it came, for the answer if the channel is gone.
        join_ref: Ref,
        /// The `ref` for a reply.
        msg_ref: Ref,
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
        /// The size of the frame that `event` and `payload` are slices of.
        frame_bytes: usize,
        /// The event, if it is traced.
        trace: Traced,
    },
    /// A member's client has shown a new token.
    Claims {
        /// The member.
        member: MemberId,
        /// JSON of `wire::MemberInfo` from now on.
        info: Bytes,
    },
    /// A backend asks the topic.
    Call {
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
        /// Whether a topic that does not exist is made.
        create: Create,
        /// Who waits for the answer.
        caller: Caller,
        /// The call, if it is traced.
        trace: Traced,
    },
    /// A member ends.
    End(Ending),
    /// A broadcast of an intercepted event.
    Out {
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
        /// The member that does not receive it.
        except: Option<MemberId>,
    },
    /// A message or timer for the topic (`None`) or one of its members.
    Info {
        /// The receiver.
        member: Option<MemberId>,
        /// The name of the message.
        name: ByteString,
        /// Its payload.
        payload: Payload,
        /// The timer that sent it.
        timer: Option<u64>,
    },
    /// The plugin keeps a promise.
    Complete {
        /// The promise.
        serial: u64,
        /// The status of a reply.
        status: ByteString,
        /// The reply, or what the plugin gets back.
        payload: Payload,
    },
    /// A pending join has reached its deadline.
    JoinDeadline {
        /// The join's promise.
        serial: u64,
    },
    /// The topic has been empty for its linger time since `epoch`.
    Linger {
        /// Changes whenever somebody joins.
        epoch: u64,
    },
    /// Presence changes that had to wait may be announced.
    PresenceDiff,
    /// A generation has ended: the host answers what it promised.
    Retired {
        /// Its number.
        generation: u64,
    },
    /// New code has taken over the topic: the plugin may react.
    Restored,
    /// The present state is to be stored.
    Checkpoint,
    /// The store asks for the topic: a timer of it is due, or its time is over. That is nothing to a topic in memory. One that is
    /// leaving comes back for it.
    Look,
    /// The topic leaves memory, whoever is in it.
    Leave,
    /// The topic ends, in the plugin and in the directory. Its last word is spoken, and its state is stored if it has to be.
    Close,
    /// All members end, then the topic.
    EndAll {
        /// One of `abi::reason`.
        reason: u32,
        /// What their clients are told.
        notice: Notice,
    },
}

impl Input {
    /// A message of another topic for the topic.
    #[must_use]
    pub(crate) fn info(name: ByteString, payload: Payload) -> Self {
        Self::Info {
            member: None,
            name,
            payload,
            timer: None,
        }
    }

    /// Whether the host reminds itself of something that a topic without members and state has no need of.
    #[must_use]
    pub(crate) fn is_reminder(&self) -> bool {
        matches!(self, Self::Linger { .. } | Self::Checkpoint | Self::PresenceDiff)
    }

    /// Its span, if it is traced.
    #[must_use]
    pub(crate) fn trace(&self) -> &Traced {
        match self {
            Self::Join { trace, .. } | Self::In { trace, .. } | Self::Call { trace, .. } => trace,
            _ => &None,
        }
    }

    /// Who sent it, and so which bound of the mailbox it counts against, with its memory in bytes while it waits.
    #[must_use]
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::In {
                msg_ref,
                frame_bytes,
                trace,
                ..
            } => {
                let allocated = msg_ref.as_ref().map_or(0, RefText::allocated);
                Origin::Client(PLACE + frame_bytes + allocated + bytes_of(trace))
            }
            Self::Join {
                info,
                frame_bytes,
                trace,
                ..
            } => Origin::Client(PLACE + frame_bytes + info.len() + bytes_of(trace)),
            // As a client's, so that backends cannot keep a plugin's own messages out.
            Self::Call {
                event, payload, trace, ..
            } => Origin::Client(PLACE + event.len() + payload.bytes().len() + bytes_of(trace)),
            Self::Out {
                event: name, payload, ..
            }
            | Self::Info { name, payload, .. }
            | Self::Complete {
                status: name, payload, ..
            } => Origin::Plugin(PLACE + name.len() + payload.bytes().len()),
            _ => Origin::Host,
        }
    }

    /// Whether `payload`, its own, is most of the memory that it is a slice of. If not, whoever keeps the payload should copy it.
    #[must_use]
    pub(crate) fn is_mostly(&self, payload: &Payload) -> bool {
        let bytes = payload.bytes().len();
        match self {
            Self::In { frame_bytes, .. } | Self::Join { frame_bytes, .. } => *frame_bytes <= bytes + bytes / 4 + HEAD,
            _ => true,
        }
    }
}

/// Who sent an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client, or a backend that calls.
    Client(usize),
    /// A plugin: intercepted broadcasts, messages and timers, kept promises.
    Plugin(usize),
    /// The host owes it to the topic. There are as many as the topic has members, and a few more.
    Host,
}

/// How a member ends.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// The member.
    pub(crate) member: MemberId,
    /// One of `abi::reason`, for `terminate`.
    pub(crate) reason: u32,
    /// The text of a stop.
    pub(crate) text: ByteString,
    /// The leave that has to be answered first.
    pub(crate) leave: Option<Box<Leave>>,
    /// What its client is told.
    pub(crate) notice: Notice,
}

/// A client's `phx_leave`.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    /// The `join_ref` of the leave: the reply carries it even if the channel has just ended by itself.
    pub(crate) join_ref: Ref,
    /// The `ref` for the reply.
    pub(crate) msg_ref: Ref,
}

impl Ending {
    /// An ending that the client is told of as `notice` says.
    #[must_use]
    pub(crate) fn new(member: MemberId, reason: u32, notice: Notice) -> Self {
        Self {
            member,
            reason,
            text: ByteString::new(),
            leave: None,
            notice,
        }
    }
}

/// What a client is told of the end of its channel, and when: `phx_close` is sent before `terminate` runs, `phx_error` after it,
/// as in Phoenix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing: the connection is gone, or its I/O thread has told the client already.
    None,
    /// `phx_close`: its client stays away. With one of [`message::reason`](bennu_wire::message::reason), unless that is clear.
    Close(Option<&'static str>),
    /// `phx_error`: its client joins again. With one of [`message::reason`](bennu_wire::message::reason).
    Error(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_payload_of_a_large_frame_is_copied_by_those_who_keep_it() {
        let is_mostly = |payload: usize, frame_bytes: usize| {
            let input = Input::In {
                member: MemberId::new(0, 1, 1),
                join_ref: None,
                msg_ref: None,
                event: "e".into(),
                payload: Payload::Json(vec![b' '; payload].into()),
                frame_bytes,
                trace: None,
            };
            let Input::In { payload, .. } = &input else {
                unreachable!()
            };
            input.is_mostly(payload)
        };
        assert!(is_mostly(2, 40), "refs, topic and event are always there");
        assert!(is_mostly(10_000, 11_000));
        assert!(!is_mostly(2, 1_000));
        assert!(!is_mostly(10_000, 20_000));
    }
}
