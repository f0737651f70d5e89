//! Topics that outlive their home: what is there at the next one, whatever has become of the one before.

mod fencing;
mod kills;
mod tools;
mod trouble;

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Broker, Node, agree, patiently, settled, topic_at};
use crate::support::client::Client;
use crate::support::http::{metric, reaches};
use crate::support::server::Bench;

const WRITES: &str = "bennu_store_writes_total";
const WOKEN: &str = "bennu_plugin_woken_topics_total{plugin=\"misbehave\"}";

/// What a node needs to store its topics.
fn storing(durability: &'static str) -> impl Fn(&Bench) {
    move |bench| {
        bench.set("plugins.misbehave", "durability", &format!("{durability:?}"));
        bench.set("plugins.misbehave", "checkpoint_ms", "20");
        // Room for all nodes of all tests.
        bench.append("[store]\nmax_bytes = 268_435_456\n");
    }
}

async fn node(broker: &Broker, name: &str, durability: &'static str) -> Node {
    node_by(broker, name, durability, |command| command).await
}

/// With a last change to its command.
async fn node_by(
    broker: &Broker,
    name: &str,
    durability: &'static str,
    command: impl FnOnce(&mut Command) -> &mut Command,
) -> Node {
    Node::start_by(broker, name, storing(durability), command).await
}

/// Two nodes that store their topics, and have shared the partitions.
async fn two(durability: &'static str) -> (Broker, Node, Node) {
    let broker = Broker::start();
    let (a, b) = (
        node(&broker, "a", durability).await,
        node(&broker, "b", durability).await,
    );
    together(&[&a, &b]).await;
    (broker, a, b)
}

async fn together(nodes: &[&Node]) {
    agree(nodes).await;
    settled(nodes).await;
}

async fn kill(node: &mut Node) {
    node.server.signal(Signal::KILL);
    node.server.ended().await;
}

