//! What waits in a topic's mailbox.

use bennu_wire::message::{Payload, Ref};
use bytes::Bytes;
use bytestring::ByteString;

use crate::runtime::id::MemberId;

/// One thing that a topic has to handle.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client wants in.
    Join {
        /// The number it has from now on.
        member: MemberId,
        /// The join's payload.
        params: Payload,
        /// JSON of `wire::MemberInfo`, or empty.
        info: Bytes,
    },
    /// A client pushed an event.
    In {
        /// Which.
        member: MemberId,
        /// As it came, for the answer if the channel is gone.
        join_ref: Ref,
        /// What a reply repeats.
        msg_ref: Ref,
        /// The event.
        event: ByteString,
        /// What it says.
        payload: Payload,
    },
    /// A member ends.
    End(Ending),
    /// A broadcast of an intercepted event.
    Out {
        /// The event.
        event: ByteString,
        /// What it says.
        payload: Payload,
        /// Who is left out.
        except: Option<MemberId>,
    },
    /// A message or timer for the topic (`None`) or one of its members.
    Info {
        /// Whom.
        member: Option<MemberId>,
        /// Its name.
        name: ByteString,
        /// What it says.
        payload: Payload,
        /// The timer that sent it.
        timer: Option<u64>,
    },
    /// A promise is kept.
    Complete {
        /// Which.
        serial: u64,
        /// Of a reply.
        status: ByteString,
        /// The reply, or what the plugin gets back.
        payload: Payload,
    },
    /// A join that answers later has had its time.
    JoinDeadline {
        /// Its promise.
        serial: u64,
    },
    /// The topic has been empty for its linger time since `epoch`.
    Linger {
        /// Changes whenever somebody joins.
        epoch: u64,
    },
    /// Changes of the topic's presence that had to wait may be announced.
    PresenceDiff,
    /// A generation has ended: what it has promised is answered now.
    Retired {
        /// Its number.
        generation: u64,
    },
    /// The topic has been taken over by new code: the plugin may say so.
    Restored,
    /// The topic ends, in the plugin and in the directory.
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
    /// Who answers for it, and so which bound of the mailbox it counts against.
    #[must_use]
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::In { payload, .. } | Self::Join { params: payload, .. } => Origin::Client(payload.bytes().len()),
            Self::Out { .. } | Self::Info { .. } | Self::Complete { .. } => Origin::Plugin,
            _ => Origin::Host,
        }
    }
}

/// Who answers for an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client sent it, with a payload of so many bytes.
    Client(usize),
    /// Plugins did: broadcasts that are intercepted, messages and timers, kept promises.
    Plugin,
    /// It is what the host owes the topic, and as bounded as its members are.
    Host,
}

/// How a member ends.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// Which.
    pub(crate) member: MemberId,
    /// One of `abi::reason`, for `terminate`.
    pub(crate) reason: u32,
    /// The text of a stop.
    pub(crate) text: ByteString,
    /// The leave that is to be answered first.
    pub(crate) leave: Option<Box<Leave>>,
    /// What its client is told.
    pub(crate) notice: Notice,
}

/// A client's `phx_leave`.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    /// As it stands in it: the reply has it even where the channel has just ended by itself.
    pub(crate) join_ref: Ref,
    /// What the reply repeats.
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

/// What a client is told of the end of its channel, and when: `phx_close` goes out before `terminate` runs, `phx_error`
/// after it, as in Phoenix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing: the connection is gone, or its I/O thread has said so already.
    None,
    /// `phx_close`: its client stays away. With one of [`message::reason`](bennu_wire::message::reason), unless that is clear.
    Close(Option<&'static str>),
    /// `phx_error`: its client joins again. With one of [`message::reason`](bennu_wire::message::reason).
    Error(&'static str),
}
