//! What the host keeps for one topic, so that it outlives the thread and the generation that serve it.

use std::collections::{HashMap, HashSet, VecDeque};

use bennu_wire::message::Ref;
use bytes::Bytes;

use super::Input;
use super::presence::Presence;
use crate::runtime::id::MemberId;

/// Members, presence, timers and promises of one topic.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Who is in, or about to be.
    pub(crate) members: HashMap<MemberId, Member>,
    /// Who is here, as clients see it. Made with the first that is tracked.
    pub(crate) presence: Option<Box<Presence>>,
    /// Answers that the plugin owes.
    pub(crate) promises: HashMap<u64, Promise>,
    /// Those that nobody has kept yet, those of the event at hand included: a thread of the plugin may be quicker than that.
    pub(crate) awaited: HashSet<u64>,
    /// Timers that have not fired, and whose they are: the topic's own where nobody's.
    pub(crate) timers: HashMap<u64, Option<MemberId>>,
    /// The plugin holds state of this topic.
    pub(crate) live: bool,
    /// The timer that has run since the last of its members left.
    pub(crate) lingering: Option<u64>,
    /// Changes whenever somebody joins, so that an old linger timer does nothing.
    pub(crate) epoch: u64,
}

/// One client in the topic.
#[derive(Debug)]
pub(crate) enum Member {
    /// Its join answers later.
    Pending(Box<PendingJoin>),
    /// It is in. With its `info`, for a reload.
    Joined(Bytes),
}

/// A join that answers later.
#[derive(Debug)]
pub(crate) struct PendingJoin {
    /// JSON of `wire::MemberInfo`, or empty.
    pub(crate) info: Bytes,
    /// What its client sent in the meantime.
    pub(crate) waiting: VecDeque<Input>,
}

/// An answer that the plugin owes.
#[derive(Debug)]
pub(crate) enum Promise {
    /// To an event.
    Reply {
        /// Whose.
        member: MemberId,
        /// What the reply repeats.
        msg_ref: Ref,
        /// The generation that answers for it; 0: nobody, it is data on its way.
        by: u64,
    },
    /// To a join.
    Join {
        /// Whose.
        member: MemberId,
        /// As above.
        by: u64,
    },
}

impl Promise {
    /// The generation that answers for it; 0: nobody, it is data on its way.
    #[must_use]
    pub(crate) fn by(&self) -> u64 {
        match self {
            Self::Reply { by, .. } | Self::Join { by, .. } => *by,
        }
    }

    /// Another generation answers for it.
    pub(crate) fn pass_to(&mut self, generation: u64) {
        match self {
            Self::Reply { by, .. } | Self::Join { by, .. } => *by = generation,
        }
    }
}

impl Record {
    /// The presence list, made where there is none.
    pub(crate) fn presence_mut(&mut self) -> &mut Presence {
        self.presence.get_or_insert_default()
    }

    /// Forgets a member: its presence, its timers and what it is owed end with it. Returns what waited for its pending
    /// join, and the timers to be cancelled.
    pub(crate) fn forget(&mut self, member: MemberId) -> (VecDeque<Input>, Vec<u64>) {
        if let Some(presence) = &mut self.presence {
            presence.leave(member);
            presence.commit();
        }
        if !self.promises.is_empty() {
            let awaited = &mut self.awaited;
            self.promises.retain(|serial, promise| {
                let (Promise::Reply { member: owner, .. } | Promise::Join { member: owner, .. }) = promise;
                if *owner == member {
                    awaited.remove(serial);
                }
                *owner != member
            });
        }
        let own = |_: &u64, owner: &mut Option<MemberId>| *owner == Some(member);
        let timers = self.timers.extract_if(own).map(|(number, _)| number).collect();
        let waiting = match self.members.remove(&member) {
            Some(Member::Pending(pending)) => pending.waiting,
            _ => VecDeque::new(),
        };
        (waiting, timers)
    }

    /// Whether the plugin knows the member and may send to it.
    #[must_use]
    pub(crate) fn is_in(&self, member: MemberId) -> bool {
        matches!(self.members.get(&member), Some(Member::Joined(_)))
    }
}
