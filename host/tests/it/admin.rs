//! The admin listener.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, get_with, metric, plugin};
use crate::support::server::{Bench, Server, bennu};

const SECRET: &str = "for the operator's eyes";

#[tokio::test]
async fn a_server_with_all_its_plugins_is_ready() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let (health, ready) = (get(admin, "/health").await, get(admin, "/ready").await);
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    assert_eq!(get(admin, "/nothing").await.status, 404);
    assert_eq!(
        get(server.address, "/health").await.status,
        404,
        "not where clients connect"
    );
}

#[tokio::test]
async fn a_server_without_one_of_its_plugins_is_not_ready() {
    let bench = Bench::new();
    // In `dev` a plugin that cannot be loaded may be mended later. An empty workspace has nothing to be built.
    let empty = "[package]\nname = \"empty\"\n[lib]\npath = \"empty.rs\"\n";
    std::fs::write(bench.path("Cargo.toml"), empty).expect("written");
    std::fs::write(bench.path("empty.rs"), "").expect("written");
    bench.put_bytes("room", b"not a library\n");
    let mut dev = bennu();
    dev.args(["dev", "--config"]).arg(bench.config());
    let server = Server::start(dev).await;
    let admin = server.admin().await;
    let ready = get(admin, "/ready").await;
    assert_eq!((ready.status, &*ready.body), (503, "not in service: room\n"));
    assert_eq!(get(admin, "/health").await.status, 200);
    let room = plugin(admin, "room").await;
    assert_eq!(
        (&room["state"], &room["generation"]),
        (&json!("unavailable"), &Value::Null)
    );
    assert_eq!(room["last_refusal"]["code"], "not_elf");
    let mut client = Client::connect(&server).await;
    let reply = client.try_join("room:1", json!({ "name": "ann" })).await;
    assert_eq!(
        reply,
        json!({ "status": "error", "response": { "reason": "plugin unavailable" } })
    );
    client.join("echo:1", json!({})).await;
}

#[tokio::test]
async fn plugins_are_listed_with_what_they_do() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    client.push("echo:1", "echo", json!({})).await;
    let echo = plugin(server.admin().await, "echo").await;
    for (key, value) in [
        ("state", json!("in service")),
        ("generation", json!(1)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("shards", json!(2)),
        ("topics", json!(1)),
        ("events", json!(2)),
        ("panics", json!(0)),
        ("loads", json!(1)),
        ("leaked_generations", json!(0)),
        ("last_refusal", Value::Null),
    ] {
        assert_eq!(echo[key], value, "{key}");
    }
    assert_eq!(echo["hash"].as_str().map(str::len), Some(12));
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    client.push("echo:1", "echo", json!({})).await;
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_sockets").await, 1);
    assert_eq!(metric(admin, "bennu_messages_in_total").await, 2);
    assert_eq!(metric(admin, "bennu_messages_out_total").await, 2);
    assert_eq!(metric(admin, "bennu_plugin_events_total{plugin=\"echo\"}").await, 2);
    assert_eq!(metric(admin, "bennu_plugin_events_total{plugin=\"room\"}").await, 0);

    let answer = get(admin, "/metrics").await;
    assert!(
        answer.head.contains("content-type: application/openmetrics-text"),
        "{}",
        answer.head
    );
    assert!(answer.body.ends_with("# EOF\n"));
    let mut families: Vec<&str> = Vec::new();
    for line in answer.body.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "TYPE", family, "counter" | "gauge"] => {
                assert!(!families.contains(&family), "{family} is described twice");
                families.push(family);
            }
            ["#", "HELP", ..] | ["#", "EOF"] => {}
            [name, value] => {
                assert!(name.starts_with("bennu_"), "{line}");
                value.parse::<f64>().expect("a number");
            }
            _ => panic!("{line}"),
        }
    }
}

#[tokio::test]
async fn with_a_secret_only_health_is_open() {
    let bench = Bench::new();
    let server = bench
        .serve_with(|command| command.env("BENNU_ADMIN_SECRET", SECRET))
        .await;
    let admin = server.admin().await;
    assert_eq!(get(admin, "/health").await.status, 200);
    for path in ["/ready", "/metrics", "/plugins"] {
        assert_eq!(get(admin, path).await.status, 401, "{path}");
        let bearer = |secret: &str| format!("authorization: Bearer {secret}\r\n");
        assert_eq!(
            get_with(admin, path, &bearer("for other eyes")).await.status,
            401,
            "{path}"
        );
        assert_eq!(get_with(admin, path, &bearer(SECRET)).await.status, 200, "{path}");
    }
    assert!(!server.log.text().contains(SECRET));
}

#[test]
fn beyond_the_loopback_there_must_be_a_secret() {
    let bench = Bench::new();
    bench.set("admin", "listen", "\"0.0.0.0:0\"");
    let mut serve: Command = bennu();
    let output = serve
        .args(["serve", "--config"])
        .arg(bench.config())
        .output()
        .expect("it runs");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complained.contains("BENNU_ADMIN_SECRET"), "{complained}");
}
