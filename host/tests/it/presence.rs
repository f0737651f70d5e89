//! Presence in a crowd, and what the log says of a plugin that asks for what there is not.

use bennu_tools::client::{Client, Options, Payload, Transport};
use serde_json::json;

use crate::support::server::{Bench, Server};

async fn connected(server: &Server) -> Client {
    let options = Options::new(server.address, Transport::WebSocket);
    Client::connect(&options).await.expect("connected")
}

/// Fifty come while one watches: it hears of each of them once, and is told far less often than fifty times.
#[tokio::test]
async fn a_storm_of_joins_is_a_few_diffs_and_not_one_for_each() {
    const CROWD: usize = 50;
    let bench = Bench::new();
    // Longer than any machine takes for fifty joins: what the storm says comes in two diffs, or three if it is slow.
    bench.set("plugins.room", "presence_interval_ms", "1_000");
    let server = bench.serve().await;
    let mut watcher = connected(&server).await;
    watcher
        .join("room:storm", json!({ "name": "watcher" }))
        .await
        .expect("joined");
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        let mut client = connected(&server).await;
        client
            .start_join("room:storm", json!({ "name": format!("n{n}") }))
            .await
            .expect("sent");
        crowd.push(client);
    }
    let (mut diffs, mut seen) = (0, 0);
    while seen < CROWD + 1 {
        let Payload::Json(diff) = watcher.event("room:storm", "presence_diff").await.expect("a diff") else {
            panic!("presence is JSON")
        };
        let joins = diff["joins"].as_object().expect("an object");
        assert_eq!(diff["leaves"], json!({}));
        (diffs, seen) = (diffs + 1, seen + joins.len());
    }
    assert_eq!(seen, CROWD + 1, "each once");
    assert!(diffs <= 10, "{diffs} diffs for {CROWD} joins");
}

#[tokio::test]
async fn tracking_where_nobody_can_be_is_a_clear_line_in_the_log() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = connected(&server).await;
    client.join("misbehave:t", json!({})).await.expect("joined");
    let elsewhere = json!({ "key": "b", "topic": "misbehave:u" });
    let reply = client
        .call("misbehave:t", "track_elsewhere", elsewhere)
        .await
        .expect("a reply");
    assert_eq!(reply.json(), Some(&json!({ "done": false })));
    server
        .log
        .line(&["misbehave:t", "a plugin cannot change the presence of another topic"])
        .await;
    client
        .push("misbehave:t", "topic_track", json!({}))
        .await
        .expect("sent");
    server
        .log
        .line(&["misbehave:t", "cannot track: a callback of the topic has no member"])
        .await;
}

#[tokio::test]
async fn a_presence_list_has_a_size_and_what_is_there_can_get_smaller() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_presence_bytes", "2_000");
    let server = bench.serve().await;
    let mut client = connected(&server).await;
    client.join("misbehave:t", json!({})).await.expect("joined");
    for (event, key, size, done) in [
        ("track", "a", 900, true),
        ("track", "b", 900, true),
        ("track", "c", 900, false),
        ("update", "b", 1_100, false),
        ("update", "b", 10, true),
        ("track", "c", 900, true),
    ] {
        let asked = json!({ "key": key, "meta": { "x": "x".repeat(size) } });
        let reply = client.call("misbehave:t", event, asked).await.expect("a reply");
        assert_eq!(reply.json(), Some(&json!({ "done": done })), "{event} {key} {size}");
    }
    server.log.line(&["misbehave:t", "max_presence_bytes"]).await;
    // It is still there, and a client that comes now gets all of it.
    let mut other = connected(&server).await;
    other.join("misbehave:t", json!({})).await.expect("joined");
}
