//! What the host keeps for one topic, so that it outlives the thread and the generation that serve it.

use std::collections::{HashMap, HashSet, VecDeque};

use bennu_wire::message::Ref;
use bytes::Bytes;

use super::presence::Presence;
use super::{Caller, Charge, Input, Origin};
use crate::runtime::id::MemberId;

/// Members, presence, timers and promises of one topic.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The members, including those whose join is pending.
    pub(crate) members: HashMap<MemberId, Member>,
    /// The presence list as clients see it. Created with the first presence that is tracked.
    pub(crate) presence: Option<Box<Presence>>,
    /// Answers that the plugin owes.
    pub(crate) promises: HashMap<u64, Promise>,
    /// The promises that nobody has kept yet. Those of the current event are among them, because a thread of the plugin may be
    /// quicker than the end of the event.
    pub(crate) awaited: HashSet<u64>,
    /// Timers that have not fired, and their members; `None` for the topic's own.
    pub(crate) timers: HashMap<u64, Option<MemberId>>,
    /// The plugin holds state of this topic.
    pub(crate) live: bool,
    /// The timer that has run since the last member left.
    pub(crate) lingering: Option<u64>,
    /// Changes whenever somebody joins, so that an old linger timer does nothing.
    pub(crate) epoch: u64,
}

/// One client in the topic.
#[derive(Debug)]
pub(crate) enum Member {
    /// Its join is answered later.
    Pending(Box<PendingJoin>),
    /// It has joined. With its `info`, for a reload.
    Joined(Bytes),
}

/// A join that is answered later.
#[derive(Debug)]
pub(crate) struct PendingJoin {
    /// JSON of `wire::MemberInfo`, or empty.
    pub(crate) info: Bytes,
    /// Events that the client sent in the meantime.
    pub(crate) waiting: VecDeque<Input>,
    /// Counts the memory of these.
    pub(crate) charge: Charge,
    /// The timer of its deadline.
    pub(crate) deadline: u64,
}

/// An answer that the plugin owes.
#[derive(Debug)]
pub(crate) enum Promise {
    /// A reply to an event.
    Reply {
        /// The sender of the event.
        member: MemberId,
        /// The `ref` for the reply.
        msg_ref: Ref,
        /// The generation that will answer; 0 for none, while the promise is data on its way.
        by: u64,
        /// Counts the memory of the promise.
        _charge: Charge,
    },
    /// The answer to a backend's call.
    Call {
        /// Who waits for it.
        caller: Caller,
        /// As above.
        by: u64,
        /// Counts the memory of the promise.
        _charge: Charge,
    },
    /// The answer to a join.
    Join {
        /// The member that joins.
        member: MemberId,
        /// As above.
        by: u64,
    },
}

impl Promise {
    /// What one takes with its place in the map, in bytes, besides its `ref`.
    pub(crate) const BYTES: usize = 3 * size_of::<(u64, Self)>();

    /// The generation that will answer; 0 for none, while the promise is data on its way.
    #[must_use]
    pub(crate) fn by(&self) -> u64 {
        match self {
            Self::Reply { by, .. } | Self::Call { by, .. } | Self::Join { by, .. } => *by,
        }
    }

    /// The member that it is made to; a backend is none.
    fn member(&self) -> Option<MemberId> {
        match self {
            Self::Reply { member, .. } | Self::Join { member, .. } => Some(*member),
            Self::Call { .. } => None,
        }
    }

    /// Another generation will answer.
    pub(crate) fn pass_to(&mut self, generation: u64) {
        match self {
            Self::Reply { by, .. } | Self::Call { by, .. } | Self::Join { by, .. } => *by = generation,
        }
    }
}

impl PendingJoin {
    /// Keeps an event until the join is answered.
    pub(crate) fn keep(&mut self, input: Input) {
        if let Origin::Client(bytes) = input.origin() {
            self.charge.grow(bytes);
        }
        self.waiting.push_back(input);
    }
}

impl Record {
    /// The presence list, created if there is none.
    pub(crate) fn presence_mut(&mut self) -> &mut Presence {
        self.presence.get_or_insert_default()
    }

    /// Forgets a member: its presence, its timers and its promises end with it. Returns the events that waited for its pending
    /// join, and the timers that have to be cancelled.
    pub(crate) fn forget(&mut self, member: MemberId) -> (VecDeque<Input>, Vec<u64>) {
        if let Some(presence) = &mut self.presence {
            presence.leave(member);
            presence.commit();
        }
        if !self.promises.is_empty() {
            let awaited = &mut self.awaited;
            self.promises.retain(|serial, promise| {
                let is_its = promise.member() == Some(member);
                if is_its {
                    awaited.remove(serial);
                }
                !is_its
            });
        }
        let own = |_: &u64, owner: &mut Option<MemberId>| *owner == Some(member);
        let mut timers: Vec<u64> = self.timers.extract_if(own).map(|(number, _)| number).collect();
        let waiting = match self.members.remove(&member) {
            Some(Member::Pending(pending)) => {
                timers.push(pending.deadline);
                pending.waiting
            }
            _ => VecDeque::new(),
        };
        (waiting, timers)
    }

    /// How many members have joined.
    #[must_use]
    pub(crate) fn joined(&self) -> usize {
        let joined = |member: &&Member| matches!(member, Member::Joined(_));
        self.members.values().filter(joined).count()
    }

    /// Whether the plugin knows the member and may send to it.
    #[must_use]
    pub(crate) fn is_in(&self, member: MemberId) -> bool {
        matches!(self.members.get(&member), Some(Member::Joined(_)))
    }
}
