//! What shards send to clients, and the seam that it goes through.
//!
//! A shard knows a client only by its [`MemberId`]. An [`Outlet`] hides where that client is connected and what carries the
//! delivery there: today it is the inbox of an I/O thread of this host.

use std::fmt;
use std::sync::Arc;

use bennu_wire::message::{Payload, Ref, RefText};
use bytestring::ByteString;

use crate::runtime::channel::{HEAD, Notice};
use crate::runtime::id::MemberId;
use crate::runtime::reach::Reach;

/// The way to the clients of one I/O thread.
pub(crate) trait Outlet: fmt::Debug + Send + Sync {
    /// Takes a delivery. It arrives behind all deliveries that the outlet took before, from any sender. May wait while the outlet
    /// is full.
    fn deliver(&self, delivery: Delivery);

    /// Wakes the outlet at once, if a sender has put that off.
    fn hurry(&self);
}

/// Something for one client, or for all subscribers of a topic.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A join is accepted: subscribe, then reply.
    Joined {
        /// The member.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// A join is refused.
    Refused {
        /// The member that it would have been.
        member: MemberId,
        /// The response.
        reply: Payload,
    },
    /// Answers a message.
    Reply {
        /// The sender of the message.
        member: MemberId,
        /// Its `ref`.
        msg_ref: Ref,
        /// `ok`, `error`, or the plugin's own.
        status: ByteString,
        /// The response.
        payload: Payload,
    },
    /// Answers a message whose channel is gone.
    Orphan {
        /// The sender of the message.
        member: MemberId,
        /// The topic of the channel.
        topic: ByteString,
        /// As the message had it.
        join_ref: Ref,
        /// The `ref` of the message.
        msg_ref: Ref,
        /// `error` for an event (unmatched topic), `ok` for a leave.
        status: &'static str,
    },
    /// A message to one client.
    Push {
        /// The receiver.
        member: MemberId,
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
    },
    /// A message to all subscribers of a topic.
    Broadcast(Arc<Broadcast>),
    /// A channel has ended: tell its client, and take no more messages for it.
    Ended {
        /// The member.
        member: MemberId,
        /// `phx_close` or `phx_error`.
        notice: Notice,
    },
    /// No further delivery comes for this member.
    Gone {
        /// The member.
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
    /// Its payload.
    pub(crate) payload: Payload,
    /// The member that does not receive it.
    pub(crate) except: Option<MemberId>,
    /// Plugins, by the index of their slot, whose members receive it through `handle_out` instead.
    pub(crate) intercepted_by: Vec<u32>,
    /// Counts whom it reaches, if the sender wants to know.
    pub(crate) reach: Option<Reach>,
}

impl Delivery {
    /// What its message takes in bytes: payload, texts, and what else the payload may keep.
    #[must_use]
    pub(crate) fn message_bytes(&self) -> usize {
        let text = |msg_ref: &Ref| msg_ref.as_ref().map_or(0, RefText::allocated);
        HEAD + match self {
            Self::Joined { reply, .. } | Self::Refused { reply, .. } => reply.bytes().len(),
            Self::Reply {
                msg_ref,
                status,
                payload,
                ..
            } => text(msg_ref) + status.len() + payload.bytes().len(),
            Self::Push { event, payload, .. } => event.len() + payload.bytes().len(),
            Self::Broadcast(broadcast) => {
                size_of::<Broadcast>() + broadcast.event.len() + broadcast.payload.bytes().len()
            }
            Self::Orphan { join_ref, msg_ref, .. } => text(join_ref) + text(msg_ref),
            Self::Ended { .. } | Self::Gone { .. } => 0,
        }
    }
}
