//! The seam between nodes that ask each other: what a question means, the layers above know.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;

/// What becomes of a question: its answer, or `None` if this version of the program does not know such a question.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Answers the questions of other nodes.
pub(crate) trait Answers: fmt::Debug + Send + Sync {
    /// Answers a question. It bounds for itself how long that takes; it is dropped when nobody waits any more.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters is asked nothing")
    )]
    fn answer(&self, question: Bytes) -> Answering;
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters asks nobody")
)]
pub(crate) enum NoAnswer {
    /// No such node listens: it is gone, or its own connection to the broker is cut.
    #[error("the node is not there")]
    NoNode,
    /// It takes too long.
    #[error("the node does not answer in time")]
    Late,
    /// The broker cannot be reached from here.
    #[error("NATS cannot be reached")]
    NoBroker,
    /// Too many questions wait, here or there.
    #[error("too many questions of nodes wait (`[cluster] max_questions`, `max_queue_bytes`)")]
    TooMany,
    /// The question or its answer has too many bytes.
    #[error("a question or an answer is too large (`[cluster] max_item_bytes`)")]
    TooLarge,
    /// The other node is of another version, which does not know the question.
    #[error("the node does not know the question: it has another version")]
    Unknown,
    /// This node leaves the cluster.
    #[error("this node leaves the cluster")]
    Leaving,
}

/// Where a topic lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters has one node")
)]
pub(crate) enum Home {
    /// On this node.
    Here,
    /// On the node with this name, which is asked by this number.
    There(String, u64),
    /// Nowhere that this node could ask.
    Nowhere,
}

/// What all other nodes have said: those that answered, and the names of those that did not.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The name of each node, and its answer.
    pub(crate) answers: Vec<(String, Bytes)>,
    /// The names of the others.
    pub(crate) missing: Vec<String>,
}
