//! What the host keeps for one topic, so that it outlives the thread and the generation that serve it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bennu_wire::message::Ref;
use bytes::Bytes;

use super::presence::Presence;
use super::small::{Few, Rare, RareSet};
use super::{Caller, Charge, Input, Origin};
use crate::runtime::capsule::{self, Fence};
use crate::runtime::id::MemberId;
use crate::runtime::trace::Traced;

/// Members, presence, timers and promises of one topic.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The members, including those whose join is pending.
    pub(crate) members: Few<MemberId, Member>,
    /// The presence list as clients see it. Created with the first presence that is tracked.
    pub(crate) presence: Option<Box<Presence>>,
    /// Answers that the plugin owes.
    pub(crate) promises: Rare<u64, Promise>,
    /// The promises that nobody has kept yet. Those of the current event are among them, because a thread of the plugin may be
    /// quicker than the end of the event.
    pub(crate) awaited: RareSet<u64>,
    /// Timers that have not fired.
    pub(crate) timers: Rare<u64, Timer>,
    /// The plugin holds state of this topic.
    pub(crate) live: bool,
    /// The plugin has ended the topic for good.
    pub(crate) forgotten: bool,
    /// What the host knows of its stored state, if its plugin has any stored.
    pub(crate) stored: Option<Box<StoredState>>,
    /// The topic has come from another node, and its members are given until then to join it again.
    pub(crate) stays_until: Option<Instant>,
    /// The timer that has run since the last member left.
    pub(crate) lingering: Option<u64>,
    /// Changes whenever somebody joins, so that an old linger timer does nothing.
    pub(crate) epoch: u64,
}

/// A timer that has not fired, or whose message has not been handled.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Its member; `None` for the topic's own.
    pub(crate) member: Option<MemberId>,
    /// The same as data, if it goes with the topic into the store or to another node.
    pub(crate) stored: Option<Box<capsule::Timer>>,
}

/// What the host knows of the stored state of a topic.
#[derive(Debug, Default)]
pub(crate) struct StoredState {
    /// A hash of it, as it was stored last. `None`: nothing is stored, or nobody knows what.
    pub(crate) hash: Option<u64>,
    /// The version of that state.
    pub(crate) version: u32,
    /// A timer runs that will have the present state stored.
    pub(crate) is_due: bool,
    /// The present state is void, because it could not be stored: the topic leaves memory, and comes back as it is stored.
    pub(crate) void: bool,
    /// What is known of its entry, if several nodes write to the store.
    pub(crate) fence: Option<Arc<Fence>>,
}

impl StoredState {
    /// Nothing is known but the entry.
    #[must_use]
    pub(crate) fn fenced(fence: Arc<Fence>) -> Self {
        let fence = Some(fence);
        Self {
            fence,
            ..Self::default()
        }
    }

    /// Whether the present state may not be stored.
    #[must_use]
    pub(crate) fn is_behind(&self) -> bool {
        !self.void && (self.is_due || self.hash.is_none())
    }

    /// Whether it is known what is stored, so that another node can go on from there.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        !self.void && !self.fence.as_ref().is_some_and(|fence| fence.seen().is_unsure)
    }
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
    /// The join, if it is traced.
    pub(crate) trace: Traced,
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
        /// The event, if it is traced.
        trace: Traced,
    },
    /// The answer to a backend's call.
    Call {
        /// Who waits for it.
        caller: Caller,
        /// As above.
        by: u64,
        /// Counts the memory of the promise.
        _charge: Charge,
        /// The call, if it is traced.
        trace: Traced,
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

    /// Whether a backend waits for an answer of this topic.
    #[must_use]
    pub(crate) fn owes_answer(&self) -> bool {
        let mut promises = self.promises.values();
        promises.any(|promise| matches!(promise, Promise::Call { caller, .. } if caller.waits()))
    }

    /// Whether a client or a backend waits for an answer of this topic.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn owes_anybody(&self) -> bool {
        let mut promises = self.promises.values();
        promises.any(|promise| !matches!(promise, Promise::Call { caller, .. } if !caller.waits()))
    }

    /// Forgets a member: its presence, its timers and its promises end with it. Returns the events that waited for its pending
    /// join, and the timers that have to be cancelled.
    pub(crate) fn forget(&mut self, member: MemberId) -> (VecDeque<Input>, Vec<u64>) {
        if let Some(presence) = &mut self.presence {
            presence.leave(member);
            presence.commit();
        }
        let its = |_: &u64, promise: &mut Promise| promise.member() == Some(member);
        for (serial, _) in self.promises.extract_if(its) {
            self.awaited.remove(&serial);
        }
        let own = |_: &u64, timer: &mut Timer| timer.member == Some(member);
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

    /// The topic's own timers as data, in order of due time.
    #[must_use]
    pub(crate) fn own_timers(&self) -> Vec<capsule::Timer> {
        let mut timers: Vec<_> = { self.timers.iter() }
            .filter_map(|(number, timer)| Some((timer.stored.as_ref()?, *number)))
            .collect();
        timers.sort_by_key(|(timer, number)| (timer.due_unix_ms, *number));
        timers.into_iter().map(|(timer, _)| (**timer).clone()).collect()
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
