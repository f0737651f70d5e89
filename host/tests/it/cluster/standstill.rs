//! A node that is stopped for longer than its lease, and goes on.

use std::time::Duration;

use serde_json::json;

use super::{LEASE_MS, join_again, named, patiently, topic_at, two};
use crate::support::http::metric;

#[tokio::test]
async fn a_node_that_stood_still_for_too_long_does_not_go_on_as_home() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut ann = a.join(&topic, named("ann")).await;
    let mut bob = b.join(&topic, named("bob")).await;
    bob.push(&topic, "new_msg", json!({ "body": "before" })).await;
    ann.event(&topic, "new_msg").await;
    let meanwhile = async {
        // It waits in the socket until the node goes on.
        let reference = ann.start(&topic, "new_msg", json!({ "body": "too late" })).await;
        patiently("word of the end", bob.event(&topic, "phx_error")).await;
        let joined = join_again(&mut bob, &topic, named("bob")).await;
        assert_eq!(joined["history"], json!([]), "its state is gone with its home");
        bob.push(&topic, "new_msg", json!({ "body": "elsewhere" })).await;
        reference
    };
    let mut reference = String::new();
    let stopped = Duration::from_millis(LEASE_MS * 3);
    a.server
        .stand_still(stopped, async {
            reference = meanwhile.await;
        })
        .await;
    let error = patiently("word of the end", ann.event(&topic, "phx_error")).await;
    assert_eq!(error, json!({ "reason": "node lost" }));
    let reply = ann.answer(&reference).await;
    assert_eq!(reply["response"]["reason"], "unmatched topic", "nobody handled it");
    let joined = join_again(&mut ann, &topic, named("ann")).await;
    assert_eq!(joined["history"][0]["body"], "elsewhere");
    let heard = bob.rest().await;
    assert!(!format!("{heard:?}").contains("too late"), "{heard:?}");
    assert_eq!(metric(a.admin, "bennu_cluster_standstills_total").await, 1);
}
