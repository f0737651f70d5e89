//! Faults of plugins, of their files and of the machine: what is said of them, once, and what goes on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::command::check_refused;
use crate::support::http::{Connection, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};
use crate::support::within;

const TOPIC: &str = "misbehave:1";

/// A field of a line of the log, as a number.
fn number(line: &str, field: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!(" {field}="))?;
    rest.split(' ').next()?.parse().ok()
}

async fn count(client: &mut Client, topic: &str) -> Value {
    client.push(topic, "count", json!({})).await
}

/// A server with a topic on generation 1, which generation 2 could not read, and another on generation 2.
async fn with_a_topic_that_stayed(bench: &Bench) -> (Server, Client) {
    bench.set("plugins.misbehave", "probe_topics", "0");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put("misbehave", Build::MisbehaveBadRestore);
    server.log.line(&["could not be moved", "failed=1", TOPIC]).await;
    client.join("misbehave:2", json!({})).await;
    bench.set("plugins.misbehave", "probe_topics", "8");
    server.log.line(&["configuration replaced"]).await;
    (server, client)
}

/// Has code refused that dies of the state of a topic.
async fn refused_for_its_crash(bench: &Bench, server: &Server, client: &mut Client) {
    bench.put("misbehave", Build::MisbehaveV2);
    let parts = ["library rejected", "step=\"probe\"", "code=\"probe_crashed\""];
    let said = server.log.line(&parts).await;
    assert!(said.contains("while it read a sample of the live state"), "{said}");
    assert_eq!(count(client, TOPIC).await["version"], 1, "the host goes on");
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn code_is_tried_on_topics_that_stayed_on_older_code() {
    for how in ["overflow", "panic_twice"] {
        let bench = Bench::new();
        let (server, mut client) = with_a_topic_that_stayed(&bench).await;
        client
            .push(TOPIC, "arm", json!({ "at": format!("{how}:restore") }))
            .await;
        refused_for_its_crash(&bench, &server, &mut client).await;
        assert_eq!(count(&mut client, "misbehave:2").await["topic"], 1);
    }
}

#[tokio::test]
async fn code_is_tried_on_topics_that_may_start_anew() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_migrate_error", "\"rejoin\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "arm", json!({ "at": "overflow:restore" })).await;
    refused_for_its_crash(&bench, &server, &mut client).await;
}

#[tokio::test]
async fn a_topic_that_stayed_on_older_code_may_stay_there_again() {
    let bench = Bench::new();
    let (server, mut client) = with_a_topic_that_stayed(&bench).await;
    client.push(TOPIC, "arm", json!({ "at": "restore_error" })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 3).await;
    server
        .log
        .line(&["could not be moved", "failed=1", TOPIC, "trap in restore"])
        .await;
    assert_eq!(count(&mut client, TOPIC).await["version"], 1);
    assert_eq!(count(&mut client, "misbehave:2").await["version"], 2);
    assert_eq!(client.rest().await, []);
}

/// A server whose only topic is busy while the library is replaced, and what is to be answered when it is no longer.
async fn replaced_while_busy(bench: &Bench, traps: &[&str]) -> (Server, Client, String) {
    bench.set("plugins.misbehave", "shards", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    for trap in traps {
        client.push(TOPIC, "arm", json!({ "at": trap })).await;
    }
    let slept = client.start(TOPIC, "sleep", json!({ "ms": 2_500 })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let busy = ["could not be moved", "failed=1", "handler is still running"];
    server.log.line(&busy).await;
    (server, client, slept)
}

#[tokio::test]
async fn topics_of_code_that_was_too_busy_for_a_sample_move_when_it_has_a_moment() {
    let bench = Bench::new();
    let (server, mut client, slept) = replaced_while_busy(&bench, &[]).await;
    let behind = client.start(TOPIC, "count", json!({})).await;
    assert_eq!(client.answer(&slept).await["status"], "ok");
    server
        .log
        .line(&["topics moved later", &of("misbehave"), "topics=1"])
        .await;
    assert_eq!(client.answer(&behind).await["response"]["topic"], 1);
    assert_eq!(count(&mut client, TOPIC).await["version"], 2);
    server.unloaded("misbehave", 1).await;
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn state_that_would_end_the_host_is_not_given_to_new_code_later_either() {
    let bench = Bench::new();
    let (server, mut client, slept) = replaced_while_busy(&bench, &["overflow:restore"]).await;
    assert_eq!(client.answer(&slept).await["status"], "ok");
    let said = server
        .log
        .line(&["topics not moved: the new code failed", &of("misbehave")])
        .await;
    assert!(said.contains("it crashed with SIG"), "{said}");
    assert_eq!(count(&mut client, TOPIC).await["version"], 1);
    client.join("misbehave:2", json!({})).await;
    assert_eq!(count(&mut client, "misbehave:2").await["version"], 2);
    assert_eq!(client.rest().await, []);
}

/// Code on probation has written what the previous code dies of.
#[tokio::test]
async fn state_that_would_end_the_host_is_not_given_back_to_the_code_before() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client, TOPIC).await["topic"], 2);
    client.push(TOPIC, "arm", json!({ "at": "overflow:restore" })).await;
    for _ in 0..2 {
        let mut bad = Client::joined(&server, "misbehave:bad").await;
        bad.start("misbehave:bad", "panic", json!({})).await;
        bad.event("misbehave:bad", "phx_error").await;
    }
    server
        .log
        .line(&["cannot take the current state", "it crashed with SIG"])
        .await;
    let said = server.log.line(&["rolled back to generation"]).await;
    assert!(said.contains("restored=1"), "{said}");
    assert_eq!(count(&mut client, TOPIC).await["topic"], 2, "as at the swap");
    assert_eq!(client.rest().await, []);
}

