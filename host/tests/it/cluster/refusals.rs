//! Topics that cannot move, and moves that are cut short.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use super::moves::counted;
use super::{Broker, Node, agree, join_again, patiently, settled, topic_at};
use crate::support::plugins::Build;
use crate::support::server::Bench;

/// Two nodes, of which `a` has this build of `misbehave`.
async fn with_build(build: Build) -> (Broker, Node, Node) {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| bench.put("misbehave", build)).await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    (broker, a, b)
}

#[tokio::test]
async fn state_that_the_next_home_cannot_read_ends_with_a_node_that_stops_and_that_is_said() {
    let (_broker, mut a, b) = with_build(Build::MisbehaveV2).await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = b.join(&topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 1);
    let stopping = a.stop();
    let told = async { patiently("word of the end", bob.event(&topic, "phx_error")).await };
    let ((), error) = tokio::join!(stopping, told);
    assert!(["node lost", "topic moved"].contains(&error["reason"].as_str().unwrap_or_default()));
    let why = "it has state of version 2, and the code in service there reads versions 1 to 1";
    let line = a.server.log.line(&["topic does not move to another node", why]).await;
    assert!(
        line.contains("WARN") && line.contains("it ends with this node"),
        "{line}"
    );
    join_again(&mut bob, &topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 1, "it begins anew");
}

#[tokio::test]
async fn a_topic_that_a_node_that_comes_cannot_read_stays_and_nobody_notices() {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| bench.put("misbehave", Build::MisbehaveV2)).await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let topic = format!("misbehave:{number}");
        let mut client = a.join(&topic, json!({})).await;
        assert_eq!(counted(&mut client, &topic).await, 1);
        clients.push((topic, client));
    }
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    a.server
        .log
        .line(&["topic does not move to another node", "its partition stays here"])
        .await;
    // All that are not where they belong have been refused there.
    let all_refused = async {
        loop {
            let report = a.report().await;
            let (partitions, moves) = (&report["partitions"], &report["moves"]);
            let count = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
            let misplaced = count(&partitions["misplaced"]);
            if misplaced > 0 && count(&moves["refused"]) >= misplaced && count(&moves["partitions_going"]) == 0 {
                break;
            }
        }
    };
    patiently("refusals", all_refused).await;
    assert_eq!(a.metric("topics_moved_out").await, 0);
    for (topic, client) in &mut clients {
        assert_eq!(b.home(topic).await.as_deref(), Some("a"), "{topic}");
        // On the channel that it has joined at first.
        assert_eq!(client.push(topic, "count", json!({})).await["topic"], 2);
    }
}

#[tokio::test]
async fn a_topic_is_not_given_to_a_node_whose_routes_do_not_lead_to_its_plugin() {
    let broker = Broker::start();
    let a = Node::start(&broker, "a").await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let topic = format!("misbehave:{number}");
        clients.push((topic.clone(), a.join(&topic, json!({})).await));
    }
    let b = Node::start_with(&broker, "b", |bench: &Bench| {
        let config = bench.read_config();
        bench.write_config(&config.replace("topic = \"misbehave:*\"", "topic = \"other:*\""));
    })
    .await;
    agree(&[&a, &b]).await;
    a.server
        .log
        .line(&["topic does not move", "no route there leads it to"])
        .await;
    for (topic, client) in &mut clients {
        assert_eq!(client.push(topic, "count", json!({})).await["topic"], 1, "{topic}");
    }
}

#[tokio::test]
async fn state_that_is_too_large_for_the_link_stays() {
    let broker = Broker::start();
    let small = |bench: &Bench| bench.set("cluster", "max_item_bytes", "65_536");
    let a = Node::start_with(&broker, "a", small).await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let topic = format!("misbehave:{number}");
        let mut client = a.join(&topic, json!({})).await;
        // A trap that no place has: it is only there.
        for _ in 0..2 {
            client.push(&topic, "arm", json!({ "at": "x".repeat(40_000) })).await;
        }
        clients.push((topic, client));
    }
    let b = Node::start_with(&broker, "b", small).await;
    agree(&[&a, &b]).await;
    a.server
        .log
        .line(&["topic does not move", "`max_item_bytes` in [cluster] allows"])
        .await;
    for (topic, client) in &mut clients {
        assert_eq!(client.push(topic, "count", json!({})).await["topic"], 1, "{topic}");
    }
}

/// Node `a` with a topic that `b` is given as soon as it comes, and that waits there while it is read. Returns the file that it waits
/// for.
async fn waiting(
    broker: &Broker,
) -> (
    Node,
    Node,
    std::path::PathBuf,
    Vec<(String, crate::support::client::Client)>,
) {
    let a = Node::start(broker, "a").await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let topic = format!("misbehave:{number}");
        let mut client = a.join(&topic, json!({})).await;
        assert_eq!(counted(&mut client, &topic).await, 1);
        client.push(&topic, "arm", json!({ "at": "wait:restore" })).await;
        clients.push((topic, client));
    }
    let gate = a.bench.path("gate");
    fs::write(&gate, "").expect("written");
    let b = Node::start_by(broker, "b", |_| {}, |command| command.env("MISBEHAVE_WAITS_FOR", &gate)).await;
    let reading = async { while b.report().await["moves"]["coming"] == 0 {} };
    patiently("topic", reading).await;
    (a, b, gate, clients)
}

