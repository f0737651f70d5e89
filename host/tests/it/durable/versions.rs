//! Stored state and other versions of the code.

use serde_json::{Value, json};

use super::{HIBERNATED, TOPIC, bench, count, counted};
use crate::support::client::Client;
use crate::support::http::{get, reaches};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

#[tokio::test]
async fn new_code_migrates_stored_state_when_the_topic_comes_back() {
    let bench = bench("commit");
    let server = bench.serve().await;
    counted(&server).await;
    assert!(server.stop().await.success());
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let answer = client.push(TOPIC, "count", json!({})).await;
    assert_eq!((&answer["topic"], &answer["version"]), (&json!(6), &json!(2)));
}

#[tokio::test]
async fn state_that_the_code_cannot_read_is_refused_and_kept() {
    let bench = bench("commit");
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    counted(&server).await;
    assert!(server.stop().await.success());
    // The earlier code reads version 1 alone.
    bench.put("misbehave", Build::Misbehave);
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    for _ in 0..2 {
        let answer = client.try_join(TOPIC, json!({})).await;
        assert_eq!(answer["response"]["reason"], "state unreadable");
    }
    server.log.line(&["not readable", TOPIC, "state of version 2"]).await;
    // Other topics are served.
    client.join("misbehave:other", json!({})).await;
    // Code that reads it finds it as it was.
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn a_reload_is_refused_if_the_new_code_fails_on_a_stored_topic() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    drop(counted(&server).await);
    reaches(server.admin().await, HIBERNATED, 1).await;
    bench.put("misbehave", Build::MisbehaveRenamed);
    let said = server
        .log
        .line(&["library rejected", &of("misbehave"), "code=\"restore\""])
        .await;
    assert!(said.contains("`count`: dropped"), "{said}");
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn a_reload_is_refused_if_the_new_code_does_not_read_the_version_of_a_topic_that_sleeps() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "linger_ms", "1");
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    drop(counted(&server).await);
    reaches(server.admin().await, HIBERNATED, 1).await;
    bench.put("misbehave", Build::Misbehave);
    let said = server
        .log
        .line(&["library rejected", &of("misbehave"), "code=\"state_version\""])
        .await;
    assert!(
        said.contains("stored topics have version 2, such as misbehave:1"),
        "{said}"
    );
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
    // At a start nothing else could serve the topics: the log says what follows.
    assert!(server.stop().await.success());
    let server = bench.serve().await;
    server.log.line(&["does not read", "version=2", TOPIC]).await;
}

#[tokio::test]
async fn a_stored_topic_takes_part_in_reloads() {
    let bench = bench("commit");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client).await, 6);
    super::killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 7);
}

/// New code with a state of its own is on probation, and panics twice.
async fn rolled_back(bench: &Bench, server: &Server, build: Build) {
    bench.put_numbered("misbehave", build, 7);
    server.in_service("misbehave", 2).await;
    let mut client = Client::joined(server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
    drop(client);
    for _ in 0..2 {
        let mut bad = Client::joined(server, "misbehave:bad").await;
        bad.start("misbehave:bad", "panic", json!({})).await;
        bad.event("misbehave:bad", "phx_error").await;
    }
    server.log.line(&["rolled back to generation"]).await;
}

fn on_probation() -> Bench {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    bench
}

#[tokio::test]
async fn a_rollback_takes_the_present_state_along_and_it_is_stored() {
    let bench = on_probation();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    rolled_back(&bench, &server, Build::Misbehave).await;
    assert_eq!(count(&mut client).await, 7);
    super::killed(server).await;
    bench.put("misbehave", Build::Misbehave);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 8);
}

#[tokio::test]
async fn what_newer_code_has_stored_is_set_aside_when_it_is_rolled_back() {
    let bench = on_probation();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    rolled_back(&bench, &server, Build::MisbehaveV2).await;
    // As it was when the new code came: what that has counted is in what it has stored.
    assert_eq!(count(&mut client).await, 6);
    super::killed(server).await;
    bench.put("misbehave", Build::Misbehave);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 7);
    let said = get(server.admin().await, "/stored/misbehave?prefix=misbehave:1")
        .await
        .body;
    let stored: Value = serde_json::from_str(&said).expect("JSON");
    let mut versions: Vec<_> = { stored.as_array().expect("a list").iter() }
        .map(|topic| (topic["state_version"].as_u64(), topic["set_aside"].as_u64()))
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [(Some(1), None), (Some(2), Some(2))], "{said}");
}
