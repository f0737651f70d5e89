//! The log delays and ends nothing, whatever becomes of its reader; and no client can flood it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{get, get_with, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, by};
use crate::support::within;

const TOPIC: &str = "misbehave:1";
const DROPPED: &str = "bennu_log_lines_dropped_total";

/// A server whose standard error goes to a file.
async fn logging_to(bench: &Bench, file: &Path) -> Server {
    let file = file.display().to_string();
    let program = ["sh", "-c", "exec 2>\"$0\"; exec \"$@\"", &file];
    bench.serve_by(&program).await
}

/// A named pipe, and its reader.
fn pipe(bench: &Bench) -> (PathBuf, File) {
    let path = bench.path("log");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let flags = OFlags::NONBLOCK.bits() as i32;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&path);
    (path, reader.expect("opened"))
}

/// Everything that a server does goes on: clients come, plugins panic and are replaced, and it ends as it is told.
async fn goes_on(bench: &Bench, mut server: Server) {
    let admin = server.admin().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    ann.start(TOPIC, "panic", json!({})).await;
    ann.event(TOPIC, "phx_error").await;
    for round in 0..20 {
        let mut client = Client::connect(&server).await;
        let unmatched = client.try_join("nowhere:1", json!({})).await;
        assert_eq!(unmatched["response"]["reason"], "unmatched topic");
        client.join(&format!("misbehave:{round}"), json!({})).await;
        assert_eq!(
            client.push(&format!("misbehave:{round}"), "count", json!({})).await["member"],
            1
        );
    }
    bench.put("echo", Build::Room);
    bench.put_numbered("echo", Build::Echo, 2);
    let replaced = async { while plugin(admin, "echo").await["generation"] != 2 {} };
    within("reload", replaced).await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_nothing() {
    let bench = Bench::new();
    let (path, reader) = pipe(&bench);
    let server = logging_to(&bench, &path).await;
    drop(reader);
    goes_on(&bench, server).await;
}

#[tokio::test]
async fn a_log_on_a_full_disk_ends_nothing() {
    let bench = Bench::new();
    let server = logging_to(&bench, Path::new("/dev/full")).await;
    let admin = server.admin().await;
    let dropped = async { while metric(admin, DROPPED).await == 0 {} };
    within("count of dropped lines", dropped).await;
    goes_on(&bench, server).await;
}

#[tokio::test]
async fn a_log_beyond_the_limit_of_files_ends_nothing() {
    let bench = Bench::new();
    let path = bench.path("log");
    // As if it had been written up to the limit.
    File::create(&path)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a sparse file");
    let (limit, file) = (format!("--fsize={}", 1 << 30), path.display().to_string());
    let program = ["prlimit", &limit, "sh", "-c", "exec 2>>\"$0\"; exec \"$@\"", &file];
    let mut server = bench.serve_by(&program).await;
    Client::joined(&server, TOPIC).await;
    let admin = server.admin().await;
    assert!(metric(admin, DROPPED).await > 0);
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_log_that_nobody_reads_delays_nothing_and_says_later_what_it_dropped() {
    let bench = Bench::new();
    bench.set("log", "max_queue_bytes", "65_536");
    bench.set("log", "level", "\"trace\"");
    let (path, reader) = pipe(&bench);
    let server = logging_to(&bench, &path).await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let mut events = 0;
    while metric(admin, DROPPED).await == 0 {
        client.push(TOPIC, "log", json!({})).await;
        events += 1;
        assert!(events < 5_000, "each is some lines, and there is room for 128 KiB");
    }
    assert_eq!(client.push(TOPIC, "count", json!({})).await["member"], 1);

    // Read now, by a thread: the pipe does not block.
    rustix::io::ioctl_fionbio(&reader, false).expect("set");
    let (says, mut said) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if says.send(line).is_err() {
                return;
            }
        }
    });
    let told = async {
        loop {
            let line = said.recv().await.expect("the server runs");
            if line.contains("lines of the log were dropped") {
                return line;
            }
        }
    };
    let told = within("line about those that were dropped", told).await;
    assert!(told.contains("WARN") && told.contains("lines="), "{told}");
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_a_log_that_nobody_reads() {
    let bench = Bench::new();
    bench.set("log", "max_queue_bytes", "65_536");
    let (path, reader) = pipe(&bench);
    let mut server = logging_to(&bench, &path).await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, TOPIC).await;
    while metric(admin, DROPPED).await == 0 {
        client.push(TOPIC, "log", json!({})).await;
    }
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
    drop(reader);
}