/// What the host asks of a plugin for itself is no fault of the plugin's.
#[tokio::test]
async fn a_topic_that_is_too_large_for_a_sample_is_said_to_be() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_bytes", "8");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    count(&mut client, TOPIC).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let said = server
        .log
        .line(&["no sample: the state of this topic is too large", TOPIC])
        .await;
    assert!(said.contains(" INFO ") && said.contains("probe_bytes=8"), "{said}");
    assert_eq!(count(&mut client, TOPIC).await["version"], 2);
    assert_eq!(server.log.count(&["effect refused"]), 0);
    let refused = "bennu_plugin_refused_effects_total{plugin=\"misbehave\"}";
    assert_eq!(metric(server.admin().await, refused).await, 0);
}

#[tokio::test]
async fn a_flood_of_refused_effects_is_a_line_a_second_that_says_how_many_more_there_were() {
    const FLOOD: u64 = 3_000;
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_effects_per_event", "10");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client
        .start(TOPIC, "flood_broadcast", json!({ "count": FLOOD + 10 }))
        .await;
    client.push(TOPIC, "count", json!({})).await;
    let refused = ["effect refused", &of("misbehave"), "topic=\"misbehave:1\"", "broadcast"];
    let said = server.log.line(&refused).await;
    assert!(
        said.contains("max_effects_per_event") && said.contains("event=\"flood\""),
        "{said}"
    );
    let (mut lines, mut told) = (1, 1);
    while told < FLOOD {
        let line = server.log.nth_line(lines, &refused).await;
        told += number(&line, "more").expect("how many more");
        lines += 1;
    }
    assert!(lines < 10, "{lines} lines");
    let name = "bennu_plugin_refused_effects_total{plugin=\"misbehave\"}";
    assert_eq!(metric(server.admin().await, name).await, FLOOD);
}

/// What lies in the place of a library that was served.
fn put_instead(library: &Path, what: &str) {
    fs::remove_file(library).expect("it was there");
    match what {
        "empty" => fs::write(library, "").expect("written"),
        "directory" => fs::create_dir(library).expect("made"),
        "fifo" => {
            let made = Command::new("mkfifo").arg(library).status().expect("mkfifo runs");
            assert!(made.success());
        }
        _ => {}
    }
}

fn remove(library: &Path) {
    let removed = match library.is_dir() {
        true => fs::remove_dir(library),
        false => fs::remove_file(library),
    };
    removed.expect("it was there");
}

const INSTEAD: [(&str, &str); 4] = [
    ("missing", "there is no such file"),
    ("empty", "it is empty"),
    ("directory", "it is a directory"),
    ("fifo", "it is not a regular file"),
];

