//! A library is replaced while clients are there: nothing of theirs is lost.

use std::fs;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{self, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

const TOPIC: &str = "misbehave:1";

/// Replaces the first library of `misbehave` and waits until the new one serves.
async fn replace(bench: &Bench, server: &Server, build: Build) {
    bench.put("misbehave", build);
    server.in_service("misbehave", 2).await;
}

async fn count(client: &mut Client, topic: &str) -> Value {
    client.push(topic, "count", json!({})).await
}

#[tokio::test]
async fn the_state_of_a_topic_and_its_members_goes_on_in_the_next_version() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    let mut bob = Client::joined(&server, TOPIC).await;
    count(&mut ann, TOPIC).await;
    assert_eq!(
        count(&mut ann, TOPIC).await,
        json!({ "topic": 2, "member": 2, "version": 1 })
    );

    replace(&bench, &server, Build::MisbehaveV2).await;

    let expected = json!({ "topic": 3, "member": 1, "version": 2, "mood": "fresh" });
    assert_eq!(count(&mut bob, TOPIC).await, expected);
    let expected = json!({ "topic": 4, "member": 3, "version": 2, "mood": "fresh" });
    assert_eq!(count(&mut ann, TOPIC).await, expected);
    assert_eq!(
        [ann.rest().await, bob.rest().await],
        [[], []],
        "nobody was told anything"
    );
    let admin = server.admin().await;
    assert_eq!(plugin(admin, "misbehave").await["state_version"], 2);
    assert_eq!(
        metric(admin, "bennu_plugin_migrated_topics_total{plugin=\"misbehave\"}").await,
        1
    );
}

#[tokio::test]
async fn a_timer_set_before_a_reload_fires_after_it() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client
        .start(TOPIC, "timer", json!({ "ms": 2_000, "payload": { "of": "member" } }))
        .await;
    client
        .start(
            TOPIC,
            "topic_timer",
            json!({ "ms": 2_000, "payload": { "of": "topic" } }),
        )
        .await;
    replace(&bench, &server, Build::MisbehaveV2).await;
    assert_eq!(client.rest().await, [], "not yet");
    assert_eq!(client.event(TOPIC, "tick").await, json!({ "of": "member" }));
    assert_eq!(client.event(TOPIC, "tock").await, json!({ "of": "topic" }));
}

#[tokio::test]
async fn what_was_promised_before_a_reload_is_answered_after_it() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "retire_ms", "4_000");
    bench.set("plugins.misbehave", "join_deadline_ms", "4_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let replies = [
        client.start(TOPIC, "later", json!({ "ms": 2_000 })).await,
        client.start(TOPIC, "later_thread", json!({ "ms": 2_000 })).await,
        client
            .start_join("misbehave:2", json!({ "do": "later", "ms": 2_000 }))
            .await,
        client
            .start_join("misbehave:3", json!({ "do": "later_timer", "ms": 2_000 }))
            .await,
    ];
    let waiting = client.start("misbehave:2", "count", json!({})).await;
    replace(&bench, &server, Build::MisbehaveV2).await;
    assert_eq!(client.rest().await, [], "not yet");
    for reply in replies {
        assert_eq!(
            client.answer(&reply).await,
            json!({ "status": "ok", "response": { "late": true } })
        );
    }
    let counted = client.answer(&waiting).await;
    assert_eq!(
        counted["response"]["version"], 2,
        "what waited for the join is handled by the new code: {counted}"
    );
}

#[tokio::test]
async fn presence_and_subscriptions_outlive_a_reload() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    let mut bob = Client::joined(&server, TOPIC).await;
    ann.push(TOPIC, "track", json!({ "key": "ann", "meta": { "at": "home" } }))
        .await;
    bob.event(TOPIC, "presence_diff").await;
    let before = bob.push(TOPIC, "presences", json!({})).await;
    assert_eq!(before["ann"]["metas"][0]["at"], "home");

    replace(&bench, &server, Build::MisbehaveV2).await;

    assert_eq!(bob.push(TOPIC, "presences", json!({})).await, before);
    ann.start(TOPIC, "broadcast", json!({ "event": "said", "payload": { "n": 1 } }))
        .await;
    assert_eq!(bob.event(TOPIC, "said").await, json!({ "n": 1 }));
    assert_eq!(ann.event(TOPIC, "said").await, json!({ "n": 1 }));
    bob.start(
        TOPIC,
        "broadcast_from",
        json!({ "event": "heard", "payload": { "n": 2 } }),
    )
    .await;
    assert_eq!(ann.event(TOPIC, "heard").await, json!({ "n": 2 }));
    ann.push(TOPIC, "phx_leave", json!({})).await;
    assert_eq!(bob.event(TOPIC, "presence_diff").await["leaves"], before);
    assert_eq!(
        bob.rest().await,
        [],
        "no diff was sent for the reload, and no broadcast to its sender"
    );
}

