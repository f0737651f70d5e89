//! A collector that is dead, slow or not willing costs spans, and nothing else.

use std::net::TcpListener;
use std::time::Instant;

use serde_json::json;

use super::{TOPIC, bench};
use crate::api;
use crate::support::client::Client;
use crate::support::http::{metric, reaches};
use crate::support::otlp::Collector;
use crate::support::server::Server;

const NOT_TAKEN: &str = "bennu_spans_dropped_total{reason=\"not_taken\"}";
const QUEUE_FULL: &str = "bennu_spans_dropped_total{reason=\"queue_full\"}";

/// Sends many events, and sees that each is answered.
async fn talk(server: &Server, many: u64) {
    let mut client = Client::joined(server, TOPIC).await;
    for number in 0..many {
        let answer = client.push(TOPIC, "echo", json!({ "n": number })).await;
        assert_eq!(answer, json!({ "n": number }));
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_no_message() {
    let bench = api::bench();
    // Nobody listens there any more.
    let address = { TcpListener::bind("127.0.0.1:0") }.and_then(|free| free.local_addr());
    let address = address.expect("a port");
    bench.append(&format!(
        "[telemetry]\nendpoint = \"http://{address}/v1/traces\"\ninterval_ms = 20\ntimeout_ms = 50\nratio = 1.0\nflush_timeout_ms = 100"
    ));
    let server = bench.serve().await;
    talk(&server, 100).await;
    let admin = server.admin().await;
    reaches(admin, NOT_TAKEN, 1).await;
    server
        .log
        .line(&["spans are lost", "endpoint=", "why=", "refused="])
        .await;
    assert_eq!(metric(admin, "bennu_spans_exported_total").await, 0);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_collector_that_stalls_costs_no_message_no_memory_and_no_time_at_the_stop() {
    let collector = Collector::start().await;
    collector.stall();
    let bench = bench(&collector);
    bench.set("telemetry", "max_queue_spans", "16");
    bench.set("telemetry", "timeout_ms", "60_000");
    bench.set("telemetry", "flush_timeout_ms", "100");
    let server = bench.serve().await;
    talk(&server, 200).await;
    collector.until("a request", |taken| !taken.heads.is_empty()).await;
    talk(&server, 200).await;
    let admin = server.admin().await;
    let waiting = metric(admin, "bennu_spans_waiting").await;
    assert!(waiting <= 16, "{waiting}");
    reaches(admin, QUEUE_FULL, 300).await;
    let log = server.log.clone();
    let begun = Instant::now();
    assert!(server.stop().await.success());
    assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
    log.line(&["the collector did not take the last spans", "`flush_timeout_ms`"])
        .await;
}

#[tokio::test]
async fn a_collector_that_refuses_is_named_with_its_reason_until_it_takes_spans_again() {
    let collector = Collector::start().await;
    collector.answer(401);
    let bench = bench(&collector);
    let server = bench.serve().await;
    talk(&server, 5).await;
    let line = server.log.line(&["spans are lost"]).await;
    assert!(line.contains("it answers with the status 401"), "{line}");
    collector.answer(200);
    talk(&server, 5).await;
    server.log.line(&["the collector takes spans again"]).await;
    let admin = server.admin().await;
    reaches(admin, "bennu_spans_exported_total", 1).await;
    // It did not ask twice for what was refused for good.
    let (refused, taken) = (metric(admin, NOT_TAKEN).await, collector.taken());
    assert!(refused > 0);
    assert!(taken.spans.iter().any(|span| span.name == "event"));
}
