//! What shards have for clients, and the seam that it goes through.
//!
//! A shard knows a client by its [`MemberId`] only. Where that client is connected, and what carries the delivery there, is
//! behind an [`Outlet`]: today the inbox of an I/O thread of this host.

use std::fmt;
use std::sync::Arc;

use bennu_wire::message::{Payload, Ref};
use bytestring::ByteString;

use crate::runtime::channel::Notice;
use crate::runtime::id::MemberId;

/// The way to the clients of one owner of connections.
pub(crate) trait Outlet: fmt::Debug + Send + Sync {
    /// Takes a delivery, behind all that it has taken before, whoever sent that. May wait while the outlet is full.
    fn deliver(&self, delivery: Delivery);

    /// Has deliveries carried out at once whose wake-up the sender has put off.
    fn hurry(&self);
}

/// Something for one client, or for all subscribers of a topic.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A join is accepted: subscribe, then reply.
    Joined {
        /// Whose.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// A join is refused.
    Refused {
        /// Whose.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// Answers a message.
    Reply {
        /// Whose.
        member: MemberId,
        /// What it repeats.
        msg_ref: Ref,
        /// `ok`, `error`, or what the plugin likes.
        status: ByteString,
        /// The response.
        payload: Payload,
    },
    /// Answers a message whose channel is gone.
    Orphan {
        /// Whose it was.
        member: MemberId,
        /// Of the channel.
        topic: ByteString,
        /// As the message had it.
        join_ref: Ref,
        /// What it repeats.
        msg_ref: Ref,
        /// `error` for an event: unmatched topic. `ok` for a leave.
        status: &'static str,
    },
    /// To one client.
    Push {
        /// Whose.
        member: MemberId,
        /// The event.
        event: ByteString,
        /// What it says.
        payload: Payload,
    },
    /// To all subscribers of a topic.
    Broadcast(Arc<Broadcast>),
    /// A channel has ended: tell its client, and let nothing more in.
    Ended {
        /// Whose.
        member: MemberId,
        /// `phx_close` or `phx_error`.
        notice: Notice,
    },
    /// Nothing more comes from it.
    Gone {
        /// Who.
        member: MemberId,
    },
}

/// One message to all subscribers of a topic.
#[derive(Debug)]
pub(crate) struct Broadcast {
    /// The topic.
    pub(crate) topic: ByteString,
    /// The event.
    pub(crate) event: ByteString,
    /// What it says.
    pub(crate) payload: Payload,
    /// Who is left out.
    pub(crate) except: Option<MemberId>,
    /// Plugins, by the index of their slot, whose members get it through their `handle_out`.
    pub(crate) intercepted_by: Vec<u32>,
}

impl Delivery {
    /// Bytes of the message that it brings.
    #[must_use]
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Self::Joined { reply, .. } | Self::Refused { reply, .. } => reply.bytes().len(),
            Self::Reply { payload, .. } | Self::Push { payload, .. } => payload.bytes().len(),
            Self::Broadcast(broadcast) => broadcast.payload.bytes().len(),
            Self::Orphan { .. } | Self::Ended { .. } | Self::Gone { .. } => 0,
        }
    }
}
