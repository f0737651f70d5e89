//! Which node is home, and what happens when that changes.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{Broker, LEASE_MS, Node, agree, join_again, named, patiently, settled, topic_at, two};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::http::get;
use crate::support::server::{Bench, Server};

#[tokio::test]
async fn three_nodes_share_the_partitions_and_say_the_same() {
    let broker = Broker::start();
    let (a, b) = (Node::start(&broker, "a").await, Node::start(&broker, "b").await);
    let c = Node::start(&broker, "c").await;
    agree(&[&a, &b, &c]).await;
    settled(&[&a, &b, &c]).await;
    for number in 0..20 {
        let topic = format!("room:{number}");
        let homes = [a.home(&topic).await, b.home(&topic).await, c.home(&topic).await];
        assert!(
            homes[0].is_some() && homes.iter().all(|home| *home == homes[0]),
            "{homes:?}"
        );
    }
    let admin = c.admin.to_string();
    let (output, said, _) =
        tokio::task::spawn_blocking(move || run(|command| command.args(["cluster", "--admin", &admin])))
            .await
            .expect("it runs");
    assert!(output.status.success());
    for word in ["cluster bennu: 32 partitions", "this node", "up"] {
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn a_host_that_is_alone_says_so() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let answer = get(server.admin().await, "/cluster").await;
    assert_eq!(
        (answer.status, &*answer.body),
        (404, "this host is alone: it has no [cluster]\n")
    );
}

#[tokio::test]
async fn the_topics_of_a_node_that_is_killed_come_back_elsewhere_and_their_members_are_told() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut bob = b.join(&topic, named("bob")).await;
    let killed = tokio::time::Instant::now();
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    let error = patiently("word of the end", bob.event(&topic, "phx_error")).await;
    assert_eq!(error, json!({ "reason": "node lost" }));
    join_again(&mut bob, &topic, named("bob")).await;
    let took = killed.elapsed();
    assert!(took.as_millis() < u128::from(4 * LEASE_MS), "{took:?}");
    assert_eq!(b.home(&topic).await.as_deref(), Some("b"));
    bob.push(&topic, "new_msg", json!({ "body": "on" })).await;
}

#[tokio::test]
async fn joins_on_the_way_to_a_node_that_is_gone_keep_nobody_out_of_their_topics() {
    let broker = Broker::start();
    // So that some are on their way when it hears that the other node is gone.
    fn slow(command: &mut Command) -> &mut Command {
        command.env("BENNU_FAULT_SLOW_CLUSTER", "200")
    }
    let a = Node::start_by(&broker, "a", |_| {}, slow).await;
    let (mut b, c) = (Node::start(&broker, "b").await, Node::start(&broker, "c").await);
    agree(&[&a, &b, &c]).await;
    settled(&[&a, &b, &c]).await;
    let mut topics = Vec::new();
    for number in 0..300 {
        let topic = format!("echo:{number}");
        if a.home(&topic).await.as_deref() == Some("b") {
            topics.push(topic);
        }
    }
    b.server.signal(Signal::KILL);
    b.server.ended().await;
    let mut clients = Vec::new();
    {
        let gone = a.server.log.line(&["node has left the cluster", "node=b"]);
        let mut gone = std::pin::pin!(gone);
        let mut next = 0;
        loop {
            tokio::select! {
                _ = &mut gone => break,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            // No client may join many.
            if next % 5 == 0 {
                clients.push(Client::connect(&a.server).await);
            }
            let client = clients.last_mut().expect("at least one");
            client.start_join(&topics[next % topics.len()], json!({})).await;
            next += 1;
        }
    }
    for topic in &topics {
        a.join(topic, json!({})).await;
    }
    let mut homes = Vec::new();
    for topic in &topics {
        homes.extend(a.home(topic).await);
    }
    assert!(homes.iter().any(|home| home == "c"), "{homes:?}");
}

#[tokio::test]
async fn a_node_that_was_killed_and_has_its_lease_again_takes_its_partitions_without_waiting() {
    let broker = Broker::start();
    let lease = Duration::from_secs(8);
    let patient = |bench: &Bench| bench.set("cluster", "lease_ms", "8_000");
    let mut a = Node::start_with(&broker, "a", patient).await;
    let b = Node::start_with(&broker, "b", patient).await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut bob = b.join(&topic, named("bob")).await;
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    // Before anybody has noticed. It waits for the end of its lease.
    a.server = Server::start_within(lease * 4, a.bench.command()).await;
    let back = tokio::time::Instant::now();
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    join_again(&mut bob, &topic, named("bob")).await;
    let took = back.elapsed();
    assert_eq!(b.home(&topic).await.as_deref(), Some("a"));
    assert!(took < lease / 2, "{took:?}");
}

#[tokio::test]
async fn a_node_that_stops_hands_its_partitions_on_at_once() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut bob = b.join(&topic, named("bob")).await;
    a.server.signal(Signal::TERM);
    patiently("word of the end", bob.event(&topic, "phx_error")).await;
    join_again(&mut bob, &topic, named("bob")).await;
    assert!(a.server.ended().await.success());
    a.server.log.line(&["leaving the cluster"]).await;
    let alone = async {
        loop {
            let report = b.report().await;
            if report["nodes"].as_array().map(Vec::len) == Some(1) && report["partitions"]["here"] == 32 {
                break;
            }
        }
    };
    patiently("end of the lease", alone).await;
}

#[tokio::test]
async fn a_node_that_differs_from_the_others_does_not_start() {
    let (broker, _a, _b) = two().await;
    for (key, value, why) in [
        (
            "partitions",
            "64",
            "the cluster `bennu` has partitions = 32, this node has 64",
        ),
        (
            "lease_ms",
            "9_000",
            "the cluster `bennu` has lease_ms = 1500, this node has 9000",
        ),
        ("node", "\"a\"", "another node of the cluster is called `a`"),
    ] {
        let bench = crate::api::bench();
        bench.append(&format!(
            "[cluster]\nservers = [\"nats://127.0.0.1:{}\"]\nnode = \"x\"\nlease_ms = {LEASE_MS}\npartitions = 32\n",
            broker.port
        ));
        bench.set("cluster", key, value);
        let mut server = crate::support::server::Server::starting(bench.command());
        assert!(!patiently("end", server.ended()).await.success());
        server.log.line(&[why]).await;
    }
}

#[tokio::test]
async fn a_node_with_other_routes_refuses_their_topics_and_says_why() {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| {
        bench.write_config(&bench.read_config().replace("topic = \"echo:*\"", "topic = \"other:*\""));
    })
    .await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&b, "echo:", "a").await;
    let mut client = Client::connect(&b.server).await;
    let reply = client.try_join(&topic, json!({})).await;
    assert_eq!(reply["response"]["reason"], "node unavailable");
    a.server
        .log
        .line(&["no route of this node leads this topic to this plugin"])
        .await;
}