#[tokio::test]
async fn a_library_that_is_gone_is_told_of_once_and_when_it_is_back() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let library = bench.library("misbehave");
    let mut client = Client::joined(&server, TOPIC).await;
    for (before, (what, why)) in INSTEAD.into_iter().enumerate() {
        put_instead(&library, what);
        let gone = [
            "the library cannot be read",
            &of("misbehave"),
            "generation 1 stays in service",
        ];
        let said = server.log.nth_line(before, &gone).await;
        assert!(said.contains(" WARN ") && said.contains(why), "{what}: {said}");
        assert_eq!(count(&mut client, TOPIC).await["topic"], before + 1);
        if what != "missing" {
            remove(&library);
        }
        bench.put("misbehave", Build::Misbehave);
        server
            .log
            .nth_line(before, &["the library file exists again", &of("misbehave")])
            .await;
        assert_eq!(server.log.count(&gone), before + 1);
    }
    assert_eq!(plugin(server.admin().await, "misbehave").await["generation"], 1);
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_start_without_a_library_says_what_lies_in_its_place() {
    for (what, why) in [
        ("missing", "libmisbehave.so: No such file"),
        ("empty", "libmisbehave.so is empty"),
        ("directory", "libmisbehave.so is a directory"),
        ("fifo", "libmisbehave.so is not a regular file"),
    ] {
        let bench = Bench::new();
        put_instead(&bench.library("misbehave"), what);
        check_refused(|command| command.args(["serve", "--config"]).arg(bench.config()), why);
    }
}

#[tokio::test]
async fn what_a_plugin_says_of_its_errors_is_one_line_of_a_kibibyte() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let long = "first\nsecond\u{1b}[31m\n".repeat(1_000);
    client.start(TOPIC, "panic", json!({ "payload": long })).await;
    client.event(TOPIC, "phx_error").await;
    let panicked = server.log.line(&["plugin panicked"]).await;
    let place = server.log.line(&["where it panicked"]).await;
    bench.set("plugins.misbehave", "settings", "{ check = \"refuse_at_length\" }");
    let settings = server.log.line(&["refused on request refused on request"]).await;
    bench.set("plugins.misbehave", "settings", "{ init = \"refuse_at_length\" }");
    let init = server.log.line(&["did not start", "refused on request"]).await;
    for (line, most) in [(panicked, 1_500), (place, 20_000), (settings, 1_500), (init, 1_500)] {
        assert!(line.len() < most, "{} bytes: {line}", line.len());
        assert!(line.contains("bytes in all)"), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    for line in ["second", "on request"] {
        assert!(!server.log.text().lines().any(|said| said.starts_with(line)));
    }
}

#[tokio::test]
async fn a_plugin_cannot_write_a_line_that_looks_like_the_hosts() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let forged = "hello\n2026-01-01T00:00:00Z ERROR bennu::server: forged";
    client.push(TOPIC, "log", json!({ "payload": forged })).await;
    let said = server.log.line(&["forged"]).await;
    assert!(said.contains("hello\\n2026-01-01"), "{said}");
}

/// Starts a server that stages its libraries in this temporary folder.
async fn staging_in(bench: &Bench, temporary: &Path) -> Server {
    bench.serve_with(|command| command.env("TMPDIR", temporary)).await
}

#[tokio::test]
async fn what_a_host_that_was_killed_had_staged_is_removed_when_the_next_starts() {
    let bench = Bench::new();
    let temporary = bench.path("temporary");
    fs::create_dir(&temporary).expect("made");
    bench.write_config(&bench.read_config().replace("stage_dir = \"stage\"\n", ""));
    let folders = || {
        let entries = fs::read_dir(&temporary).expect("read");
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        names
    };
    let mut killed = staging_in(&bench, &temporary).await;
    let first = folders();
    let living = staging_in(&bench, &temporary).await;
    assert_eq!(folders().len(), 2, "that of a host that runs stays");
    killed.signal(Signal::KILL);
    killed.ended().await;
    let next = staging_in(&bench, &temporary).await;
    let now = folders();
    assert_eq!(now.len(), 2);
    assert!(!now.contains(&first[0]));
    let mut client = Client::joined(&living, TOPIC).await;
    count(&mut client, TOPIC).await;
    assert!(next.stop().await.success() && living.stop().await.success());
    assert_eq!(folders().len(), 0);
}