#[tokio::test]
async fn rejoin_tells_members_to_come_again() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    replace(&bench, &server, Build::MisbehaveV2).await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    let counted = count(&mut client, TOPIC).await;
    assert_eq!((&counted["topic"], &counted["version"]), (&json!(1), &json!(2)));
    server.unloaded("misbehave", 1).await;
    // Back to a version that does not read the state: nobody asks it to.
    bench.put("misbehave", Build::Misbehave);
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(
        count(&mut client, TOPIC).await,
        json!({ "topic": 1, "member": 1, "version": 1 })
    );
}

#[tokio::test]
async fn drain_leaves_topics_where_they_are_until_they_are_empty() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"drain\"");
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    count(&mut ann, TOPIC).await;
    replace(&bench, &server, Build::MisbehaveV2).await;

    let mut bob = Client::joined(&server, TOPIC).await;
    assert_eq!(
        count(&mut bob, TOPIC).await,
        json!({ "topic": 2, "member": 1, "version": 1 }),
        "a new member"
    );
    bob.join("misbehave:2", json!({})).await;
    assert_eq!(count(&mut bob, "misbehave:2").await["version"], 2, "a new topic");

    ann.push(TOPIC, "phx_leave", json!({})).await;
    bob.push(TOPIC, "phx_leave", json!({})).await;
    server.unloaded("misbehave", 1).await;
    ann.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut ann, TOPIC).await["version"], 2, "once it was empty");
}

#[tokio::test]
async fn a_topic_that_the_new_code_cannot_read_stays_on_the_old() {
    let bench = Bench::new();
    // Otherwise the probe would find it out.
    bench.set("plugins.misbehave", "probe_topics", "0");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    replace(&bench, &server, Build::MisbehaveBadRestore).await;
    server
        .log
        .line(&["could not be moved", "failed=1", TOPIC, "built never to read"])
        .await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 2);
    client.join("misbehave:2", json!({})).await;
    assert_eq!(count(&mut client, "misbehave:2").await["topic"], 1);
    assert_eq!(client.rest().await, []);
    let admin = server.admin().await;
    assert_eq!(
        metric(admin, "bennu_plugin_failed_migrations_total{plugin=\"misbehave\"}").await,
        1
    );
    // The next library takes all of them over.
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 3).await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 3);
    assert_eq!(count(&mut client, "misbehave:2").await["version"], 2);
    server.unloaded("misbehave", 1).await;
    server.unloaded("misbehave", 2).await;
}

#[tokio::test]
async fn a_topic_that_the_new_code_cannot_read_may_start_anew() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_migrate_error", "\"rejoin\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    replace(&bench, &server, Build::MisbehaveBadRestore).await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 1);
    server.unloaded("misbehave", 1).await;
}

#[tokio::test]
async fn a_failure_on_either_side_of_the_move_leaves_the_topic_where_it_was() {
    for trap in ["snapshot_error", "restore", "restore_error"] {
        let bench = Bench::new();
        bench.set("plugins.misbehave", "probe_topics", "0");
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        client.push(TOPIC, "arm", json!({ "at": trap })).await;
        count(&mut client, TOPIC).await;
        replace(&bench, &server, Build::MisbehaveV2).await;
        server.log.line(&["could not be moved", "failed=1", "trap in"]).await;
        let expected = json!({ "topic": 2, "member": 2, "version": 1 });
        assert_eq!(count(&mut client, TOPIC).await, expected, "{trap}");
    }
}

/// Has the library replaced by `put`, which is one change.
async fn check_replaced(put: impl FnOnce(&Bench)) {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    put(&bench);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client, TOPIC).await["version"], 2);
    assert_eq!(server.log.count(&["plugin in service", &of("misbehave")]), 2);
}