/// Joins, as clients do that are refused: again and again.
async fn join(client: &mut Client, topic: &str) {
    let joined = async {
        loop {
            let reply = client.try_join(topic, json!({})).await;
            if reply["status"] == "ok" {
                return;
            }
            let why = reply["response"]["reason"].as_str().unwrap_or_default();
            assert!(["node unavailable", "storage unavailable"].contains(&why), "{reply}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("join", joined).await;
}

async fn joined(node: &Node, topic: &str) -> Client {
    let mut client = Client::connect(&node.server).await;
    join(&mut client, topic).await;
    client
}

async fn count(client: &mut Client, topic: &str) -> u64 {
    let reply = client.try_push(topic, "count", json!({})).await;
    { reply["response"]["topic"].as_u64() }.unwrap_or_else(|| panic!("{topic}: {reply}"))
}

/// The same while the topic may move: what is refused is not handled, and the client joins again.
async fn count_on(client: &mut Client, topic: &str) -> u64 {
    let counted = async {
        loop {
            let reply = client.try_push(topic, "count", json!({})).await;
            if let Some(count) = reply["response"]["topic"].as_u64() {
                return count;
            }
            let why = reply["response"]["reason"].as_str().unwrap_or_default();
            assert!(["unmatched topic", "topic moved"].contains(&why), "{topic}: {reply}");
            join(client, topic).await;
        }
    };
    patiently("count", counted).await
}

/// Waits until a node has stored all that it will.
async fn stored(node: &Node) {
    let quiet = async {
        let (mut before, mut calm) = (0, 0);
        while calm < 5 {
            let writes = metric(node.admin, WRITES).await;
            calm = if writes > 0 && writes == before { calm + 1 } else { 0 };
            before = writes;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    patiently("calm", quiet).await;
}

/// A client in a topic whose count is 5.
async fn counted(node: &Node, topic: &str) -> Client {
    let mut client = joined(node, topic).await;
    for number in 1..=5 {
        assert_eq!(count(&mut client, topic).await, number);
    }
    client
}

#[tokio::test]
async fn what_a_client_was_told_is_at_the_new_home_after_a_kill_and_a_timer_fires_there() {
    let (_broker, mut a, b) = two("commit").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = counted(&b, &topic).await;
    let due = Duration::from_secs(6);
    let set = Instant::now();
    let timer = json!({ "ms": due.as_millis() as u64, "payload": { "n": 7 } });
    bob.start(&topic, "topic_timer", timer).await;
    assert_eq!(count(&mut bob, &topic).await, 6);
    kill(&mut a).await;
    let error = patiently("word of the end", bob.event(&topic, "phx_error")).await;
    assert_eq!(error, json!({ "reason": "node lost" }));
    join(&mut bob, &topic).await;
    assert_eq!(count(&mut bob, &topic).await, 7);
    let tock = patiently("timer", bob.event(&topic, "tock")).await;
    assert_eq!(tock["n"], 7);
    assert!(set.elapsed() >= due, "{:?}", set.elapsed());
    assert_eq!(b.home(&topic).await.as_deref(), Some("b"));
}

/// Nobody asks for the topic: the new home looks at it, because a timer of it is due.
#[tokio::test]
async fn a_timer_of_a_killed_home_fires_at_the_new_one_although_nobody_is_there() {
    for durability in ["commit", "checkpoint"] {
        let (_broker, mut a, b) = two(durability).await;
        let topic = topic_at(&b, "misbehave:", "a").await;
        let mut ann = counted(&a, &topic).await;
        let before = metric(a.admin, WRITES).await;
        ann.push(&topic, "topic_count", json!({ "ms": 4_000 })).await;
        reaches(a.admin, WRITES, before + 1).await;
        kill(&mut a).await;
        let woken = async { while metric(b.admin, WOKEN).await == 0 {} };
        patiently("the timer has woken the topic", woken).await;
        let mut bob = joined(&b, &topic).await;
        // The timer was due before the join.
        let found = count(&mut bob, &topic).await;
        assert_eq!(found, 7, "{durability}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_at_the_new_home_after_a_kill() {
    let (_broker, mut a, b) = two("checkpoint").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = counted(&b, &topic).await;
    let before = metric(a.admin, WRITES).await;
    count(&mut bob, &topic).await;
    // The first may have been on its way already.
    reaches(a.admin, WRITES, before + 1).await;
    count(&mut bob, &topic).await;
    reaches(a.admin, WRITES, before + 2).await;
    kill(&mut a).await;
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    join(&mut bob, &topic).await;
    let found = count(&mut bob, &topic).await;
    assert!((7..=8).contains(&found), "{found}");
}

/// A topic moves with its state, is stored by its new home at once, and comes back from there.
#[tokio::test]
async fn a_topic_that_has_moved_is_stored_by_its_new_home() {
    for durability in ["commit", "checkpoint"] {
        let (_broker, mut a, mut b) = two(durability).await;
        let topic = topic_at(&b, "misbehave:", "a").await;
        let mut bob = counted(&b, &topic).await;
        let stopping = a.stop();
        let told = async { patiently("word of the end", bob.event(&topic, "phx_error")).await };
        let ((), error) = tokio::join!(stopping, told);
        assert_eq!(error, json!({ "reason": "topic moved" }), "{durability}");
        let before = metric(b.admin, WRITES).await;
        join(&mut bob, &topic).await;
        assert_eq!(count_on(&mut bob, &topic).await, 6, "{durability}");
        reaches(b.admin, WRITES, before + 1).await;
        assert_eq!(metric(b.admin, WOKEN).await, 0, "it has moved, and was not read");
        a.start_again().await;
        agree(&[&a, &b]).await;
        kill(&mut b).await;
        let mut ann = joined(&a, &topic).await;
        assert_eq!(count_on(&mut ann, &topic).await, 7, "{durability}");
    }
}

#[tokio::test]
async fn a_cluster_that_stops_and_starts_again_finds_everything() {
    let (_broker, mut a, mut b) = two("checkpoint").await;
    for node in [&a, &b] {
        // Nothing is stored before the stop.
        node.bench.set("plugins.misbehave", "checkpoint_ms", "3_600_000");
        node.server.log.line(&["configuration replaced"]).await;
    }
    let topics = [
        topic_at(&b, "misbehave:", "a").await,
        topic_at(&b, "misbehave:", "b").await,
    ];
    for topic in &topics {
        counted(&b, topic).await;
    }
    a.stop().await;
    b.stop().await;
    b.start_again().await;
    for topic in &topics {
        let mut client = joined(&b, topic).await;
        assert_eq!(count(&mut client, topic).await, 6, "{topic}");
    }
}

/// The last acknowledgement of some writes is lost: nobody takes what is stored for not stored.
#[tokio::test]
async fn a_write_whose_acknowledgement_is_lost_counts_once() {
    let broker = Broker::start();
    let mut a = node_by(&broker, "a", "commit", |command| {
        command.env("BENNU_FAULT_LOST_ACKS", "4")
    })
    .await;
    agree(&[&a]).await;
    let topic = "misbehave:1";
    let mut client = Client::joined(&a.server, topic).await;
    for number in 1..=5 {
        assert_eq!(count(&mut client, topic).await, number);
    }
    kill(&mut a).await;
    a.start_again().await;
    let mut client = joined(&a, topic).await;
    assert_eq!(count(&mut client, topic).await, 6);
}

#[tokio::test]
async fn what_newer_code_has_stored_is_set_aside_when_it_is_rolled_back() {
    use crate::support::http::get;
    use crate::support::plugins::Build;
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| {
        storing("commit")(bench);
        bench.set("plugins.misbehave", "probation_ms", "60_000");
        bench.set("plugins.misbehave", "probation_panics", "2");
    })
    .await;
    let topic = "misbehave:1";
    let mut client = counted(&a, topic).await;
    a.bench.put_numbered("misbehave", Build::MisbehaveV2, 7);
    a.server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client, topic).await, 6);
    for _ in 0..2 {
        let mut bad = Client::joined(&a.server, "misbehave:bad").await;
        bad.start("misbehave:bad", "panic", json!({})).await;
        bad.event("misbehave:bad", "phx_error").await;
    }
    a.server.log.line(&["rolled back to generation"]).await;
    assert_eq!(count(&mut client, topic).await, 6);
    let stored = async || get(a.admin, "/stored/misbehave?prefix=misbehave:1").await.json();
    let versions = |stored: Value| {
        let mut versions: Vec<_> = { stored.as_array().expect("a list").iter() }
            .map(|topic| (topic["state_version"].as_u64(), topic["set_aside"].as_u64()))
            .collect();
        versions.sort_unstable();
        versions
    };
    assert_eq!(versions(stored().await), [(Some(1), None), (Some(2), Some(2))]);
    client.push(topic, "forget", json!({})).await;
    client.event(topic, "phx_close").await;
    let forgotten = async { while !versions(stored().await).is_empty() {} };
    patiently("it goes with the topic", forgotten).await;
    let keys = broker.topics_bucket().await.keys().await.expect("keys");
    let keys: Vec<String> = keys.try_collect().await.expect("keys");
    assert!(!keys.iter().any(|key| key.starts_with("a.")), "{keys:?}");
}
