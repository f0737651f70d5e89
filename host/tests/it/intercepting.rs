//! What a broadcast costs that a plugin intercepts: one event for the topic, however many are in it.

use serde_json::json;

use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::plugins::Build;
use crate::support::server::Bench;

const EVENTS: &str = "bennu_plugin_events_total{plugin=\"misbehave\"}";

#[tokio::test]
async fn an_intercepted_broadcast_from_any_shard_is_one_event_for_the_topic() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut members = Vec::new();
    for _ in 0..5 {
        members.push(Client::joined(&server, "misbehave:t").await);
    }
    // Of eight topics some live on another of the two shards than `misbehave:t`.
    let mut sender = Client::connect(&server).await;
    let senders: Vec<String> = (0..8).map(|n| format!("misbehave:from{n}")).collect();
    for topic in &senders {
        sender.join(topic, json!({})).await;
    }
    let before = metric(admin, EVENTS).await;
    for topic in &senders {
        let secret = json!({ "topic": "misbehave:t", "event": "secret", "payload": { "from": topic } });
        sender.start(topic, "broadcast_to", secret).await;
        for member in &mut members {
            let secret = member.event("misbehave:t", "secret").await;
            assert_eq!(secret["secret"], json!({ "from": topic }));
        }
    }
    // One that sends it, and one that is sent to all five: counted when it is done, and they have it by then.
    let sent = u64::try_from(senders.len()).expect("a few");
    assert_eq!(metric(admin, EVENTS).await - before, 2 * sent);
}

/// `misbehave` under another name of that length: only its manifest has zeros behind it.
fn renamed(library: &[u8]) -> Vec<u8> {
    let (name, other) = (b"misbehave\0\0\0\0", b"otherwise");
    let at = library.windows(name.len()).position(|bytes| bytes == name);
    let at = at.expect("a manifest");
    [&library[..at], other, &library[at + other.len()..]].concat()
}

#[tokio::test]
async fn a_broadcast_from_another_plugin_is_intercepted_by_the_one_that_serves_the_topic() {
    let bench = Bench::new();
    bench.put_bytes("otherwise", &renamed(&Build::Misbehave.bytes()));
    bench.append("[plugins.otherwise]\nlibrary = \"libotherwise.so\"");
    bench.append("[[routes]]\ntopic = \"otherwise:*\"\nplugin = \"otherwise\"");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut members = Vec::new();
    for _ in 0..5 {
        members.push(Client::joined(&server, "misbehave:t").await);
    }
    let mut sender = Client::joined(&server, "otherwise:from").await;
    let before = metric(admin, EVENTS).await;
    for number in 1..=3 {
        let secret = json!({ "topic": "misbehave:t", "event": "secret", "payload": { "n": number } });
        sender.start("otherwise:from", "broadcast_to", secret).await;
        for member in &mut members {
            // As its own plugin rewrites it, which counts for each member.
            let secret = member.event("misbehave:t", "secret").await;
            assert_eq!(secret, json!({ "secret": { "n": number }, "count": number }));
        }
    }
    assert_eq!(metric(admin, EVENTS).await - before, 3);
}
