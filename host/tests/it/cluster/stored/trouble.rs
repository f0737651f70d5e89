//! NATS is away, full, has lost everything, or is of a later version.

use std::time::Duration;

use serde_json::json;

use super::{
    Broker, WRITES, agree, count, counted, join, joined, kill, node, patiently, stored, storing, together, topic_at,
    two,
};
use crate::support::client::Client;
use crate::support::http::{metric, reaches};
use crate::support::server::Server;

const BUCKET: &str = "bennu-topics";

async fn context(broker: &Broker) -> async_nats::jetstream::Context {
    let client = async_nats::connect(format!("127.0.0.1:{}", broker.port)).await;
    async_nats::jetstream::new(client.expect("connected"))
}

#[tokio::test]
async fn without_nats_what_must_be_stored_is_refused_and_nothing_else() {
    let (mut broker, a, b) = two("commit").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let asleep = format!("{topic}-asleep");
    let mut ann = counted(&a, &topic).await;
    broker.kill(false);
    patiently("it is noticed", async {
        loop {
            // An event that changes nothing is answered, whatever is away.
            let echo = ann.push(&topic, "echo", json!({ "n": 1 })).await;
            assert_eq!(echo["n"], 1);
            if a.report().await["connected"] != true {
                break;
            }
        }
    })
    .await;
    let reply = ann.try_push(&topic, "count", json!({})).await;
    assert_eq!(reply["response"]["reason"], "storage unavailable");
    assert_eq!(ann.event(&topic, "phx_error").await["reason"], "storage unavailable");
    for topic in [&topic, &asleep] {
        let reply = ann.try_join(topic, json!({})).await;
        let why = reply["response"]["reason"].as_str().unwrap_or_default();
        assert!(["storage unavailable", "node unavailable"].contains(&why), "{reply}");
    }
    a.server.log.line(&["NATS cannot be reached"]).await;
    broker.start_again();
    join(&mut ann, &topic).await;
    assert_eq!(
        count(&mut ann, &topic).await,
        6,
        "the event that was refused does not count"
    );
}

#[tokio::test]
async fn without_nats_a_topic_with_checkpoints_is_served_and_stored_afterwards() {
    let (mut broker, mut a, b) = two("checkpoint").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut ann = counted(&a, &topic).await;
    stored(&a).await;
    broker.kill(false);
    for number in 6..=9 {
        assert_eq!(count(&mut ann, &topic).await, number);
    }
    a.server.log.line(&["topic not stored", "NATS"]).await;
    let before = metric(a.admin, WRITES).await;
    broker.start_again();
    reaches(a.admin, WRITES, before + 1).await;
    kill(&mut a).await;
    let mut bob = joined(&b, &topic).await;
    assert_eq!(count(&mut bob, &topic).await, 10);
}

/// NATS has lost its disk. What is in memory is all there is, and is stored again.
#[tokio::test]
async fn a_nats_that_has_lost_everything_is_given_what_is_in_memory() {
    let (mut broker, mut a, b) = two("checkpoint").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut ann = counted(&a, &topic).await;
    stored(&a).await;
    broker.kill(true);
    assert_eq!(count(&mut ann, &topic).await, 6);
    broker.start_again();
    agree(&[&a, &b]).await;
    let before = metric(a.admin, WRITES).await;
    assert_eq!(count(&mut ann, &topic).await, 7);
    reaches(a.admin, WRITES, before + 1).await;
    kill(&mut a).await;
    let mut bob = joined(&b, &topic).await;
    assert_eq!(count(&mut bob, &topic).await, 8);
}

#[tokio::test]
async fn a_full_bucket_refuses_what_is_new_and_says_so_until_there_is_room() {
    let broker = Broker::start();
    let a = node(&broker, "a", "commit").await;
    let mut ann = counted(&a, "misbehave:1").await;
    let context = context(&broker).await;
    let stream = context.get_stream(format!("KV_{BUCKET}")).await.expect("a stream");
    let bound = async |bytes: i64| {
        let config = async_nats::jetstream::stream::Config {
            max_bytes: bytes,
            ..stream.cached_info().config.clone()
        };
        context.update_stream(config).await.expect("changed");
    };
    let size = stream.get_info().await.expect("an answer").state.bytes;
    bound(i64::try_from(size).expect("few") + 16).await;
    let mut bob = Client::connect(&a.server).await;
    let reply = bob.try_join("misbehave:new", json!({})).await;
    assert_eq!(reply["response"]["reason"], "storage unavailable");
    a.server
        .log
        .line(&[
            "topic not stored",
            "the bucket bennu-topics of NATS",
            "`[store] max_bytes` allows",
        ])
        .await;
    // What is there can still change, as long as it does not grow.
    assert_eq!(count(&mut ann, "misbehave:1").await, 6);
    bound(1 << 20).await;
    join(&mut bob, "misbehave:new").await;
    assert_eq!(count(&mut bob, "misbehave:new").await, 1);
}

