//! Topics that nobody is in leave memory, and come back as they were.

use serde_json::json;

use super::{Fault, HIBERNATED, TOPIC, WOKEN, bench, count, counted, killed};
use crate::api::{self, Backend};
use crate::support::client::Client;
use crate::support::command::said;
use crate::support::http::{get, metric, reaches};
use crate::support::server::{Bench, Server};
use crate::support::within;

/// A server whose topic has the count 5, and has left memory.
async fn asleep(bench: &Bench) -> Server {
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    drop(counted(&server).await);
    reaches(server.admin().await, HIBERNATED, 1).await;
    server
}

#[tokio::test]
async fn a_join_brings_a_topic_back() {
    for durability in ["checkpoint", "commit"] {
        let bench = bench(durability);
        let server = asleep(&bench).await;
        let admin = server.admin().await;
        assert_eq!(metric(admin, "bennu_plugin_topics{plugin=\"misbehave\"}").await, 0);
        let mut client = Client::joined(&server, TOPIC).await;
        assert_eq!(count(&mut client).await, 6, "{durability}");
        assert_eq!(metric(admin, WOKEN).await, 1);
    }
}

#[tokio::test]
async fn a_call_and_a_message_of_another_topic_bring_a_topic_back() {
    let bench = api::bench();
    bench.set("plugins.misbehave", "durability", "\"checkpoint\"");
    let server = asleep(&bench).await;
    let admin = server.admin().await;
    let backend = Backend::of(&server).await;
    // To look at it wakes nobody.
    let shown = said(0, |command| {
        command
            .args(["topics", "--api", &backend.address.to_string(), TOPIC])
            .env("BENNU_API_KEY", api::KEY)
    });
    assert!(shown.contains("misbehave:1: 0 members"), "{shown}");
    let body = json!({ "topic": TOPIC, "event": "add", "payload": {} }).to_string();
    let answer = backend.post_text("/api/call", "", &body).await;
    assert_eq!(answer.json()["response"]["topic"], 6, "{}", answer.body);
    reaches(admin, HIBERNATED, 2).await;
    let mut other = Client::joined(&server, "misbehave:other").await;
    let to = json!({ "topic": TOPIC, "event": "count" });
    other.start("misbehave:other", "send_to", to).await;
    reaches(admin, WOKEN, 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 8);
    // What is neither in memory nor stored is not there.
    let body = json!({ "topic": "misbehave:none", "event": "add", "payload": {} }).to_string();
    assert_eq!(backend.post_text("/api/call", "", &body).await.status, 404);
}

#[tokio::test]
async fn a_topic_that_a_call_makes_stays_for_its_time_and_is_stored() {
    for durability in ["none", "checkpoint", "commit"] {
        let bench = api::bench();
        bench.set("plugins.misbehave", "durability", &format!("\"{durability}\""));
        let server = bench.serve().await;
        let backend = Backend::of(&server).await;
        let call = async |create: bool| {
            let body = json!({ "topic": TOPIC, "event": "add", "payload": {}, "create": create });
            backend.post("/api/call", body).await.1["response"]["topic"].clone()
        };
        assert_eq!(call(true).await, 1, "{durability}");
        assert_eq!(call(false).await, 2, "{durability}");
        if durability == "commit" {
            killed(server).await;
        } else {
            assert!(server.stop().await.success());
        }
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        let expected = if durability == "none" { 1 } else { 3 };
        assert_eq!(count(&mut client).await, expected, "{durability}");
    }
}

#[tokio::test]
async fn a_timer_brings_a_topic_back() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    client.push(TOPIC, "topic_count", json!({ "ms": 400 })).await;
    drop(client);
    let admin = server.admin().await;
    reaches(admin, WOKEN, 1).await;
    reaches(admin, HIBERNATED, 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 7);
}

