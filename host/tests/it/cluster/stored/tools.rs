//! `bennu topics` for stored topics, at any node; and the way from one host to a cluster and back.

use serde_json::{Value, json};

use super::{Node, WRITES, count, counted, joined, patiently, storing, topic_at, two};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::http::{get, metric, reaches};
use crate::support::server::{Bench, Server};

/// What `bennu topics` says with these arguments.
async fn topics(bench: &Bench, server: &Server, arguments: &[&str]) -> (bool, String) {
    let admin = server.admin().await.to_string();
    let config = bench.config();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        run(|command| {
            command.args(["topics", "--config"]).arg(config);
            command.args(["--admin", &admin]).args(arguments)
        })
    });
    let (done, stdout, stderr) = ran.await.expect("it runs");
    (done.status.success(), format!("{stdout}{stderr}"))
}

async fn at(node: &Node, arguments: &[&str]) -> (bool, String) {
    topics(&node.bench, &node.server, arguments).await
}

fn path(bench: &Bench, name: &str) -> String {
    bench.path(name).to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn every_node_lists_shows_and_forgets_all_stored_topics() {
    let (_broker, a, b) = two("commit").await;
    let (here, there) = (
        topic_at(&b, "misbehave:", "b").await,
        topic_at(&b, "misbehave:", "a").await,
    );
    counted(&b, &here).await;
    counted(&b, &there).await;
    for node in [&a, &b] {
        let listed = async {
            loop {
                let (done, said) = at(node, &["--stored", "--json"]).await;
                assert!(done, "{said}");
                let listed: Value = serde_json::from_str(&said).expect("JSON");
                let names: Vec<_> = { listed.as_array().expect("a list").iter() }
                    .filter_map(|topic| topic["topic"].as_str())
                    .collect();
                let mut expected = [&*here, &*there];
                expected.sort_unstable();
                if names == expected {
                    break;
                }
            }
        };
        patiently("a whole list", listed).await;
        for topic in [&here, &there] {
            let (_, said) = at(node, &["--stored", topic]).await;
            assert!(said.contains("\"count\": 5"), "{said}");
        }
    }
    // In memory at its home, and forgotten there.
    let (done, said) = at(&b, &["--forget", &there]).await;
    assert!(done, "{said}");
    let mut client = joined(&b, &there).await;
    assert_eq!(count(&mut client, &there).await, 1);
    let (done, said) = at(&a, &["--forget", "misbehave:none"]).await;
    assert!(!done && said.contains("there is no topic"), "{said}");
}

#[tokio::test]
async fn topics_go_from_one_host_to_a_cluster_and_back() {
    let alone = Bench::new();
    alone.set("plugins.misbehave", "durability", "\"commit\"");
    let server = alone.serve().await;
    let (_broker, a, b) = two("commit").await;
    let names = [
        topic_at(&b, "misbehave:", "a").await,
        topic_at(&b, "misbehave:", "b").await,
    ];
    for topic in &names {
        let mut client = Client::joined(&server, topic).await;
        for number in 1..=5 {
            assert_eq!(count(&mut client, topic).await, number);
        }
    }
    let out = path(&alone, "alone.jsonl");
    let (done, said) = topics(&alone, &server, &["--export", &out]).await;
    assert!(done && said.contains("2 topics"), "{said}");
    let (done, said) = at(&b, &["--import", &out]).await;
    assert!(done, "{said}");
    for topic in &names {
        let mut client = joined(&a, topic).await;
        assert_eq!(count(&mut client, topic).await, 6, "{topic}");
    }
    // Not while somebody works with it, whichever node is asked.
    let (done, said) = at(&b, &["--import", &out]).await;
    assert!(!done && said.contains("in memory"), "{said}");
    let back = path(&alone, "cluster.jsonl");
    let (done, said) = at(&a, &["--export", &back]).await;
    assert!(done && said.contains("2 topics"), "{said}");
    assert!(server.stop().await.success());
    let server = alone.serve().await;
    let (done, said) = topics(&alone, &server, &["--import", &back]).await;
    assert!(done, "{said}");
    for topic in &names {
        let mut client = Client::joined(&server, topic).await;
        assert_eq!(count(&mut client, topic).await, 7, "{topic}");
    }
}

#[tokio::test]
async fn a_backend_reads_a_stored_topic_at_any_node() {
    let broker = super::Broker::start();
    let lingering = |bench: &Bench| {
        storing("checkpoint")(bench);
        bench.set("plugins.misbehave", "linger_ms", "1");
    };
    let (a, b) = (
        Node::start_with(&broker, "a", lingering).await,
        Node::start_with(&broker, "b", lingering).await,
    );
    super::together(&[&a, &b]).await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let before = metric(a.admin, WRITES).await;
    drop(counted(&b, &topic).await);
    reaches(a.admin, WRITES, before + 1).await;
    reaches(a.admin, "bennu_plugin_hibernated_topics_total{plugin=\"misbehave\"}", 1).await;
    for node in [&a, &b] {
        let backend = crate::api::Backend::of(&node.server).await;
        let (status, said) = backend.get(&format!("/api/topics/{topic}")).await;
        assert_eq!(status, 200, "{said}");
        assert!(said["stored"].is_object(), "{said}");
        assert_eq!(said["node"], json!("a"));
    }
    assert_eq!(get(a.admin, "/stored/echo").await.status, 404);
}
