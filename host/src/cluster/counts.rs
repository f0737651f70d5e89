//! What the cluster's thread counts, for `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Since this node has started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Messages from other nodes.
    pub(super) items_in: Counter,
    /// Messages to other nodes.
    pub(super) items_out: Counter,
    /// Links that have broken.
    pub(super) breaks: Counter,
    /// What was refused because its sender was not, or did not mean, the topic's home.
    pub(super) fenced: Counter,
    /// What came on this node's subjects and no node of this cluster can have sent.
    pub(super) foreign: Counter,
    /// Questions to other nodes.
    pub(super) questions_out: Counter,
    /// Answers to them.
    pub(super) answers_in: Counter,
    /// Questions that were not answered in time.
    pub(super) questions_late: Counter,
    /// Questions to nodes that were not there.
    pub(super) questions_lost: Counter,
    /// Questions that could not be sent, or that the other node refused.
    pub(super) questions_refused: Counter,
    /// Questions of other nodes.
    pub(super) questions_in: Counter,
    /// Joins of other nodes that no route here leads to the plugin they name.
    pub(super) unrouted: Counter,
    /// Broadcasts and messages whose home could not be reached.
    pub(super) undelivered: Counter,
    /// Entries of partitions that this node has written.
    pub(super) moves: Counter,
    /// Topics that have come from another node, with their state.
    pub(super) moved_in: Counter,
    /// Topics that have gone to another node, with their state.
    pub(super) moved_out: Counter,
    /// Topics that could not be written for another node, or that it could not take.
    pub(super) refused: Counter,
    /// Topics that ended because another node had become their home.
    pub(super) superseded: Counter,
    /// Standstills that were longer than the lease allows.
    pub(super) standstills: Counter,
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("items_in", "Messages from other nodes", &self.items_in),
            ("items_out", "Messages to other nodes", &self.items_out),
            ("link_breaks", "Links to other nodes that have broken", &self.breaks),
            (
                "fenced",
                "Messages refused because of the revision of a topic's home",
                &self.fenced,
            ),
            (
                "foreign",
                "Messages on this node's subjects that no node of this cluster sent",
                &self.foreign,
            ),
            ("questions_out", "Questions to other nodes", &self.questions_out),
            ("answers_in", "Answers of other nodes", &self.answers_in),
            (
                "questions_late",
                "Questions to other nodes that were not answered in time",
                &self.questions_late,
            ),
            (
                "questions_lost",
                "Questions to nodes that were not there",
                &self.questions_lost,
            ),
            (
                "questions_refused",
                "Questions that were not sent, or that the other node refused",
                &self.questions_refused,
            ),
            ("questions_in", "Questions of other nodes", &self.questions_in),
            (
                "unrouted_joins",
                "Joins of other nodes that no route of this node allows",
                &self.unrouted,
            ),
            (
                "undelivered",
                "Broadcasts and messages whose home could not be reached",
                &self.undelivered,
            ),
            (
                "partition_writes",
                "Entries of partitions that this node has written",
                &self.moves,
            ),
            (
                "topics_moved_in",
                "Topics that have come from another node with their state",
                &self.moved_in,
            ),
            (
                "topics_moved_out",
                "Topics that have gone to another node with their state",
                &self.moved_out,
            ),
            (
                "moves_refused",
                "Topics that could not be written for another node, or that it could not take",
                &self.refused,
            ),
            (
                "superseded_topics",
                "Topics that ended because another node had become their home",
                &self.superseded,
            ),
            (
                "standstills",
                "Standstills of this node that were too long for its lease",
                &self.standstills,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
