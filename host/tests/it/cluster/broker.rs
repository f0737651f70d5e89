//! The broker is away, slow, or has forgotten everything.

use rustix::process::Signal;
use serde_json::json;

use super::{LEASE_MS, agree, join_again, named, patiently, settled, topic_at, two};
use crate::support::client::Client;

#[tokio::test]
async fn without_the_broker_a_home_serves_its_own_clients_and_others_are_told() {
    let (mut broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut ann = a.join(&topic, named("ann")).await;
    let mut bob = b.join(&topic, named("bob")).await;
    broker.kill(false);
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    ann.push(&topic, "new_msg", json!({ "body": "alone" })).await;
    let reply = bob.try_join(&topic, named("bob")).await;
    assert_eq!(reply["response"]["reason"], "node unavailable");
    let mut eve = Client::connect(&a.server).await;
    eve.join(&topic, named("eve")).await;
    broker.start_again();
    let joined = join_again(&mut bob, &topic, named("bob")).await;
    assert_eq!(joined["history"][0]["body"], "alone", "the topic has lived on");
    bob.push(&topic, "new_msg", json!({ "body": "together" })).await;
}

#[tokio::test]
async fn a_broker_that_has_forgotten_everything_is_told_again() {
    let (mut broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut bob = b.join(&topic, named("bob")).await;
    broker.kill(true);
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    broker.start_again();
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    join_again(&mut bob, &topic, named("bob")).await;
    bob.push(&topic, "new_msg", json!({ "body": "on" })).await;
}

#[tokio::test]
async fn a_broker_that_stands_still_breaks_links_and_loses_nobody_their_topics() {
    let (broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut ann = a.join(&topic, named("ann")).await;
    let mut bob = b.join(&topic, named("bob")).await;
    broker.signal(Signal::STOP);
    bob.start(&topic, "new_msg", json!({ "body": "lost on the way" })).await;
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    ann.push(&topic, "new_msg", json!({ "body": "kept" })).await;
    // Longer than the lease.
    tokio::time::sleep(std::time::Duration::from_millis(2 * LEASE_MS)).await;
    broker.signal(Signal::CONT);
    let joined = join_again(&mut bob, &topic, named("bob")).await;
    assert_eq!(joined["history"].as_array().map(Vec::len), Some(1), "{joined}");
}

#[tokio::test]
async fn a_node_that_says_a_little_later_than_others_that_it_lives_keeps_its_topics_after_a_broker_stood_still() {
    let (broker, a, b) = two().await;
    let topic = topic_at(&a, "room:", "b").await;
    let mut bob = b.join(&topic, named("bob")).await;
    bob.push(&topic, "new_msg", json!({ "body": "kept" })).await;
    let longer_than_the_lease = std::time::Duration::from_millis(2 * LEASE_MS);
    broker.signal(Signal::STOP);
    let broker_goes_on = async {
        tokio::time::sleep(longer_than_the_lease).await;
        broker.signal(Signal::CONT);
        let ended = a.server.log.line(&["node has left the cluster", "node=b"]);
        patiently("end of the lease", ended).await;
    };
    let a_little_later = std::time::Duration::from_millis(300);
    b.server
        .stand_still(longer_than_the_lease + a_little_later, broker_goes_on)
        .await;
    agree(&[&a, &b]).await;
    let mut eve = Client::connect(&a.server).await;
    let joined = join_again(&mut eve, &topic, named("eve")).await;
    assert_eq!(joined["history"][0]["body"], "kept", "{joined}");
}
