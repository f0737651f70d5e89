//! A file that is no good library changes nothing: the code in service goes on, and the reason is told everywhere.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};
use crate::support::within;

const TOPIC: &str = "misbehave:1";

/// Puts `contents` in the plugin's place and has them refused by `step` with `code`, in the log with `words`.
async fn check(contents: &[u8], step: &str, code: &str, words: &str) {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    bench.put_bytes("misbehave", contents);
    refused(&server, step, code, words).await;

    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted, json!({ "topic": 2, "member": 2, "version": 1 }));
    assert_eq!(client.rest().await, [], "nobody was told anything");
    // And a good one is taken after that.
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["plugin in service", &of("misbehave"), "topics=1"])
        .await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 3);
    assert_eq!(
        plugin(server.admin().await, "misbehave").await["last_refusal"],
        Value::Null
    );
}

async fn refused(server: &Server, step: &str, code: &str, words: &str) {
    let said = server
        .log
        .line(&["library refused, the one before stays", &of("misbehave")])
        .await;
    let parts = [format!("step=\"{step}\""), format!("code=\"{code}\""), words.to_owned()];
    for part in parts {
        assert!(said.contains(&part), "{part} is missing in {said}");
    }
    let admin = server.admin().await;
    let shown = plugin(admin, "misbehave").await;
    assert_eq!(shown["generation"], 1);
    let refusal = &shown["last_refusal"];
    assert_eq!((&refusal["step"], &refusal["code"]), (&json!(step), &json!(code)));
    assert!(
        refusal["message"]
            .as_str()
            .is_some_and(|message| message.contains(words)),
        "{refusal}"
    );
    assert_eq!(
        metric(admin, "bennu_plugin_refused_loads_total{plugin=\"misbehave\"}").await,
        1
    );
    assert_eq!(metric(admin, "bennu_plugin_generation{plugin=\"misbehave\"}").await, 1);
}

#[tokio::test]
async fn a_file_without_its_end_is_refused() {
    let bytes = Build::MisbehaveV2.bytes();
    check(&bytes[..bytes.len() / 2], "check", "truncated", "it is not complete").await;
}

#[tokio::test]
async fn a_text_is_refused() {
    check(b"not a library\n", "check", "not_elf", "it is not an ELF file").await;
}

#[tokio::test]
async fn a_library_that_is_no_plugin_is_refused() {
    // One that every process has.
    let maps = fs::read_to_string("/proc/self/maps").expect("it is ours");
    let libc = maps
        .split_whitespace()
        .find(|word| word.contains("/libc.so"))
        .expect("the C library");
    check(
        &fs::read(libc).expect("read"),
        "manifest",
        "no_manifest",
        "it is not a Bennu plugin",
    )
    .await;
}

#[tokio::test]
async fn another_plugin_is_refused() {
    check(&Build::Echo.bytes(), "manifest", "wrong_name", "echo").await;
}

#[tokio::test]
async fn a_version_that_does_not_read_the_state_of_live_topics_is_refused() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put("misbehave", Build::Misbehave);
    refused(&server, "manifest", "state_version", "live topics have version 2").await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
}

#[tokio::test]
async fn without_live_topics_any_version_is_taken() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    bench.put("misbehave", Build::Misbehave);
    server.in_service("misbehave", 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
}

#[tokio::test]
async fn a_file_whose_end_comes_later_is_refused_and_then_taken() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bytes = Build::MisbehaveV2.bytes();
    let (start, end) = bytes.split_at(bytes.len() / 2);
    fs::write(bench.library("misbehave"), start).expect("written");
    refused(&server, "check", "truncated", "it is not complete").await;
    let file = OpenOptions::new().append(true).open(bench.library("misbehave"));
    file.and_then(|mut file| file.write_all(end)).expect("written");
    let before = 1;
    let parts = ["plugin in service", &of("misbehave")];
    server.log.nth_line(before, &parts).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
}

#[tokio::test]
async fn the_same_bad_file_is_refused_once() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.put_bytes("misbehave", b"not a library\n");
    refused(&server, "check", "not_elf", "it is not an ELF file").await;
    bench.put_bytes("misbehave", b"not a library\n");
    // The watcher looks at what changed first, first.
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    assert_eq!(server.log.count(&["library refused"]), 1);
    // The good one comes back, and after it the bad one: that is a change.
    let admin = server.admin().await;
    bench.put("misbehave", Build::Misbehave);
    within("good file", async {
        while plugin(admin, "misbehave").await["last_refusal"] != Value::Null {}
    })
    .await;
    assert_eq!(
        plugin(admin, "misbehave").await["generation"],
        1,
        "it has been in service all the time"
    );
    bench.put_bytes("misbehave", b"not a library\n");
    server.log.nth_line(1, &["library refused"]).await;
}
