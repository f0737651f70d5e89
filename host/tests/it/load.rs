//! `bennu load` against `bennu serve`: what it counts is what happened.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::server::{Bench, Server, bennu};

/// What `bennu load` says of one short run.
fn load(server: &Server, line: &str) -> (Output, Value) {
    let output = command(server, line).output().expect("it runs");
    let report = serde_json::from_slice(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        output,
        report.unwrap_or_else(|error| panic!("{line}: {error}\n{complained}")),
    )
}

fn command(server: &Server, line: &str) -> Command {
    let mut command = bennu();
    command.arg("load").args(line.split_whitespace());
    command.args(["--json", "--url"]);
    command.arg(format!("ws://{}/socket/websocket?vsn=2.0.0", server.address));
    command
}

fn number(report: &Value, at: &str) -> u64 {
    let value = report.pointer(at).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no {at} in {report}"))
}

/// A run in which nothing is lost. Returns what was sent and what came.
fn check_whole(server: &Server, line: &str, clients: u64) -> (u64, u64) {
    let (output, report) = load(server, line);
    assert!(output.status.success(), "{report}");
    assert_eq!(number(&report, "/joined"), clients, "{report}");
    assert_eq!(number(&report, "/events/lost"), 0, "{report}");
    let (sent, received) = (number(&report, "/events/sent"), number(&report, "/events/received"));
    assert!(sent > 0 && number(&report, "/events/measured/count") > 0, "{report}");
    (sent, received)
}

#[tokio::test]
async fn load_counts_every_echo_and_every_delivery() {
    let server = Bench::new().serve().await;
    let short = "--duration-s 0.3 --warmup-s 0.1";
    let (sent, received) = check_whole(&server, &format!("echo --clients 20 {short}"), 20);
    assert_eq!(received, sent);
    let (sent, received) = check_whole(&server, &format!("echo --clients 3 --rate 200 {short}"), 3);
    assert_eq!(received, sent);
    let (sent, received) = check_whole(&server, &format!("fanout --clients 20 --window 3 {short}"), 20);
    assert_eq!(received, 20 * sent);
    let (sent, received) = check_whole(&server, &format!("fanout --clients 20 --rate 100 {short}"), 20);
    assert_eq!(received, 20 * sent);
    let (sent, received) = check_whole(&server, &format!("rooms --clients 30 --topics 10 {short}"), 30);
    assert_eq!(received, 3 * sent);
    assert_eq!(server.log.count(&["panic"]), 0);
}

#[tokio::test]
async fn load_says_what_a_connection_takes() {
    let server = Bench::new().serve().await;
    let line = format!(
        "connect --clients 50 --topics-per-client 4 --cycles 2 --pid {}",
        server.pid()
    );
    let (output, report) = load(&server, &line);
    assert!(output.status.success(), "{report}");
    assert_eq!((number(&report, "/joined"), number(&report, "/topics")), (50, 200));
    assert!(number(&report, "/memory/before_bytes") > 100_000, "{report}");
    assert_eq!(report["memory"]["cycles"].as_array().map(Vec::len), Some(1));
    assert!(report["joins"]["latency"]["p50_us"].as_f64() > Some(0.0), "{report}");
}

#[tokio::test]
async fn load_tells_what_was_lost() {
    let server = Bench::new().serve().await;
    // The plugin does not know the event: what was sent never comes back.
    let (output, report) = load(
        &server,
        "echo --clients 2 --event nothing --rate 50 --duration-s 0.2 --timeout-s 1",
    );
    assert!(!output.status.success());
    assert_eq!(number(&report, "/events/lost"), number(&report, "/events/sent"));

    let refused = command(&server, "echo --clients 2 --topic-prefix nowhere:")
        .output()
        .expect("it runs");
    let complained = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        complained.contains("error: no client joined: its join was refused"),
        "{complained}"
    );
}
