//! A plugin that brings the host down is named at the next start, which goes back to the last good code.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";
const CRASHED: &str = "the previous run of the server crashed";

/// Brings the host down by what `how` says, in code that replaced other code before, and starts it again.
async fn check(how: &str, signal: &str, ends: fn(ExitStatus) -> bool) -> Server {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
    client.start(TOPIC, "unruly", json!({ "at": how })).await;
    let status = server.ended().await;
    assert!(ends(status), "{how}: {status}");
    let told = format!("plugin misbehave crashed the server: {signal} in handle_in of \"unruly\" (thread misbehave.2.");
    assert_eq!(server.log.count(&["bennu: ", &told, "next start"]), 1, "{how}");

    let server = bench.serve().await;
    let signal = format!("signal=\"{signal}\"");
    let place = [
        "plugin=\"misbehave\"",
        "entry=\"handle_in\"",
        "event=\"unruly\"",
        &signal,
    ];
    let line = [&[CRASHED][..], &place].concat();
    server.log.line(&line).await;
    server
        .log
        .line(&["library rejected; Bennu loads the last good one instead", "quarantined"])
        .await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
    assert_eq!(server.log.count(&[CRASHED]), 1);
    server
}

#[tokio::test]
async fn by_a_fault_of_memory() {
    check("crash", "SIGSEGV", |status| {
        status.signal() == Some(Signal::SEGV.as_raw())
    })
    .await;
}

#[tokio::test]
async fn by_an_abort() {
    check("abort", "SIGABRT", |status| {
        status.signal() == Some(Signal::ABORT.as_raw())
    })
    .await;
}

#[tokio::test]
async fn by_a_panic_while_another_unwinds() {
    check("panic_twice", "SIGABRT", |status| {
        status.signal() == Some(Signal::ABORT.as_raw())
    })
    .await;
}

#[tokio::test]
async fn by_an_overflow_of_the_stack() {
    check("overflow", "SIGSEGV", |status| {
        status.signal() == Some(Signal::ABORT.as_raw())
    })
    .await;
}

#[tokio::test]
async fn by_an_exit() {
    check("exit", "exit", |status| status.code() == Some(3)).await;
}

/// Has a thread that the plugin has started bring the host down.
async fn check_in_thread(how: &str, signal: &str) {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    let at = format!("in_thread:{how}");
    client.start(TOPIC, "unruly", json!({ "at": at })).await;
    let status = server.ended().await;
    assert!(!status.success(), "{how}: {status}");
    let told = format!("plugin misbehave crashed the server: {signal} in a thread of its own");
    assert_eq!(server.log.count(&["bennu: ", &told]), 1, "{how}");

    let server = bench.serve().await;
    let signal = format!("signal=\"{signal}\"");
    let line = [
        CRASHED,
        "plugin=\"misbehave\"",
        "entry=\"a thread of its own\"",
        &signal,
    ];
    server.log.line(&line).await;
    server
        .log
        .line(&["library rejected; Bennu loads the last good one instead", "quarantined"])
        .await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1, "{how}");
}

#[tokio::test]
async fn by_a_fault_of_memory_on_a_thread_of_its_own() {
    check_in_thread("crash", "SIGSEGV").await;
}

#[tokio::test]
async fn by_an_abort_on_a_thread_of_its_own() {
    check_in_thread("abort", "SIGABRT").await;
}

#[tokio::test]
async fn by_an_exit_on_a_thread_of_its_own() {
    check_in_thread("exit", "exit").await;
}

#[tokio::test]
async fn in_connect() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let mut connection = crate::support::http::Connection::open(server.address).await;
    let path = "/gate/longpoll?vsn=2.0.0&token=unruly&user=crash";
    connection
        .send("GET", path, "origin: https://example.com\r\n", "")
        .await;
    server.ended().await;
    let server = bench.serve().await;
    server
        .log
        .line(&[CRASHED, "plugin=\"misbehave\"", "entry=\"connect\""])
        .await;
    assert_eq!(server.stop().await.code(), Some(0));
    let server = bench.serve().await;
    assert_eq!(server.log.count(&[CRASHED]), 0, "said once");
}

/// Nobody is to blame for what an operator does.
#[tokio::test]
async fn a_host_that_is_killed_while_a_plugin_runs_accuses_nobody() {
    for signal in [Signal::KILL, Signal::ABORT] {
        let bench = Bench::new();
        let mut server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
        server.log.line(&["slow handler"]).await;
        server.signal(signal);
        assert_eq!(server.ended().await.signal(), Some(signal.as_raw()));
        let server = bench.serve().await;
        Client::joined(&server, TOPIC).await;
        assert_eq!(server.log.count(&[CRASHED]), 0);
    }
}