#[tokio::test]
async fn a_topic_goes_on_where_it_was_if_the_next_home_is_killed_while_it_reads() {
    let broker = Broker::start();
    let (a, mut b, _gate, mut clients) = waiting(&broker).await;
    b.server.signal(Signal::KILL);
    b.server.ended().await;
    for (topic, client) in &mut clients {
        // On the channel that it has joined at first.
        assert_eq!(client.push(topic, "count", json!({})).await["topic"], 2, "{topic}");
    }
    assert_eq!(a.metric("topics_moved_out").await, 0);
}

#[tokio::test]
async fn state_whose_home_is_killed_before_it_has_given_it_away_counts_nowhere() {
    let broker = Broker::start();
    let (mut a, b, gate, clients) = waiting(&broker).await;
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    // It is read before anybody knows that its home is gone, and might be older than what that has done since.
    fs::remove_file(gate).expect("it is there");
    settled(&[&b]).await;
    for (topic, _) in &clients {
        let mut client = b.join(topic, json!({})).await;
        assert_eq!(counted(&mut client, topic).await, 1, "{topic}");
    }
    assert_eq!(b.metric("topics_moved_in").await, 0);
    let dropped = async { while b.report().await["moves"]["coming"] != 0 {} };
    patiently("end of what came", dropped).await;
}

#[tokio::test]
async fn a_topic_stays_while_the_next_home_does_not_answer_and_moves_when_it_does() {
    let broker = Broker::start();
    let (a, b, gate, mut clients) = waiting(&broker).await;
    for (topic, client) in &mut clients {
        assert_eq!(client.push(topic, "count", json!({})).await["topic"], 2, "{topic}");
    }
    fs::remove_file(gate).expect("it is there");
    let moved = async { while b.metric("topics_moved_in").await == 0 {} };
    patiently("move", moved).await;
    settled(&[&a, &b]).await;
    for (topic, client) in &mut clients {
        assert_eq!(counted(client, topic).await, 3, "{topic}");
    }
}

#[tokio::test]
async fn state_under_an_old_revision_counts_nowhere_and_the_home_keeps_its_own() {
    let broker = Broker::start();
    let (a, b, gate, mut clients) = waiting(&broker).await;
    // Somebody writes all entries anew, as they are: what is underway is void.
    let before = b.metric("topics_moved_in").await;
    broker.write_homes_again().await;
    fs::remove_file(gate).expect("it is there");
    let moved = async { while b.metric("topics_moved_in").await == before {} };
    patiently("move", moved).await;
    settled(&[&a, &b]).await;
    for (topic, client) in &mut clients {
        assert_eq!(counted(client, topic).await, 2, "{topic}");
    }
}

#[tokio::test]
async fn a_home_that_does_not_hear_whether_a_partition_has_moved_writes_itself_and_keeps_the_state() {
    let broker = Broker::start();
    let a = Node::start_by(
        &broker,
        "a",
        |_| {},
        |command| command.env("BENNU_FAULT_LOST_MOVES", "40"),
    )
    .await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..16 {
        let topic = format!("misbehave:{number}");
        let mut client = a.join(&topic, json!({})).await;
        assert_eq!(counted(&mut client, &topic).await, 1);
        clients.push((topic, client));
    }
    // More writes are lost than there are partitions for it: some are lost twice.
    let b = Node::start(&broker, "b").await;
    a.server
        .log
        .line(&["nobody knows whether a partition has moved: its home writes itself"])
        .await;
    agree(&[&a, &b]).await;
    let moved = async { while b.metric("topics_moved_in").await == 0 {} };
    patiently("move", moved).await;
    settled(&[&a, &b]).await;
    for (topic, client) in &mut clients {
        assert_eq!(counted(client, topic).await, 2, "{topic}");
    }
    assert_eq!(a.metric("superseded_topics").await, 0);
}

#[tokio::test]
async fn a_next_home_that_is_killed_takes_with_it_only_what_it_was_given_and_that_is_said() {
    let broker = Broker::start();
    let a = Node::start(&broker, "a").await;
    agree(&[&a]).await;
    let mut clients = Vec::new();
    for number in 0..60 {
        let topic = format!("misbehave:{number}");
        let mut client = a.join(&topic, json!({})).await;
        assert_eq!(counted(&mut client, &topic).await, 1);
        clients.push((topic, client));
    }
    let mut b = Node::start(&broker, "b").await;
    let moving = async { while a.metric("topics_moved_out").await == 0 {} };
    patiently("move", moving).await;
    b.server.signal(Signal::KILL);
    b.server.ended().await;
    let gone = async { while a.report().await["nodes"].as_array().map(Vec::len) != Some(1) {} };
    patiently("end of the lease", gone).await;
    settled(&[&a]).await;
    let moved = a.metric("topics_moved_out").await;
    let mut lost = 0;
    for (topic, client) in &mut clients {
        match counted(client, topic).await {
            1 => lost += 1,
            count => assert_eq!(count, 2, "{topic}"),
        }
    }
    assert_eq!(lost, moved, "all that it was given, and nothing else");
    a.server.log.line(&["link broken"]).await;
}
