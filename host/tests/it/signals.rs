//! Signals: SIGHUP has everything read anew, and what a parent has blocked or ignored keeps no server from its end.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

const REREAD: &str = "reading the configuration and all libraries again";

#[tokio::test]
async fn sighup_has_everything_read_anew_and_ends_nothing() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    bench.put_numbered("room", Build::Room, 2);
    bench.set("limits", "max_topic_bytes", "100");
    server.signal(Signal::HUP);
    server.log.line(&[REREAD]).await;
    server.log.line(&["configuration replaced"]).await;
    server.in_service("room", 2).await;
    server.log.line(&["library unchanged", "plugin=\"echo\""]).await;
    assert_eq!(
        client.push("echo:1", "echo", json!({ "a": 1 })).await,
        json!({ "a": 1 })
    );
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn sigusr1_and_sigusr2_do_nothing_and_say_so() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        server.signal(signal);
        server.log.line(&["this signal does nothing", name]).await;
    }
    client.push("echo:1", "echo", json!({})).await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_server_that_is_stopped_while_it_starts_says_so_and_ends_well() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveAtLoad);
    fs::write(bench.path("gate"), "").expect("written");
    let mut command = bench.command();
    command.env("MISBEHAVE_AT_LOAD", "wait");
    command.env("MISBEHAVE_WAITS_FOR", bench.path("gate"));
    let mut server = Server::starting(command);
    // Its probe waits.
    server
        .log
        .line(&["step passed", &of("misbehave"), "step=\"stage\""])
        .await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
    server.log.line(&["stopped before it was ready"]).await;
}

#[tokio::test]
async fn a_server_under_nohup_ignores_sighup() {
    let bench = Bench::new();
    let mut server = bench.serve_by(&["nohup"]).await;
    server.signal(Signal::HUP);
    let mut client = Client::joined(&server, "echo:1").await;
    client.push("echo:1", "echo", json!({})).await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
    assert_eq!(server.log.count(&[REREAD]), 0);
}

#[tokio::test]
async fn a_parent_that_blocks_or_ignores_signals_keeps_no_server_from_its_end() {
    for program in [
        &["env", "--block-signal=TERM,INT,HUP,CHLD,SEGV"][..],
        &["env", "--ignore-signal=TERM,INT,CHLD,PIPE"],
    ] {
        let bench = Bench::new();
        // It has tried its plugins in child processes by then, and knows of their ends.
        let mut server = bench.serve_by(program).await;
        server.signal(Signal::HUP);
        server.log.line(&[REREAD]).await;
        server.signal(Signal::TERM);
        assert!(server.ended().await.success(), "{program:?}");
    }
}
