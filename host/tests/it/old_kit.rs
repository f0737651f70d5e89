//! Plugins that were built with an earlier kit load and run. The same plugin, built with the kit of ABI 1.4 and with today's.

use bennu_tools::client::{Options, Transport};
use serde_json::json;

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "veteran:1";

fn bench(build: Build) -> Bench {
    let bench = Bench::new();
    bench.put("veteran", build);
    bench.append(
        "[plugins.veteran]\nlibrary = \"libveteran.so\"\nprobation_ms = 0\nretire_ms = 100\n\
         [[routes]]\ntopic = \"veteran:*\"\nplugin = \"veteran\"\n\
         [[mounts]]\npath = \"/veteran\"\nconnect = \"veteran\"\ncheck_origin = false\nlongpoll = {}",
    );
    bench
}

async fn joined(server: &Server, name: &str, transport: Transport) -> Client {
    let mut options = Options::new(server.address, transport);
    options.mount = "/veteran".into();
    options.params = vec![("name".into(), name.into())];
    let mut client = Client::connect_with(&options).await;
    client.join(TOPIC, json!({ "name": name })).await;
    client
}

/// Has it do all that it can.
async fn works(ann: &mut Client, bob: &mut Client, count: u64, heard: u64) {
    assert_eq!(ann.push(TOPIC, "echo", json!({ "a": [1] })).await, json!({ "a": [1] }));
    let me = ann.push(TOPIC, "me", json!({})).await;
    assert_eq!(me, json!({ "id": "user:ann", "topic": TOPIC }));
    ann.push(TOPIC, "shout", json!({ "say": "hello" })).await;
    assert_eq!(bob.event(TOPIC, "shout").await, json!({ "say": "hello" }));
    ann.push(TOPIC, "whisper", json!({ "say": "psst" })).await;
    assert_eq!(bob.event(TOPIC, "whisper").await, json!({ "say": "psst" }));
    let counted = bob.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted, json!({ "count": count, "heard": heard }));
    let unhandled = ann.try_push(TOPIC, "what", json!({})).await;
    assert_eq!(unhandled["response"]["reason"], "unhandled event");
}

#[tokio::test]
async fn a_plugin_of_an_old_kit_serves_clients() {
    let bench = bench(Build::VeteranOld);
    let server = bench.serve().await;
    let mut ann = joined(&server, "ann", Transport::WebSocket).await;
    let mut bob = joined(&server, "bob", Transport::LongPoll).await;
    works(&mut ann, &mut bob, 1, 1).await;
    let owed = ann.start(TOPIC, "owe", json!({})).await;
    // Bob's push comes by another way: it must not overtake.
    ann.push(TOPIC, "echo", json!({})).await;
    bob.push(TOPIC, "pay", json!({})).await;
    assert_eq!(ann.answer(&owed).await["response"], json!({ "late": true }));
    let crash = bob.start(TOPIC, "panic", json!({})).await;
    bob.event(TOPIC, "phx_error").await;
    drop(crash);
    bob.join(TOPIC, json!({ "name": "bob" })).await;
    works(&mut ann, &mut bob, 2, 1).await;
}

#[tokio::test]
async fn old_and_new_kits_take_over_from_each_other() {
    let bench = bench(Build::VeteranOld);
    let server = bench.serve().await;
    let mut ann = joined(&server, "ann", Transport::WebSocket).await;
    let mut bob = joined(&server, "bob", Transport::LongPoll).await;
    works(&mut ann, &mut bob, 1, 1).await;
    let tags: Vec<_> = (0..20).map(|number| format!("tag {number}")).collect();
    let tagged = json!({ "tags": 20 });
    assert_eq!(ann.push(TOPIC, "tag", json!(tags)).await, tagged);
    let owed = ann.start(TOPIC, "owe", json!({})).await;
    for (generation, build) in [(2, Build::Veteran), (3, Build::VeteranOld), (4, Build::Veteran)] {
        bench.put("veteran", build);
        server.in_service("veteran", generation).await;
        works(&mut ann, &mut bob, generation, generation).await;
        assert_eq!(ann.push(TOPIC, "tag", json!([])).await, tagged);
    }
    bob.push(TOPIC, "pay", json!({})).await;
    assert_eq!(ann.answer(&owed).await["response"], json!({ "late": true }));
}
