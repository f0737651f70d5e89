//! The admin listener.

use std::process::Command;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::command::{check_refused, run, said};
use crate::support::http::{get, get_with, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, bennu};
use crate::support::within;

const SECRET: &str = "for the operator's eyes";

#[tokio::test]
async fn a_server_with_all_its_plugins_is_ready() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let (health, ready) = (get(admin, "/health").await, get(admin, "/ready").await);
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    let (all, nothing) = (get(admin, "/").await, get(admin, "/nothing").await);
    assert_eq!((all.status, nothing.status), (200, 404));
    let begins = "there is no /nothing here; there are:\n\n";
    assert_eq!(nothing.body.strip_prefix(begins), Some(&*all.body));
    for path in [
        "/health",
        "/ready",
        "/metrics",
        "/plugins",
        "/connections",
        "/closes",
        "/quarantine",
    ] {
        assert!(
            all.body.lines().any(|line| line.split(' ').next() == Some(path)),
            "{path}"
        );
        assert_eq!(get(admin, path).await.status, 200, "{path}");
    }
    assert_eq!(
        get(server.address, "/health").await.status,
        404,
        "not where clients connect"
    );
}

#[tokio::test]
async fn a_server_without_one_of_its_plugins_is_not_ready() {
    let bench = Bench::new();
    bench.put_bytes("room", b"not a library\n");
    // Here a plugin that cannot be loaded may be mended later.
    let server = bench.dev().await;
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
    for path in ["/", "/ready", "/metrics", "/plugins"] {
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

/// What `bennu plugins` says of the server.
async fn shown(server: &Server, more: &[&str]) -> String {
    let admin = server.admin().await.to_string();
    said(0, |command| command.args(["plugins", "--admin", &admin]).args(more))
}

#[tokio::test]
async fn bennu_plugins_shows_what_is_served_and_what_was_refused() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let _ann = Client::joined(&server, "echo:1").await;
    let _bob = Client::joined(&server, "echo:1").await;
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    bench.put_bytes("room", b"not a library\n");
    server.log.line(&["library rejected"]).await;

    let listed = shown(&server, &["--json"]).await;
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
    let echo = listed
        .iter()
        .find(|plugin| plugin["name"] == "echo")
        .expect("it is listed");
    assert_eq!(
        (&echo["topics"], &echo["clients"], &echo["generation"]),
        (&json!(1), &json!(2), &json!(2))
    );
    assert!(
        echo["events_per_s"].is_number() && echo["quarantined"] == json!([]),
        "{echo}"
    );
    let reload = &echo["last_reload"];
    for step in ["read", "check", "manifest", "quarantine", "stage", "probe", "load"] {
        assert!(
            reload["steps_ms"][step].as_f64().is_some_and(|took| took > 0.0),
            "{step}: {reload}"
        );
    }
    assert_eq!(
        (&reload["generation"], &reload["swap"]["topics"]),
        (&json!(2), &json!(1))
    );

    let text = shown(&server, &[]).await;
    let row = text.lines().find(|line| line.starts_with("echo ")).expect("a row");
    assert!(row.contains("in service") && row.contains(" s ago, "), "{text}");
    assert!(
        text.contains("rejected room: it is not an ELF file") && text.contains("(check, not_elf, "),
        "{text}"
    );
    for step in ["check", "probe", "load", "swap"] {
        let passed = format!("bennu_plugin_steps_passed_total{{plugin=\"echo\",step=\"{step}\"}}");
        assert_eq!(metric(server.admin().await, &passed).await, 2, "{step}");
        let said = server
            .log
            .count(&["step passed", "plugin=\"echo\"", &format!("step={step:?}")]);
        assert_eq!(said, 2, "{step}");
    }
}

#[tokio::test]
async fn bennu_plugins_needs_a_host_and_its_secret() {
    let bench = Bench::new();
    let server = bench
        .serve_with(|command| command.env("BENNU_ADMIN_SECRET", SECRET))
        .await;
    let admin = server.admin().await.to_string();
    let args = ["plugins", "--admin", &admin];
    check_refused(|command| command.args(args), "set BENNU_ADMIN_SECRET");
    check_refused(
        |command| command.args(args).env("BENNU_ADMIN_SECRET", "no"),
        "does not accept this",
    );
    let (output, text, _) = run(|command| command.args(args).env("BENNU_ADMIN_SECRET", SECRET));
    assert!(output.status.success() && text.contains("misbehave"), "{text}");
    server.stop().await;
    check_refused(|command| command.args(args), "no server answers at");
    // Where the configuration cannot be read, the server is looked for at the usual address, and that is said.
    bench.append("\n[nonsense]\n");
    let (_, _, complaint) = run(|command| command.args(["plugins", "--config"]).arg(bench.config()));
    assert!(
        complaint.contains("has mistakes") && complaint.contains("127.0.0.1:4001"),
        "{complaint}"
    );
}

#[tokio::test]
async fn an_operator_has_a_library_loaded_once_more() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "count", json!({})).await;
    shown(&server, &["--reload", "misbehave"]).await;
    server.in_service("misbehave", 2).await;
    assert_eq!(client.push("misbehave:1", "count", json!({})).await["topic"], 2);
    let admin = server.admin().await.to_string();
    check_refused(
        |command| command.args(["plugins", "--admin", &admin, "--reload", "nobody"]),
        "there is no plugin nobody",
    );
}

#[tokio::test]
async fn an_operator_deploys_a_library_and_rolls_it_back() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "count", json!({})).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    let said = shown(&server, &["--roll-back", "misbehave"]).await;
    assert!(said.contains("misbehave is being rolled back"), "{said}");
    server
        .log
        .line(&["rolled back to generation", "an operator's request"])
        .await;
    assert_eq!(client.push("misbehave:1", "count", json!({})).await["topic"], 2);
    let admin = server.admin().await.to_string();
    check_refused(
        |command| command.args(["plugins", "--admin", &admin, "--roll-back", "nobody"]),
        "there is no plugin nobody",
    );
}

#[tokio::test]
async fn whoever_connects_has_a_deadline_and_a_place() {
    let bench = Bench::new();
    bench.set("limits", "header_timeout_ms", "300");
    bench.set("admin", "max_connections", "2");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let half = async || {
        let mut stream = TcpStream::connect(admin).await.expect("connected");
        stream.write_all(b"GET /health HTTP/1.1\r\nho").await.expect("sent");
        stream
    };
    // The third is closed at once or, if it was slow to come, like the others.
    for mut stream in [half().await, half().await, half().await] {
        let read = within("its end", stream.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    assert_eq!(get(admin, "/health").await.status, 200);
}
