//! The last word of a topic, and its end for good.

use serde_json::json;

use super::{TOPIC, bench, count, counted};
use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::Bench;

async fn arm(client: &mut Client, at: &str) {
    client.push(TOPIC, "topic_arm", json!({ "at": at })).await;
}

#[tokio::test]
async fn a_topic_has_its_last_word_when_it_is_empty_when_its_code_goes_and_when_the_server_stops() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "linger_ms", "1");
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    arm(&mut client, "log").await;
    client.push(TOPIC, "count", json!({})).await;
    drop(client);
    server.log.line(&["closing: 6"]).await;

    let mut client = counted(&server).await;
    arm(&mut client, "log").await;
    bench.put_numbered("misbehave", Build::Misbehave, 2);
    server.log.line(&["closing: 5"]).await;
    server.in_service("misbehave", 2).await;

    let mut client = Client::joined(&server, TOPIC).await;
    for _ in 0..9 {
        count(&mut client).await;
    }
    arm(&mut client, "log").await;
    let log = server.log.clone();
    assert!(server.stop().await.success());
    log.line(&["closing: 9"]).await;
}

#[tokio::test]
async fn what_the_last_word_changes_is_stored() {
    let bench = bench("checkpoint");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    arm(&mut client, "count").await;
    assert!(server.stop().await.success());
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 7);
}

#[tokio::test]
async fn a_stop_waits_for_what_the_last_word_has_started() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    arm(&mut client, "thread").await;
    let log = server.log.clone();
    assert!(server.stop().await.success());
    log.line(&["closed later"]).await;
}

#[tokio::test]
async fn a_last_word_that_panics_is_logged_and_one_that_hangs_is_cut() {
    let bench = bench("checkpoint");
    bench.set("plugins.misbehave", "linger_ms", "1");
    bench.set("plugins.misbehave", "deadline_ms", "200");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    arm(&mut client, "closing").await;
    drop(client);
    server.log.line(&["plugin panicked", "callback=\"closing\""]).await;
    // The topic left, and is stored.
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
    let mut other = Client::joined(&server, "misbehave:other").await;
    other
        .start("misbehave:other", "topic_arm", json!({ "at": "hang:closing" }))
        .await;
    drop((client, other));
    server.log.line(&["abandoned", "callback=\"closing\""]).await;
}

#[tokio::test]
async fn a_forgotten_topic_is_gone_for_good() {
    for durability in ["none", "checkpoint", "commit"] {
        let bench = bench(durability);
        let server = bench.serve().await;
        let mut client = counted(&server).await;
        let mut other = Client::joined(&server, TOPIC).await;
        client.push(TOPIC, "forget", json!({})).await;
        for client in [&mut client, &mut other] {
            client.event(TOPIC, "phx_close").await;
        }
        client.join(TOPIC, json!({})).await;
        assert_eq!(count(&mut client).await, 1, "{durability}");
        client.push(TOPIC, "forget", json!({})).await;
        client.event(TOPIC, "phx_close").await;
        assert!(server.stop().await.success());
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        assert_eq!(count(&mut client).await, 1, "{durability}");
    }
}

/// It knows nothing of a last word; its state is stored all the same.
#[tokio::test]
async fn a_plugin_of_an_earlier_kit_is_stored_too() {
    let bench = bench("checkpoint");
    bench.put("veteran", Build::VeteranOld);
    bench.append(
        "[plugins.veteran]\nlibrary = \"libveteran.so\"\ndurability = \"commit\"\nlinger_ms = 1\n\n[[routes]]\ntopic = \
         \"veteran:*\"\nplugin = \"veteran\"\n",
    );
    let server = bench.serve().await;
    let topic = "veteran:1";
    let mut counts = Vec::new();
    let mut server = server;
    for _ in 0..2 {
        let mut client = Client::connect(&server).await;
        client.join(topic, json!({ "name": "ann" })).await;
        client.push(topic, "shout", json!({})).await;
        client.push(topic, "whisper", json!({})).await;
        counts.push(client.push(topic, "count", json!({})).await["count"].clone());
        assert!(server.stop().await.success());
        server = bench.serve().await;
    }
    assert_eq!(counts, [json!(1), json!(2)]);
}
