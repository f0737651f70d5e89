//! How a partition moves from its home to another node, with the state of its topics.
//!
//! 1. The home lets nobody enter the partition's topics any more, and holds one topic after the other while its plugin writes it. Each
//!    goes to the next home as a [capsule](crate::runtime::capsule). Topics whose turn has not come are served meanwhile.
//! 2. The next home has its own plugin read each capsule at once, and says whether it could. It holds what it has read.
//! 3. Once all are read, the home writes the partition's entry by compare-and-set: the next home, *and the move that brings the
//!    state*, a [`MoveId`]. That write decides. If it is made, the next home releases what it has read under that very move, and the
//!    old one tells its members. If not, the old home releases what it holds, and nobody has noticed.
//!
//! **Exactly one of the two keeps the state**, and the entry in the bucket says which:
//!
//! * *It names the move*: the next home. It keeps what it has read until it sees the entry, even if the link breaks or the old home is
//!   killed right after the write. So nothing is lost but what clients had sent to topics that were held, which is answered as long as
//!   the old home lives.
//! * *It names anything else, under another revision*: not the next home. What it has read is dropped: the state may be older than what
//!   the old home has done since. If the old home is killed between the last capsule and the write, its topics are lost as they are
//!   whenever a home is killed.
//! * *It is as it was*: the old home. Before the write is sent it stops the move at will. After that, if the broker has not said what
//!   became of the write, it writes its own name under the same revision: of the two writes only one can be made.
//!
//! If the broker does not say for so long that the old home goes on without it, a topic may live twice for a while, as it does
//! whenever the home's way to the broker is cut. `exchange/giving.rs` is the home's half, `exchange/taking.rs` that of the next home.

use ::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::node::NodeId;
use crate::runtime::capsule::bytes;

/// One move of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MoveId {
    /// The run of the home that gives it away.
    pub(crate) by: NodeId,
    /// Counted by that.
    pub(crate) number: u64,
}

/// What the entry of a partition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stands {
    /// The home.
    pub(crate) home: NodeId,
    /// The move with which it came there. `None`: it was taken, and nobody brings state.
    pub(crate) by: Option<MoveId>,
}

impl Stands {
    /// The entry's text.
    #[must_use]
    pub(crate) fn write(&self) -> String {
        match &self.by {
            None => self.home.to_string(),
            Some(MoveId { by, number }) => format!("{} {by} {number}", self.home),
        }
    }

    /// Reads the entry. `None`: no node has written it.
    #[must_use]
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let home = NodeId::parse(words.next()?)?;
        let by = match words.next() {
            None => None,
            Some(by) => {
                let (by, number) = (NodeId::parse(by)?, words.next()?.parse().ok()?);
                Some(MoveId { by, number })
            }
        };
        words.next().is_none().then_some(Self { home, by })
    }
}

/// What two nodes tell each other of moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Moving {
    /// From the home: a topic, with its state.
    Topic {
        /// The number of the move.
        number: u64,
        /// The partition that moves.
        partition: u16,
        /// Under which the sender is its home.
        revision: u64,
        /// Which topic of the move.
        index: u32,
        /// The topic.
        #[serde(with = "bytes")]
        capsule: Bytes,
    },
    /// To the home: what became of a topic.
    Read {
        /// The number of the move.
        number: u64,
        /// The partition that moves.
        partition: u16,
        /// Which topic.
        index: u32,
        /// Whether it was read.
        verdict: Verdict,
    },
    /// From the home: the partition stays.
    Stays {
        /// The number of the move.
        number: u64,
        /// The partition.
        partition: u16,
    },
    /// To the old home: the new one serves the topics.
    Arrived {
        /// The number of the move.
        number: u64,
        /// The partition.
        partition: u16,
    },
    /// To all: this node is about to leave, and is given nothing any more.
    Leaving,
}

/// Whether the next home has read a capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It has.
    Read,
    /// It may later.
    Later,
    /// It cannot, for this reason.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_is_written_and_nothing_else_is() {
        let (home, by) = (NodeId::new("b", 2), NodeId::new("a-1", 1));
        for by in [None, Some(MoveId { by, number: 17 })] {
            let stands = Stands { home: home.clone(), by };
            assert_eq!(Stands::read(&stands.write()), Some(stands));
        }
        let known = home.as_str();
        for text in [
            "",
            "b",
            &format!("{known} "),
            &format!("{known} {known}"),
            &format!("{known} {known} x"),
            &format!("{known} {known} 1 2"),
        ] {
            assert_eq!(Stands::read(text), None, "{text}");
        }
    }
}
