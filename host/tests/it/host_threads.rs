//! A server with a dead thread does not go on for some of its clients: it says so, is not ready, and ends with an error.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{get, request};
use crate::support::server::{Bench, Server};
use crate::support::within;

/// Names the file whose contents name the thread that panics. In debug builds only.
const FAULT: &str = "BENNU_FAULT_THREAD";

/// A server whose threads can be ended by [`end`].
async fn faulty(bench: &Bench) -> Server {
    let file = bench.path("thread");
    fs::write(&file, "none").expect("written");
    bench.serve_with(|command| command.env(FAULT, file)).await
}

fn end(bench: &Bench, thread: &str) {
    let new = bench.path("thread.new");
    fs::write(&new, thread).expect("written");
    fs::rename(new, bench.path("thread")).expect("moved");
}

async fn check(thread: &str) {
    let bench = Bench::new();
    let mut server = faulty(&bench).await;
    let admin = server.admin().await;
    let _client = Client::joined(&server, "misbehave:1").await;
    end(&bench, thread);
    // The thread of plugins has nothing to do until then, and that of timers is woken by them.
    let _ = request(admin, "PUT", "/plugins/echo/reload", "", "").await;
    server
        .log
        .line(&["a thread of the host has ended", thread, "ended on purpose"])
        .await;
    let status = server.ended().await;
    assert_eq!(status.code(), Some(1), "{thread}");
    let said = format!("error: the thread {thread} has ended: it panicked: ended on purpose");
    assert_eq!(server.log.count(&[&said]), 1, "{}", server.log.text());
}

#[tokio::test]
async fn a_server_without_one_of_its_io_threads_ends() {
    check("io.1").await;
}

#[tokio::test]
async fn a_server_without_its_timers_ends() {
    check("timers").await;
}

#[tokio::test]
async fn a_server_without_its_watchdog_ends() {
    check("watchdog").await;
}

#[tokio::test]
async fn a_server_that_can_change_no_plugin_any_more_ends() {
    check("plugins").await;
}

#[tokio::test]
async fn a_server_that_writes_no_log_any_more_ends() {
    let bench = Bench::new();
    let mut server = faulty(&bench).await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    end(&bench, "log");
    // The thread writes this, and then looks whether it is to end.
    client.start("misbehave:1", "log", json!({})).await;
    assert_eq!(server.ended().await.code(), Some(1));
    let said = "error: the thread log has ended: it panicked: ended on purpose";
    assert_eq!(server.log.count(&[said]), 1, "{}", server.log.text());
}

#[tokio::test]
async fn a_server_with_a_dead_thread_is_not_ready_while_others_finish() {
    let bench = Bench::new();
    bench.set("server", "shutdown_timeout_ms", "30_000");
    bench.set("plugins.misbehave", "deadline_ms", "60_000");
    let mut server = faulty(&bench).await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "unruly", json!({ "at": "hang" })).await;
    server.log.line(&["slow handler"]).await;
    end(&bench, "io.0");
    server.log.line(&["a thread of the host has ended"]).await;
    // Said a moment after the line.
    let not_ready = async {
        loop {
            let ready = get(admin, "/ready").await;
            if ready.status != 200 {
                return ready;
            }
        }
    };
    let ready = within("end of readiness", not_ready).await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "the thread io.0 has ended: it panicked: ended on purpose\n");
    server.signal(Signal::TERM);
    assert_eq!(within("end", server.ended()).await.code(), Some(1));
}
