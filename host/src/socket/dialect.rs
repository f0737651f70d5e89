//! What differs between the dialects once a message has been read. This is the only place that knows; how messages are
//! written is the [serializers'](crate::serializer) matter.

use tokio::sync::oneshot;

use crate::config::{LongPoll, Mount};
use crate::id::MemberId;
use crate::message::Payload;
use crate::transport::longpoll::Published;

/// Which rules a client's channels follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Phoenix 1.7 and 1.8, protocol versions 1 and 2.
    Modern,
    /// Phoenix 0.11, which the seeds describe.
    Seeds,
}

/// What became of a message that was dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// The host or a channel has it.
    Taken,
    /// There is no route, or the topic is not joined, or a join was refused at once.
    Refused,
    /// A plugin is asked whether this member may join.
    Joining(MemberId),
}

impl Dialect {
    /// Whether a message is answered whose topic is not joined, or has no route. Otherwise there is silence.
    #[must_use]
    pub fn answers_unmatched(self) -> bool {
        self == Self::Modern
    }

    /// How a refused join is answered: status and response, made of what it was refused with.
    #[must_use]
    pub fn refusal(self, response: &Payload) -> (&'static str, Payload) {
        match self {
            Self::Modern => ("error", response.clone()),
            Self::Seeds => ("ignore", Payload::EMPTY),
        }
    }

    /// Whether the client can tell one join of a topic from the next. If not, a channel that gives way to the next one
    /// ends without a word: its `phx_close` would be taken for that one's.
    #[must_use]
    pub fn names_joins(self) -> bool {
        self == Self::Modern
    }

    /// Whether `phx_close` goes out after what `terminate` pushes. Otherwise before it.
    #[must_use]
    pub fn closes_last(self) -> bool {
        self == Self::Seeds
    }

    /// What long polling is configured to at a mount.
    #[must_use]
    pub fn longpoll(self, mount: &Mount) -> Option<&LongPoll> {
        match self {
            Self::Modern => mount.longpoll.as_ref(),
            Self::Seeds => mount.seeds.as_ref()?.longpoll.as_ref(),
        }
    }

    /// Answers a POST as soon as its outcome is known. Where that is the outcome of a join which nobody knows yet, gives
    /// back whom to tell, and whose it is.
    pub(crate) fn publish(self, dispatched: Dispatched, reply: Waiting) -> Option<(MemberId, Waiting)> {
        let published = match (self, dispatched) {
            (Self::Modern, _) | (Self::Seeds, Dispatched::Taken) => Published::Accepted,
            (Self::Seeds, Dispatched::Refused) => Published::Refused,
            (Self::Seeds, Dispatched::Joining(member)) => return Some((member, reply)),
        };
        // Whoever asked may have stopped waiting.
        let _ = reply.send(published);
        None
    }
}

/// The request that waits for the outcome of its message. Dropped, it is answered as if there was none.
pub(crate) type Waiting = oneshot::Sender<Published>;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, dispatched: Dispatched, expected: Option<Published>) {
        let (reply, mut answer) = oneshot::channel();
        let waits = dialect.publish(dispatched, reply);
        assert_eq!(answer.try_recv().ok(), expected, "{dialect:?} {dispatched:?}");
        assert_eq!(waits.is_some(), expected.is_none());
    }

    #[test]
    fn only_clients_of_the_seeds_are_told_the_outcome_of_what_they_posted() {
        let joining = Dispatched::Joining(MemberId::new(0, 1, 2));
        check(Dialect::Seeds, Dispatched::Taken, Some(Published::Accepted));
        check(Dialect::Seeds, Dispatched::Refused, Some(Published::Refused));
        check(Dialect::Seeds, joining, None);
        for dispatched in [Dispatched::Taken, Dispatched::Refused, joining] {
            check(Dialect::Modern, dispatched, Some(Published::Accepted));
        }
    }

    #[test]
    fn a_refused_join_is_ignored_in_the_seeds_dialect_and_explained_in_todays() {
        let reason = Payload::reason("full");
        assert_eq!(Dialect::Seeds.refusal(&reason), ("ignore", Payload::EMPTY));
        assert_eq!(Dialect::Modern.refusal(&reason), ("error", reason));
    }
}
