//! A server that is told to stop lets its clients go in batches, and tells their channels why.

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::server::Bench;

#[tokio::test]
async fn clients_are_let_go_in_batches_with_a_pause_between_them() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    bench.set("server", "drain_batch_size", "2");
    bench.set("server", "drain_batch_interval_ms", "200");
    let mut server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::joined(&server, "misbehave:t").await);
    }
    server.signal(Signal::TERM);
    for open in [4, 2] {
        server.log.line(&["closing connections", &format!("open={open}")]).await;
    }
    for client in &mut clients {
        assert_eq!(client.close_code().await, 1012);
    }
    assert!(server.ended().await.success());
    assert_eq!(
        server.log.count(&["closing connections open="]),
        2,
        "two at a time, three times"
    );
}

#[tokio::test]
async fn channels_are_told_why_they_end() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:t").await;
    client.push("misbehave:t", "arm", json!({ "at": "log" })).await;
    server.signal(Signal::TERM);
    server.log.line(&["terminating: Draining"]).await;
    assert_eq!(client.close_code().await, 1012);
    assert!(server.ended().await.success());
}
