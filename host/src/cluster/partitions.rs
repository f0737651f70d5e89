//! Which partition a topic is in, and which node should be a partition's home.
//!
//! Both are functions of names alone, so that all nodes come to the same answer. Which node *is* the home stands in the broker's
//! bucket, and nowhere else.

use sha2::{Digest as _, Sha256};

/// The partition of a topic, of so many. It never changes: the nodes of a cluster may be of different builds.
#[must_use]
pub(crate) fn partition_of(topic: &str, partitions: u16) -> u16 {
    // Below `partitions`, which has 16 bits.
    (crc32fast::hash(topic.as_bytes()) % u32::from(partitions)) as u16
}

/// The node of these that should be the home of a partition: the one whose name draws the highest lot for it. A node that comes or
/// goes changes only the partitions that it wins or had won.
#[must_use]
pub(crate) fn winner<'n>(partition: u16, nodes: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // The name decides between equal lots.
    nodes.into_iter().max_by_key(|node| (lot(partition, node), *node))
}

fn lot(partition: u16, node: &str) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(partition.to_be_bytes());
    hash.update(node.as_bytes());
    let mut lot = [0; 8];
    lot.copy_from_slice(&hash.finalize()[..8]);
    lot
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const PARTITIONS: u16 = 256;

    fn homes(nodes: &BTreeSet<String>) -> Vec<Option<&str>> {
        { 0..PARTITIONS }
            .map(|partition| winner(partition, nodes.iter().map(String::as_str)))
            .collect()
    }

    #[test]
    fn a_topic_is_where_it_always_was() {
        // Whoever changes these takes every topic of a running cluster to another partition.
        let found = ["", "room:lobby", "room:1", "é"].map(|topic| partition_of(topic, PARTITIONS));
        assert_eq!(found, [0, 181, 144, 62]);
        assert_eq!(winner(7, ["a", "b", "c"]), Some("b"));
    }

    #[test]
    fn partitions_are_spread_over_the_nodes() {
        let nodes: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for home in homes(&nodes) {
            *counts.entry(home.expect("one of them")).or_default() += 1;
        }
        assert!(
            counts.len() == 3 && counts.values().all(|count| *count > 50),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn a_node_that_comes_or_goes_moves_only_its_own_partitions(
            nodes in prop::collection::btree_set("[a-z]{1,3}", 1..8),
            other in "[A-Z]{1,3}",
        ) {
            let more: BTreeSet<String> = nodes.iter().cloned().chain([other.clone()]).collect();
            for (before, after) in homes(&nodes).into_iter().zip(homes(&more)) {
                prop_assert!(before == after || after == Some(&*other));
            }
        }

        #[test]
        fn nobody_asks_in_which_order(mut nodes in prop::collection::vec("[a-z]{1,3}", 1..8), partition in 0..PARTITIONS) {
            let one = winner(partition, nodes.iter().map(String::as_str)).map(str::to_owned);
            nodes.reverse();
            prop_assert_eq!(winner(partition, nodes.iter().map(String::as_str)).map(str::to_owned), one);
        }
    }
}