#[tokio::test]
async fn a_library_may_be_written_over() {
    check_replaced(|bench| {
        fs::copy(Build::MisbehaveV2.path(), bench.library("misbehave")).expect("copied");
    })
    .await;
}

#[tokio::test]
async fn a_library_may_be_moved_over() {
    check_replaced(|bench| bench.put("misbehave", Build::MisbehaveV2)).await;
}

/// As cargo does.
#[tokio::test]
async fn a_library_may_be_removed_and_linked_anew() {
    check_replaced(|bench| {
        let built = bench.path("built.so");
        fs::copy(Build::MisbehaveV2.path(), &built).expect("copied");
        fs::remove_file(bench.library("misbehave")).expect("removed");
        fs::hard_link(built, bench.library("misbehave")).expect("linked");
    })
    .await;
}

#[tokio::test]
async fn an_earlier_library_put_back_is_a_change_too() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let first = plugin(admin, "echo").await["hash"].clone();
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    assert_ne!(plugin(admin, "echo").await["hash"], first);
    bench.put("echo", Build::Echo);
    server.in_service("echo", 3).await;
    assert_eq!(plugin(admin, "echo").await["hash"], first);
}

#[tokio::test]
async fn a_file_that_goes_and_comes_back_as_it_was_changes_nothing() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    fs::remove_file(bench.library("misbehave")).expect("removed");
    // The watcher looks at what changed first, first.
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 1);
    bench.put("misbehave", Build::Misbehave);
    bench.put_numbered("echo", Build::Echo, 2);
    server.in_service("echo", 3).await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 2);
    let misbehave = plugin(server.admin().await, "misbehave").await;
    assert_eq!((&misbehave["generation"], &misbehave["loads"]), (&json!(1), &json!(1)));
    assert_eq!(misbehave["last_refusal"], Value::Null);
    assert_eq!(http::get(server.admin().await, "/ready").await.status, 200);
}

/// The shard is busy when the topic is told to end, so that the next join waits right behind that.
#[tokio::test]
async fn a_join_that_waits_behind_the_end_of_its_topic_is_served_by_the_new_code() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    let mut bob = Client::connect(&server).await;
    ann.start(TOPIC, "sleep", json!({ "ms": 2_000 })).await;
    replace(&bench, &server, Build::MisbehaveV2).await;
    bob.join(TOPIC, json!({})).await;
    ann.event(TOPIC, "phx_error").await;
    assert_eq!(count(&mut bob, TOPIC).await["version"], 2);
}

/// The first change waits for a handler when the second comes: the topic goes to the code that is in service when it returns.
#[tokio::test]
async fn a_second_change_during_a_swap_supersedes_the_first() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "swap_patience_ms", "300");
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    let mut bob = Client::connect(&server).await;
    for n in 2..8 {
        bob.join(&format!("misbehave:{n}"), json!({})).await;
        count(&mut bob, &format!("misbehave:{n}")).await;
    }
    count(&mut ann, TOPIC).await;
    let slow = ann.start(TOPIC, "sleep", json!({ "ms": 4_000 })).await;
    let behind = ann.start(TOPIC, "count", json!({})).await;
    bench.put("misbehave", Build::MisbehaveV2);
    let loaded = ["step passed", &of("misbehave"), "step=\"load\""];
    server.log.nth_line(1, &loaded).await;
    bench.put_numbered("misbehave", Build::MisbehaveV2, 1);
    let busy = ["could not be moved", "handler is still running"];
    server.in_service("misbehave", 2).await;
    server.log.line(&busy).await;
    server.in_service("misbehave", 3).await;
    server.log.nth_line(1, &busy).await;

    assert_eq!(ann.answer(&slow).await["status"], "ok");
    assert_eq!(ann.answer(&behind).await["response"]["topic"], 2);
    server.unloaded("misbehave", 1).await;
    server.unloaded("misbehave", 2).await;
    assert_eq!(count(&mut ann, TOPIC).await["version"], 2);
    for n in 2..8 {
        let counted = count(&mut bob, &format!("misbehave:{n}")).await;
        assert_eq!((&counted["topic"], &counted["version"]), (&json!(2), &json!(2)));
    }
    assert_eq!([ann.rest().await, bob.rest().await], [[], []]);
}
