//! `bennu load` against `bennu serve`: what it counts is what happened.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::plugins::Build;
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
    let mount = if line.contains("supabase") {
        "/supabase"
    } else {
        "/socket"
    };
    command.args(["--json", "--url"]);
    command.arg(format!("ws://{}{mount}/websocket?vsn=2.0.0", server.address));
    command
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn load_speaks_tls() {
    let (bench, _authority) = crate::support::authority::secure_bench();
    let server = bench.serve().await;
    let line = server.log.line(&["listening on https://"]).await;
    let url = line.replace("listening on https://", "wss://") + "/socket/websocket?vsn=2.0.0";
    let args =
        "load fanout --clients 50 --window 3 --payload 20000 --duration-s 0.3 --warmup-s 0.1 --insecure --json --url";
    let output = bennu().args(args.split(' ')).arg(url).output().expect("it runs");
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complained}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(
        (number(&report, "/joined"), number(&report, "/events/lost")),
        (50, 0),
        "{report}"
    );
    assert_eq!(
        number(&report, "/events/received"),
        50 * number(&report, "/events/sent")
    );
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
async fn a_herd_comes_back_and_its_refusals_are_counted() {
    let bench = Bench::new();
    bench.set("limits", "exempt", "[]");
    bench.append("[limits.address]\nconnects_per_s = 60\nburst_s = 1");
    let server = bench.serve().await;
    let files = [bench.path("herd.csv"), bench.path("herd.svg")];
    let line = format!(
        "herd --clients 50 --connecting 4 --csv {} --svg {}",
        files[0].display(),
        files[1].display()
    );
    // The first time takes more than a second's worth, and the second time begins where that ends.
    let (output, report) = load(&server, &line);
    assert!(output.status.success(), "{report}");
    assert_eq!(number(&report, "/back"), 50, "{report}");
    let refused = number(&report, "/failed/the server answered HTTP~11.1 429 Too Many Requests");
    assert!(refused > 0, "{report}");
    let curve = std::fs::read_to_string(&files[0]).expect("a curve");
    let last = curve.lines().last().expect("a point").split(',').nth(1);
    assert!(
        curve.starts_with("ms,back,failed\n0,0,0\n") && last == Some("50"),
        "{curve}"
    );
    let chart = std::fs::read_to_string(&files[1]).expect("a chart");
    assert!(chart.starts_with("<svg") && chart.contains("50 clients come back at once"));
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
async fn load_counts_what_clients_of_supabase_say_and_hear() {
    let bench = Bench::new();
    bench.put("realtime", Build::Realtime);
    bench.append(
        r#"
        [[mounts]]
        path = "/supabase"
        dialect = "supabase"

        [plugins.realtime]
        library = "librealtime.so"

        [[routes]]
        topic = "realtime:*"
        plugin = "realtime"
        "#,
    );
    let server = bench.serve().await;
    let short = "--protocol supabase --topic-prefix realtime: --duration-s 0.3 --warmup-s 0.1";
    let (sent, received) = check_whole(&server, &format!("echo --clients 20 {short}"), 20);
    assert_eq!(received, sent);
    let (sent, received) = check_whole(&server, &format!("fanout --clients 20 --window 3 {short}"), 20);
    assert_eq!(received, 20 * sent);
}

/// Five that keep up, one that is slow and two that are stuck, in a flood of which the system cannot keep all.
async fn lagging(bench: &Bench) -> Value {
    bench.set("limits", "max_outbound_bytes", "200_000");
    let server = bench.serve().await;
    let line = "fanout --clients 5 --payload 20000 --rate 400 --warmup-s 0.1 --duration-s 1.5";
    let line = format!(
        "{line} --slow 1 --slow-bytes-per-s 20000 --stuck 2 --pid {}",
        server.pid()
    );
    let (output, report) = load(&server, &line);
    assert!(output.status.success(), "{report}");
    let (sent, received) = (number(&report, "/events/sent"), number(&report, "/events/received"));
    assert!(sent > 500 && received == 5 * sent, "{report}");
    assert_eq!([number(&report, "/joined"), number(&report, "/closed")], [5, 0]);
    let joined = ["/slow/joined", "/stuck/joined"].map(|at| number(&report, at));
    assert_eq!(joined, [1, 2], "{report}");
    // 20,000 bytes a second are one message.
    let behind = ["/slow/behind", "/stuck/behind"].map(|at| number(&report, at));
    assert!((sent - 5..sent).contains(&behind[0]) && behind[1] == sent, "{report}");
    assert!(number(&report, "/memory/most_bytes") > 100_000, "{report}");
    report
}

#[tokio::test]
async fn load_counts_those_that_do_not_keep_up_apart() {
    let bench = Bench::new();
    // They read their end when all is over.
    bench.set("limits", "close_timeout_ms", "60_000");
    let report = lagging(&bench).await;
    let closed = ["/slow/closed", "/stuck/closed"].map(|at| number(&report, at));
    assert_eq!(closed, [1, 2], "{report}");
    let ends = report["stuck"]["ends"].as_object().expect("why they ended");
    assert!(ends.keys().all(|why| why.contains("1013")), "{report}");
}

#[tokio::test]
async fn load_notices_that_a_server_hung_up_on_those_that_do_not_keep_up() {
    let bench = Bench::new();
    // They do not read that they are to leave.
    bench.set("limits", "close_timeout_ms", "100");
    let report = lagging(&bench).await;
    let closed = ["/slow/closed", "/stuck/closed"].map(|at| number(&report, at));
    assert_eq!(closed, [1, 2], "{report}");
    // The system is not to keep for them what it could not send.
    let ends = report["stuck"]["ends"].as_object().expect("why they ended");
    assert!(ends.keys().all(|why| why.contains("reset")), "{report}");
}

#[tokio::test]
async fn load_counts_what_those_that_do_not_keep_up_were_never_sent() {
    let bench = Bench::new();
    let config = bench.read_config();
    let topic = r#"topic = "echo:*""#;
    bench.write_config(&config.replacen(topic, &format!("{topic}\nreplaceable = [\"shout\"]"), 1));
    let report = lagging(&bench).await;
    let closed = ["/slow/closed", "/stuck/closed"].map(|at| number(&report, at));
    assert_eq!(closed, [0, 0], "{report}");
    let skipped = ["/slow/skipped", "/stuck/skipped"].map(|at| number(&report, at));
    assert!(skipped.iter().all(|skipped| *skipped > 0), "{report}");
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
