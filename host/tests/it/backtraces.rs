//! The log shows where a plugin has panicked; its client learns nothing of that, and its library can still be unloaded.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";

/// Pushes an event that panics.
async fn panic(server: &Server, event: &str, payload: Value) {
    let mut client = Client::joined(server, TOPIC).await;
    client.start(TOPIC, event, payload).await;
    let crash = client.event(TOPIC, "phx_error").await;
    assert_eq!(crash, json!({ "reason": "channel_crash" }));
}

/// What stands in the log below the line with these parts, once the line `last` is there.
async fn backtrace(server: &Server, parts: &[&str], last: &str) -> Vec<String> {
    server.log.line(&[last]).await;
    let log = server.log.text();
    let behind = log
        .lines()
        .skip_while(|line| !parts.iter().all(|part| line.contains(part)));
    let frames = behind.skip(1).take_while(|line| line.starts_with("   "));
    frames.map(|line| line.trim().to_owned()).collect()
}

#[tokio::test]
async fn a_panic_shows_the_plugins_own_frames_once_a_generation() {
    let bench = Bench::new();
    let server = bench.serve().await;
    panic(&server, "panic", json!({})).await;
    let line = [
        "where it panicked",
        "plugin=\"misbehave\"",
        "generation=1",
        "thread=\"misbehave.1.",
        "handle_in panics (plugins/misbehave/src/asked.rs:",
    ];
    let frames = backtrace(&server, &line, "called by the host").await;
    let (entry, frames) = frames.split_last().expect("frames");
    assert_eq!(entry, "called by the host: handle_in");
    assert!(
        frames[0].contains("handle_asked at ") && frames[0].contains("/misbehave/src/asked.rs:"),
        "{frames:?}"
    );
    assert!(
        frames[1].contains("handle_in at ") && frames[1].contains("/misbehave/src/lib.rs:"),
        "{frames:?}"
    );
    let foreign =
        |frame: &&String| frame.contains("/rustc/") || frame.contains("/plugin-api/") || frame.contains("/host/");
    assert_eq!(frames.iter().find(foreign), None, "{frames:?}");

    // Once is enough, but another place is another story.
    panic(&server, "panic", json!({})).await;
    panic(&server, "broadcast_panic", json!({})).await;
    server.log.line(&["where it panicked", "after a broadcast"]).await;
    assert_eq!(server.log.count(&["where it panicked"]), 2);

    bench.put("misbehave", Build::MisbehaveV2);
    server.unloaded("misbehave", 1).await;
    panic(&server, "panic", json!({})).await;
    server
        .log
        .line(&["where it panicked", "generation=2", "handle_in panics"])
        .await;
}

#[tokio::test]
async fn a_thread_of_the_plugin_is_shown_from_where_it_began() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "thread_panic", json!({})).await;
    let frames = backtrace(&server, &["where it panicked", "a thread panics ("], "   0: ").await;
    assert!(frames[0].contains("/misbehave/src/asked.rs:"), "{frames:?}");
    assert!(
        !frames.iter().any(|frame| frame.contains("called by the host")),
        "{frames:?}"
    );
}