#[tokio::test]
async fn a_crash_does_not_wait_for_a_log_that_nobody_reads() {
    let bench = Bench::new();
    bench.set("log", "max_queue_bytes", "65_536");
    let (path, reader) = pipe(&bench);
    let mut server = logging_to(&bench, &path).await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, TOPIC).await;
    while metric(admin, DROPPED).await == 0 {
        client.push(TOPIC, "log", json!({})).await;
    }
    client.start(TOPIC, "unruly", json!({ "at": "crash" })).await;
    assert!(!server.ended().await.success());
    drop(reader);
}

#[tokio::test]
async fn what_a_client_causes_is_limited_by_kind_and_the_rest_is_counted_and_told() {
    const JOINS: u64 = 500;
    let bench = Bench::new();
    bench.set("log", "client_burst", "5");
    bench.set("log", "client_pause_ms", "1_000");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut client = Client::connect(&server).await;
    for _ in 0..JOINS {
        client.try_join("nowhere:1", json!({})).await;
    }
    let rest = server
        .log
        .line(&["more lines like these were left out", "no route"])
        .await;
    assert!(rest.contains("source=127.0.0.1"), "{rest}");
    let said = server
        .log
        .count(&["join refused: no route matches the topic", "peer=127.0.0.1"]) as u64;
    let left_out = metric(admin, "bennu_log_lines_left_out_total{kind=\"no route\"}").await;
    assert_eq!(said + left_out, JOINS);
    assert!((5..50).contains(&said), "{said} lines");
}

#[tokio::test]
async fn each_kind_of_refusal_is_limited() {
    let bench = Bench::new();
    bench.set("log", "client_burst", "2");
    bench.set("log", "client_pause_ms", "60_000");
    let server = bench.serve().await;
    let admin = server.admin().await;
    for _ in 0..5 {
        let foreign = "origin: https://evil.example\r\n";
        assert_eq!(
            get_with(server.address, "/gate/websocket?vsn=2.0.0", foreign)
                .await
                .status,
            403
        );
        let polled = get_with(server.address, "/gate/longpoll?vsn=2.0.0", foreign).await;
        assert_eq!(polled.json()["status"], 403);
        assert_eq!(
            get_with(server.address, "/socket/websocket?vsn=9.0.0", "").await.status,
            403
        );
        let mut client = Client::joined(&server, TOPIC).await;
        client.start(TOPIC, "panic", json!({})).await;
        client.event(TOPIC, "phx_error").await;
    }
    for (kind, line, times) in [
        ("origin", "origin refused", 10),
        ("refused", "client refused", 15),
        ("connect", "connect connection", 5),
        ("panic", "plugin panicked", 5),
    ] {
        let left_out = metric(admin, &format!("bennu_log_lines_left_out_total{{kind=\"{kind}\"}}")).await;
        assert_eq!(left_out, times - 2, "{kind}");
        server.log.nth_line(1, &[line]).await;
        assert_eq!(server.log.count(&[line]), 2, "{kind}");
    }
}

#[tokio::test]
async fn a_standard_output_that_is_closed_ends_nothing() {
    let bench = Bench::new();
    let program = ["sh", "-c", "exec 1>&-; exec \"$0\" \"$@\""];
    let mut server = Server::starting(by(&program, &bench.command()));
    let admin = server.early_admin().await;
    let ready = async { while get(admin, "/ready").await.status != 200 {} };
    within("ready server", ready).await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}