#[tokio::test]
async fn a_timer_that_was_due_while_the_server_was_down_fires_once() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    client.push(TOPIC, "topic_count", json!({ "ms": 1_000 })).await;
    client.push(TOPIC, "topic_count", json!({ "ms": 3_600_000 })).await;
    killed(server).await;
    // Whether or not it is due by now: nobody joins, and it fires.
    let server = bench.serve().await;
    let admin = server.admin().await;
    reaches(admin, WOKEN, 1).await;
    reaches(admin, HIBERNATED, 1).await;
    killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 7);
}

#[tokio::test]
async fn many_topics_wake_at_a_time() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let topic = |n: usize| format!("misbehave:many:{n}");
    for from in 0..30 {
        let mut client = Client::connect(&server).await;
        for n in from * 10..from * 10 + 10 {
            client.join(&topic(n), json!({})).await;
            client.push(&topic(n), "count", json!({})).await;
        }
    }
    reaches(admin, HIBERNATED, 300).await;
    let mut clients = Vec::new();
    for from in 0..30 {
        let mut client = Client::connect(&server).await;
        for n in from * 10..from * 10 + 10 {
            client.start_join(&topic(n), json!({})).await;
        }
        clients.push(client);
    }
    for (from, client) in clients.iter_mut().enumerate() {
        for n in from * 10..from * 10 + 10 {
            assert_eq!(client.push(&topic(n), "count", json!({})).await["topic"], 2);
        }
    }
}

#[tokio::test]
async fn a_topic_past_its_time_is_forgotten() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "retain_ms", "1");
    let server = asleep(&bench).await;
    let admin = server.admin().await;
    // Its state is looked at once more, and removed.
    within("its end", async {
        while get(admin, "/stored/misbehave").await.body != "[]" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 1);
}

/// The store has their time to be forgotten before they are gone from memory.
#[tokio::test]
async fn topics_whose_time_is_over_while_they_leave_are_forgotten_too() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "linger_ms", "1");
    bench.set("plugins.misbehave", "retain_ms", "1");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let admin = server.admin().await;
    fault.set("hold");
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Client::connect(&server).await;
        for topic in 0..10 {
            let topic = format!("misbehave:{n}:{topic}");
            client.join(&topic, json!({})).await;
            client.push(&topic, "topic_arm", json!({ "at": "log" })).await;
        }
        clients.push(client);
    }
    drop(clients);
    within("all of them leave", async {
        while server.log.count(&["closing: 0"]) < 40 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fault.set("");
    reaches(admin, HIBERNATED, 40).await;
    within("their end", async {
        while get(admin, "/stored/misbehave").await.body != "[]" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Their timers fire while their state is being stored, behind their last word.
#[tokio::test]
async fn timers_that_are_due_while_their_topics_leave_fire_once() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "linger_ms", "1");
    // Only the leaving stores them.
    bench.set("plugins.misbehave", "checkpoint_ms", "3_600_000");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let topic = |n: usize| format!("misbehave:due:{n}");
    let mut client = Client::connect(&server).await;
    let mut other = Client::joined(&server, "misbehave:other").await;
    fault.set("hold");
    for n in 0..10 {
        client.join(&topic(n), json!({})).await;
        client.push(&topic(n), "topic_arm", json!({ "at": "log" })).await;
        client.push(&topic(n), "topic_count", json!({ "ms": 1_000 })).await;
    }
    // Later than the timers.
    other
        .start("misbehave:other", "timer", json!({ "ms": 1_100, "payload": {} }))
        .await;
    drop(client);
    within("all of them leave", async {
        while server.log.count(&["closing: "]) < 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    other.event("misbehave:other", "tick").await;
    fault.set("");
    reaches(server.admin().await, HIBERNATED, 10).await;
    let mut client = Client::connect(&server).await;
    for n in 0..10 {
        client.join(&topic(n), json!({})).await;
        assert_eq!(client.push(&topic(n), "count", json!({})).await["topic"], 2, "{n}");
    }
}
