//! Several hosts as one server: this host as a node of a cluster over NATS.
//!
//! A topic has one *home*, whichever node its clients are on. Topics hash to [`partitions`]; a bucket of the broker says which node
//! is the home of each, and the revision of that entry is the fencing token. `host/docs/cluster.md` says what is promised;
//! `host/ARCHITECTURE.md` has the threads and what crosses between them. From the top:
//!
//! 1. [`Cluster`] (`member.rs`): joins and leaves; and the seam of the runtime, `Homes`: where each topic lives.
//! 2. [`exchange`]: the cluster's thread, which owns all that is between this node and others.
//! 3. [`lease`]: the thread that renews this node's lease, and nothing else. [`gate`]: holds shards back after a standstill.
//! 4. [`watch`] and [`broker`]: the buckets. [`table`]: what they say, for all threads.
//! 5. [`outbox`]: what threads of this host have for other nodes; [`mailboxes`]: what its clients have for topics there. [`link`], [`envelope`], [`item`]: what goes between two nodes.
//! 6. [`asks`]: what nodes ask each other; [`answers`]: the seam to the layers above, which know what a question means.
//! 7. [`moving`]: how a partition moves from one node to another, with the state of its topics.
//! 8. [`stored`]: where topics are kept that outlive their home.
//!
//! A build without the feature `cluster` has none of it, and a host without `[cluster]` pays one branch where a topic is looked up.

#[cfg(not(feature = "cluster"))]
mod absent;
mod answers;
#[cfg(feature = "cluster")]
mod asks;
#[cfg(feature = "cluster")]
mod broker;
#[cfg(feature = "cluster")]
mod counts;
#[cfg(feature = "cluster")]
mod envelope;
#[cfg(feature = "cluster")]
mod exchange;
#[cfg(feature = "cluster")]
mod fault;
#[cfg(feature = "cluster")]
mod gate;
#[cfg(feature = "cluster")]
mod item;
#[cfg(feature = "cluster")]
mod lease;
#[cfg(feature = "cluster")]
mod link;
#[cfg(feature = "cluster")]
mod mailboxes;
#[cfg(feature = "cluster")]
mod member;
#[cfg(feature = "cluster")]
mod moving;
#[cfg(feature = "cluster")]
mod node;
#[cfg(feature = "cluster")]
mod outbox;
#[cfg(feature = "cluster")]
mod partitions;
#[cfg(feature = "cluster")]
mod stored;
#[cfg(feature = "cluster")]
mod table;
#[cfg(feature = "cluster")]
mod watch;

#[cfg(not(feature = "cluster"))]
pub(crate) use absent::{Cluster, ClusterError};
pub(crate) use answers::{Answering, Answers, Home, NoAnswer};
#[cfg(feature = "cluster")]
pub(crate) use broker::ClusterError;
#[cfg(feature = "cluster")]
pub(crate) use member::Cluster;
