//! What an operator needs to know: the level of the log, a full server, open files, a stage folder without code.

use std::process::Command;

use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{Connection, metric, request};
use crate::support::server::{Bench, SECRET, Server, bennu};

const TOPIC: &str = "misbehave:1";

/// Has the plugin write lines of several levels.
async fn log_something(client: &mut Client, server: &Server, times: usize) {
    client.push(TOPIC, "log", json!({})).await;
    server.log.nth_line(times, &["in a span"]).await;
}

#[tokio::test]
async fn the_level_of_the_log_changes_while_the_server_runs() {
    let bench = Bench::new();
    bench.set("log", "level", "\"info\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    log_something(&mut client, &server, 0).await;
    assert_eq!(server.log.count(&["seldom wanted"]), 0);
    assert_eq!(server.log.count(&["DEBUG"]), 0);
    // Of a plugin, which has been asked for such a line before, and of the server.
    bench.set(
        "log",
        "level",
        "\"info,misbehave::quiet=debug,bennu::server::io=debug\"",
    );
    server.log.line(&["log level changed", "misbehave::quiet=debug"]).await;
    log_something(&mut client, &server, 1).await;
    assert_eq!(server.log.count(&["seldom wanted"]), 1);
    client.join("echo:1", json!({})).await;
    server.log.line(&["DEBUG", "joined", "echo:1"]).await;
    assert_eq!(client.rest().await, [], "clients notice nothing");
    assert_eq!(server.log.count(&["restart the server to apply this change"]), 0);
}

#[tokio::test]
async fn the_environment_overrides_a_level_that_changes() {
    let bench = Bench::new();
    let server = bench.serve_with(|command| command.env("BENNU_LOG", "info")).await;
    bench.set("log", "level", "\"trace\"");
    server.log.line(&["BENNU_LOG overrides it"]).await;
    server.log.line(&["configuration replaced"]).await;
    assert_eq!(server.log.count(&["TRACE"]), 0);
}

#[tokio::test]
async fn a_full_server_says_so_in_the_log_and_in_the_metrics() {
    let bench = Bench::new();
    bench.set("limits", "max_connections", "2");
    let server = bench.serve().await;
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_refused_full_total").await, 0);
    let mut there = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address).await;
        connection.send("OPTIONS", "/socket/longpoll", "", "").await;
        assert_eq!(connection.answer().await.status, 200);
        there.push(connection);
    }
    for refused in 1..=3 {
        let path = "/socket/websocket?vsn=2.0.0";
        let answer = request(server.address, "GET", path, crate::handshake::UPGRADE, "").await;
        assert_eq!(answer.status, 503);
        assert_eq!(metric(admin, "bennu_refused_full_total").await, refused);
    }
    server
        .log
        .line(&["WARN", "server full, client refused", "max_connections=2"])
        .await;
    assert!(server.log.count(&["server full"]) < 3, "once a second at most");
}

/// `bennu`, started by a shell with this limit of open files.
fn limited(limit: &str, bench: &Bench, args: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(bennu().get_program())
        .args(args)
        .arg(bench.config())
        .env("BENNU_SECRET_KEY_BASE", SECRET)
        .env_remove("BENNU_ADMIN_SECRET")
        .env_remove("BENNU_LOG");
    shell
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let bench = Bench::new();
    let server = Server::start(limited("-S -n 256", &bench, &["serve", "--config"])).await;
    let limits = server.proc("limits");
    let line = { limits.lines() }
        .find(|line| line.starts_with("Max open files"))
        .expect("listed");
    let [soft, hard] = line.split_whitespace().skip(3).take(2).collect::<Vec<_>>()[..] else {
        panic!("{line}")
    };
    assert!(soft == hard && soft != "256", "{line}");
}

#[tokio::test]
async fn too_few_open_files_are_said_by_check_and_by_serve() {
    let bench = Bench::new();
    bench.set("limits", "max_connections", "1_000");
    let words = "the system allows this process 300 open files: about 172 clients can connect";
    let checked = limited("-n 300", &bench, &["check", "--serve"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "a warning: {said}");
    assert!(
        said.contains(words) && said.contains("the system allows 300 open files"),
        "{said}"
    );
    let server = Server::start(limited("-n 300", &bench, &["serve", "--config"])).await;
    server.log.line(&[words]).await;
}

#[test]
fn a_stage_folder_that_is_mounted_noexec_is_refused_and_named_with_its_setting() {
    let bench = Bench::new();
    let stage = bench.path("stage");
    std::fs::create_dir(&stage).expect("made");
    for args in [&["serve", "--config"][..], &["check"]] {
        // In a mount table of its own.
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o noexec none \"$1\" && shift && exec \"$0\" \"$@\"")
            .arg(bennu().get_program())
            .arg(&stage)
            .args(args)
            .arg(bench.config())
            .env("BENNU_SECRET_KEY_BASE", SECRET)
            .output()
            .expect("unshare runs");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(1), "{said}");
        let words = format!(
            "the stage folder {} is on a file system that is mounted noexec",
            stage.display()
        );
        assert!(said.contains(&words) && said.contains("`[server] stage_dir`"), "{said}");
    }
}
