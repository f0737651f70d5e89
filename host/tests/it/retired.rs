//! Of a library that was replaced nothing is left: no code in memory, no copy on the disk.

use std::fs;

use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";

/// The staged libraries of a plugin that have code in memory.
fn mapped(server: &Server, plugin: &str) -> Vec<String> {
    let maps = server.proc("maps");
    let lines = maps
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.contains('x')));
    let files = lines.filter_map(|line| line.split('/').nth_back(0));
    let mut files: Vec<String> = files
        .filter(|file| file.starts_with(plugin))
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

/// The files of a plugin in the folder for staged libraries.
fn staged(bench: &Bench, plugin: &str) -> Vec<String> {
    let files = fs::read_dir(bench.path("stage")).expect("the folder");
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(plugin)).collect()
}

#[tokio::test]
async fn of_a_replaced_library_nothing_is_left() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    let (old_code, old_files) = (mapped(&server, "misbehave"), staged(&bench, "misbehave"));
    assert_eq!(old_code.len(), 1, "{old_code:?}");

    bench.put("misbehave", Build::MisbehaveV2);
    server.unloaded("misbehave", 1).await;

    let (code, files) = (mapped(&server, "misbehave"), staged(&bench, "misbehave"));
    assert_eq!(code.len(), 1, "{code:?}");
    assert_ne!(code, old_code);
    assert!(files.iter().all(|file| !old_files.contains(file)), "{files:?}");
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
}

#[tokio::test]
async fn after_twenty_reloads_only_the_last_library_is_there() {
    let bench = Bench::new();
    bench.set("plugins.echo", "retire_ms", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    for reload in 1..=20 {
        bench.put_numbered("echo", Build::Echo, reload);
        server.in_service("echo", reload + 1).await;
        client.push("echo:1", "echo", json!({ "reload": reload })).await;
    }
    for generation in 1..=20 {
        server.unloaded("echo", generation).await;
    }
    assert_eq!(mapped(&server, "echo").len(), 1);
    assert!(staged(&bench, "echo").len() <= 1);
    let admin = server.admin().await;
    assert_eq!(plugin(admin, "echo").await["leaked_generations"], 0);
    assert_eq!(metric(admin, "bennu_plugin_loads_total{plugin=\"echo\"}").await, 21);
    let names = server.thread_names();
    let shards = names.iter().filter(|name| name.starts_with("echo."));
    assert_eq!(shards.count(), 2, "two shards run");
}

#[tokio::test]
async fn a_thread_of_a_plugin_that_does_not_end_is_not_pulled_from_under_it() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    // Longer than the plugin's time to shut down.
    let late = client.start(TOPIC, "later_thread", json!({ "ms": 2_500 })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server
        .log
        .line(&[
            "generation ended; its library stays in memory",
            "plugin=\"misbehave\"",
            "generation=1",
        ])
        .await;
    assert_eq!(
        metric(
            server.admin().await,
            "bennu_plugin_leaked_generations{plugin=\"misbehave\"}"
        )
        .await,
        1
    );
    let shown = plugin(server.admin().await, "misbehave").await;
    assert_eq!(shown["leaked"][0]["generation"], 1);
    let cause = shown["leaked"][0]["cause"].as_str().expect("a cause");
    assert!(cause.starts_with("threads: misbehave.1."), "{cause}");
    // The thread wakes, and the host is still there.
    let answer = client.start(TOPIC, "later", json!({ "ms": 2_500 })).await;
    assert_eq!(client.answer(&answer).await["status"], "ok");
    drop(late);
}

/// Replaces the plugin and waits until nothing of the old code is left.
async fn replaced(bench: &Bench, server: &Server) {
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server.unloaded("misbehave", 1).await;
}

#[tokio::test]
async fn what_nobody_can_answer_any_more_is_answered_when_the_old_code_ends() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "join_deadline_ms", "60_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let reply = client.start(TOPIC, "never", json!({})).await;
    let join = client.start_join("misbehave:2", json!({ "do": "never" })).await;
    replaced(&bench, &server).await;
    let reloaded = json!({ "status": "error", "response": { "reason": "reloaded" } });
    assert_eq!(client.answer(&reply).await, reloaded);
    assert_eq!(client.answer(&join).await, reloaded);
    assert_eq!(
        client.push(TOPIC, "count", json!({})).await["version"],
        2,
        "the channel goes on"
    );
}

#[tokio::test]
async fn a_promise_in_state_or_in_a_timer_is_kept_by_the_code_that_follows() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "join_deadline_ms", "60_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let ms = json!({ "ms": 2_500, "do": "later_timer" });
    let answers = [
        client.start(TOPIC, "later", ms.clone()).await,
        client.start(TOPIC, "later_data", ms.clone()).await,
        client.start_join("misbehave:2", ms).await,
    ];
    replaced(&bench, &server).await;
    assert_eq!(client.rest().await, [], "not yet");
    for answer in answers {
        let late = json!({ "status": "ok", "response": { "late": true } });
        assert_eq!(client.answer(&answer).await, late);
    }
}

/// The old code's thread is done within `retire_ms`, and its answer finds the topic in the new code.
#[tokio::test]
async fn late_work_of_the_old_code_reaches_its_topic() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "retire_ms", "60_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let reply = client.start(TOPIC, "later_thread", json!({ "ms": 1_500 })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    assert_eq!(client.rest().await, [], "not yet");
    assert_eq!(client.answer(&reply).await["response"], json!({ "late": true }));
}

#[tokio::test]
async fn past_the_bound_of_libraries_that_stay_no_other_is_loaded() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_leaked", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "later_thread", json!({ "ms": 60_000 })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server
        .log
        .line(&["parts of this generation stay in memory", "generation=1"])
        .await;
    bench.put_numbered("misbehave", Build::MisbehaveV2, 1);
    let said = server
        .log
        .line(&["library rejected", "step=\"load\"", "code=\"leaked\""])
        .await;
    assert!(said.contains("threads: misbehave.1."), "{said}");
    assert_eq!(
        client.push(TOPIC, "count", json!({})).await["version"],
        2,
        "the code in service goes on"
    );
}