#[tokio::test]
async fn state_that_is_larger_than_a_message_of_nats_is_refused_and_named() {
    let broker = Broker::start_with("max_payload: 20000");
    let a = node(&broker, "a", "commit").await;
    let mut ann = counted(&a, "misbehave:1").await;
    let trap = json!({ "at": "x".repeat(40_000) });
    let answer = ann.try_push("misbehave:1", "topic_arm", trap).await;
    assert_eq!(answer["response"]["reason"], "storage unavailable");
    a.server
        .log
        .line(&["topic not stored", "NATS takes 20000 in a message", "`max_payload`"])
        .await;
    ann.event("misbehave:1", "phx_error").await;
    join(&mut ann, "misbehave:1").await;
    assert_eq!(count(&mut ann, "misbehave:1").await, 6);
}

#[tokio::test]
async fn a_bucket_of_a_later_version_is_left_alone() {
    let broker = Broker::start();
    let mut a = node(&broker, "a", "commit").await;
    a.stop().await;
    let bucket = context(&broker).await.get_key_value(BUCKET).await.expect("a bucket");
    let later = r#"{"format":2,"store":1}"#;
    bucket.put("meta", later.into()).await.expect("written");
    let mut server = Server::starting(a.bench.command());
    assert!(!patiently("end", server.ended()).await.success());
    let why = "the bucket bennu-topics of NATS has format 2, and this server knows format 1";
    server.log.line(&[why]).await;
    let meta = bucket.get("meta").await.expect("an answer");
    assert_eq!(meta.as_deref(), Some(later.as_bytes()));
}

/// What a name has stands in no subject.
#[tokio::test]
async fn names_stand_in_no_subject_and_may_have_any_letters() {
    let broker = Broker::start();
    let mut a = node(&broker, "a", "commit").await;
    let topics = ["misbehave:*.>", "misbehave:zwölf Boxkämpfer", "misbehave:"];
    for topic in topics {
        counted(&a, topic).await;
    }
    kill(&mut a).await;
    a.start_again().await;
    for topic in topics {
        let mut client = joined(&a, topic).await;
        assert_eq!(count(&mut client, topic).await, 6, "{topic}");
    }
    let long = format!("misbehave:{}", "x".repeat(1_000));
    counted(&a, &long).await;
}

/// Another node starts while topics sleep, and one that was away hears what was forgotten meanwhile.
#[tokio::test]
async fn a_topic_that_was_forgotten_is_forgotten_everywhere() {
    let (_broker, a, b) = two("commit").await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = counted(&b, &topic).await;
    bob.push(&topic, "forget", json!({})).await;
    patiently("its end", bob.event(&topic, "phx_close")).await;
    for node in [&a, &b] {
        let gone = async {
            while crate::support::http::get(node.admin, "/stored/misbehave").await.body != "[]" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("it is gone", gone).await;
    }
    join(&mut bob, &topic).await;
    assert_eq!(count(&mut bob, &topic).await, 1);
}

#[tokio::test]
async fn a_topic_is_forgotten_when_its_time_is_over_wherever_it_lives_then() {
    let broker = Broker::start();
    let retaining = |bench: &crate::support::server::Bench| {
        storing("commit")(bench);
        bench.set("plugins.misbehave", "linger_ms", "1");
        bench.set("plugins.misbehave", "retain_ms", "4_000");
    };
    let mut a = super::Node::start_with(&broker, "a", retaining).await;
    let b = super::Node::start_with(&broker, "b", retaining).await;
    together(&[&a, &b]).await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    drop(counted(&a, &topic).await);
    reaches(a.admin, "bennu_plugin_hibernated_topics_total{plugin=\"misbehave\"}", 1).await;
    kill(&mut a).await;
    let gone = async {
        while crate::support::http::get(b.admin, "/stored/misbehave").await.body != "[]" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("it is gone", gone).await;
}