#[tokio::test]
async fn out_of_descriptors_it_says_so_once_a_second_and_recovers() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let admin = server.admin().await;
    // It comes by a connection that is there already, as some probes do.
    let mut probe = Connection::open(admin).await;
    assert_eq!(probe.get("/ready").await.status, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .expect("running")
        .count() as u64;
    let limit = |most: u64| {
        let pid = Pid::from_raw(server.pid().cast_signed());
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(4_096),
        };
        prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    };
    let started = Instant::now();
    limit(open);
    // Some numbers below may be free.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let connected = tokio::net::TcpStream::connect(server.address).await;
        waiting.push(connected.expect("the system takes it"));
    }
    let cannot = ["cannot accept connections"];
    server.log.line(&cannot).await;
    let mut lines = 1;
    while number(&server.log.nth_line(lines, &cannot).await, "more").is_none_or(|more| more <= 3) {
        lines += 1;
    }
    let ready = probe.get("/ready").await;
    assert_eq!((ready.status, &*ready.body), (503, "cannot accept connections\n"));
    assert_eq!(count(&mut client, TOPIC).await["topic"], 1);
    // Those of the other listeners are said as seldom.
    let other = tokio::net::TcpStream::connect(admin)
        .await
        .expect("the system takes it");
    server
        .log
        .line(&["cannot accept connections", "of=\"the admin listener\""])
        .await;
    limit(4_096);
    drop(other);
    // It is said to be well when it has been for a second, at the next connection.
    let mut counted = 1;
    let is_well = async {
        while server.log.count(&["accepting connections again"]) == 0 {
            let mut other = Client::joined(&server, TOPIC).await;
            counted += 1;
            assert_eq!(count(&mut other, TOPIC).await["topic"], counted);
        }
    };
    within("word that all is well", is_well).await;
    let said = server.log.count(&cannot) as u64;
    assert!(
        said <= 2 * (started.elapsed().as_secs() + 1),
        "{said} lines of two listeners"
    );
    assert_eq!(probe.get("/ready").await.status, 200);
    assert_eq!(plugin(admin, "misbehave").await["generation"], 1);
    drop(waiting);
}

/// Has a library rejected for want of a place to stage it, and loaded when there is one.
async fn tried_again(bench: &Bench, fill: impl FnOnce(&Path), clear: impl FnOnce(&Path)) {
    // The client is silent meanwhile.
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let stage = fs::read_dir(bench.path("stage")).expect("read").flatten().next();
    let stage = stage.expect("that of the server").path();
    fill(&stage);
    bench.put("misbehave", Build::MisbehaveV2);
    let refused = ["library rejected", &of("misbehave"), "step=\"stage\""];
    let said = server.log.line(&refused).await;
    assert_eq!(number(&said, "again_in_s"), Some(1), "{said}");
    let said = server.log.nth_line(1, &refused).await;
    assert_eq!(number(&said, "again_in_s"), Some(2), "{said}");
    clear(&stage);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client, TOPIC).await["version"], 2);
    assert_eq!(
        plugin(server.admin().await, "misbehave").await["last_refusal"],
        Value::Null
    );
}

#[tokio::test]
async fn a_library_that_could_not_be_staged_is_tried_again() {
    let bench = Bench::new();
    let moved = bench.path("moved");
    tried_again(
        &bench,
        |stage| {
            fs::rename(stage, &moved).expect("moved");
            fs::write(stage, "in the way").expect("written");
        },
        |stage| {
            fs::remove_file(stage).expect("there");
            fs::rename(&moved, stage).expect("moved back");
        },
    )
    .await;
}

/// A small disk, for as long as this is there.
struct Disk(PathBuf);

impl Disk {
    /// `None` where only root may have one.
    fn mounted(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).expect("made");
        let mut mount = Command::new("mount");
        let output = mount
            .args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"])
            .arg(&at)
            .output();
        output.is_ok_and(|ran| ran.status.success()).then_some(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_library_that_the_disk_had_no_room_for_is_tried_again() {
    let bench = Bench::new();
    let Some(_disk) = Disk::mounted(bench.path("stage")) else {
        #[allow(clippy::print_stderr, reason = "a test that shows nothing says so")]
        {
            eprintln!("skipped: only root can mount a small disk");
        }
        return;
    };
    let fill = |stage: &Path| {
        let file = File::create(stage.join("full"));
        let filled = file.and_then(|mut file| io::copy(&mut io::repeat(0), &mut file));
        assert_eq!(filled.expect_err("it is endless").kind(), io::ErrorKind::StorageFull);
    };
    let clear = |stage: &Path| fs::remove_file(stage.join("full")).expect("it is there");
    tried_again(&bench, fill, clear).await;
}

#[tokio::test]
async fn a_folder_that_nothing_can_be_staged_in_is_named_at_the_start() {
    let bench = Bench::new();
    fs::write(bench.path("stage"), "in the way").expect("written");
    let words = format!(
        "libraries in {}; set `[server] stage_dir` to another folder: File exists",
        bench.path("stage").display()
    );
    check_refused(
        |command| command.args(["serve", "--config"]).arg(bench.config()),
        &words,
    );
}
