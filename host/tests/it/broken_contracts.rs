//! What a plugin must not ask for is refused at the boundary: counted, said to the plugin, and seen by nobody.

use bennu_plugin::abi::error;
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";

async fn refused(server: &Server) -> u64 {
    let name = "bennu_plugin_refused_effects_total{plugin=\"misbehave\"}";
    metric(server.admin().await, name).await
}

async fn late(server: &Server) -> u64 {
    metric(server.admin().await, "bennu_late_answers_total").await
}

#[tokio::test]
async fn each_broken_rule_is_answered_with_an_error_and_counted() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let lies = [
        ("payload", error::INVALID),
        ("json", error::INVALID),
        ("array", error::INVALID),
        ("name", error::INVALID),
        ("kind", error::UNKNOWN),
        ("length", error::LIMIT),
        ("misplaced", error::MISPLACED),
        ("timer", error::GONE),
        ("state", error::MISPLACED),
    ];
    for (before, (lie, answer)) in (0..).zip(lies) {
        assert_eq!(refused(&server).await, before);
        let told = client.push(TOPIC, "lie", json!({ "at": lie })).await;
        assert_eq!(told, json!({ "answer": answer }), "{lie}");
        assert_eq!(refused(&server).await, before + 1, "{lie}");
    }
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_promise_is_kept_once() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "twice_thread", json!({})).await, json!({ "n": 1 }));
    server.log.line(&["completed 1: true"]).await;
    server.log.line(&["completed 2: false"]).await;
    assert_eq!(client.rest().await, []);
    assert_eq!(late(&server).await, 1);
    // Within one event the second is refused as well.
    assert_eq!(client.push(TOPIC, "twice", json!({})).await, json!({ "n": 1 }));
    assert_eq!(client.push(TOPIC, "twice_now", json!({})).await, json!({ "n": 1 }));
    assert_eq!(client.rest().await, []);
    assert_eq!(refused(&server).await, 2);
}

#[tokio::test]
async fn a_promise_that_was_never_made_cannot_be_kept() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    for topic in [0, 1, 2, u64::MAX] {
        let forged = json!({ "topic": topic, "serial": 9_999, "reply": true });
        client.start(TOPIC, "forged", json!({ "payload": forged })).await;
    }
    server.log.nth_line(3, &["completed: false"]).await;
    assert_eq!(server.log.count(&["completed: true"]), 0);
    assert_eq!(late(&server).await, 4);
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_promise_ends_with_its_channel() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "later_thread", json!({ "ms": 300 })).await;
    client.push(TOPIC, "phx_leave", json!({})).await;
    server.log.line(&["completed late: false"]).await;
    assert_eq!(late(&server).await, 1);
}

#[tokio::test]
async fn a_flood_of_effects_ends_at_the_bound_of_the_configuration() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_effects_per_event", "10");
    bench.set("plugins.misbehave", "max_effect_bytes_per_event", "4_096");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "flood", json!({ "count": 50 })).await;
    client.push(TOPIC, "count", json!({})).await;
    assert_eq!(client.rest().await.len(), 10);
    assert_eq!(refused(&server).await, 40);
    client
        .start(TOPIC, "flood_broadcast", json!({ "count": 5, "bytes": 1_000 }))
        .await;
    client.push(TOPIC, "count", json!({})).await;
    assert_eq!(client.rest().await.len(), 4, "of a thousand bytes each");
    assert_eq!(refused(&server).await, 41);
    // What an event asks for is its own: the next has as much again, and its reply is never in the way.
    client.start(TOPIC, "flood", json!({ "count": 10 })).await;
    client.push(TOPIC, "count", json!({})).await;
    assert_eq!(client.rest().await.len(), 10);
}
