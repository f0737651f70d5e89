//! Async work of plugins: real look-ups in a real database, by a crate that needs a runtime, on one that the generation owns.

use bennu_tools::client::{Options, Transport};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};
use crate::support::{command, http, within};

const TOPIC: &str = "lookup:1";

/// A bench with the plugin that asks a database, and a mount that it guards.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.put("lookup", Build::Lookup);
    let file = bench.path("users.db");
    bench.append(&format!(
        "[plugins.lookup]\nlibrary = \"liblookup.so\"\nshards = 1\nprobation_ms = 0\nretire_ms = 100\n\
         join_deadline_ms = 60_000\n\
         settings = {{ database = {{ file = {file:?}, connections = 2 }} }}\n\
         [[routes]]\ntopic = \"lookup:*\"\nplugin = \"lookup\"\n\
         [[mounts]]\npath = \"/db\"\nconnect = \"lookup\"\ncheck_origin = false\nlongpoll = {{}}"
    ));
    bench
}

async fn joined(server: &Server) -> Client {
    let mut client = Client::connect(server).await;
    let reply = client.join(TOPIC, json!({ "user": "ann" })).await;
    assert_eq!(reply, json!({ "name": "Ann" }));
    client
}

fn refused(reason: &str) -> Value {
    json!({ "status": "error", "response": { "reason": reason } })
}

#[tokio::test]
async fn joins_replies_and_connects_wait_for_a_database() {
    let bench = bench();
    let server = bench.serve().await;
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/db".into();
    options.params = vec![("token".into(), "open".into())];
    let mut client = Client::connect_with(&options).await;
    client.join(TOPIC, json!({ "user": "bob" })).await;
    assert_eq!(
        client.push(TOPIC, "name", json!({ "id": 1 })).await,
        json!({ "name": "Ann" })
    );
    assert_eq!(
        client.try_push(TOPIC, "name", json!({ "id": 3 })).await,
        refused("no such user")
    );
    let nobody = client.try_join("lookup:2", json!({ "user": "eve" })).await;
    assert_eq!(nobody, refused("no such user"));
    let closed = http::get(server.address, "/db/websocket?vsn=2.0.0&token=closed").await;
    assert_eq!((closed.status, closed.json()), (403, json!({ "reason": "closed" })));
    // What runs beside a callback says in the log whose it is; sqlx says there, from a thread of its own, what it does.
    let of_bob = "plugin=\"lookup\" generation=1 topic=\"lookup:1\" socket=\"user:Ann\"";
    server.log.line(&["INFO lookup: looked up", of_bob]).await;
    server
        .log
        .line(&[
            "DEBUG sqlx::query: plugin=\"lookup\" generation=1",
            "SELECT name FROM users",
            "rows_returned=1",
        ])
        .await;
}

#[tokio::test]
async fn nothing_waits_for_a_future_but_who_asked_for_it() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    let slow = client.start(TOPIC, "slow", json!({ "id": 2, "ms": 60_000 })).await;
    client.push(TOPIC, "tell", json!({ "id": 2, "ms": 1 })).await;
    assert_eq!(client.event(TOPIC, "told").await, json!({ "name": "Bob" }));
    assert_eq!(
        client.push(TOPIC, "name", json!({ "id": 1 })).await,
        json!({ "name": "Ann" })
    );
    let thread = client.push(TOPIC, "thread", json!({})).await;
    assert_eq!(thread, json!({ "thread": "lookup.1.async" }));
    // The shard's only one: it is free all the time.
    bench.put_numbered("lookup", Build::Lookup, 1);
    server.in_service("lookup", 2).await;
    assert_eq!(client.answer(&slow).await, refused("reloaded"));
}

#[tokio::test]
async fn a_future_that_panics_answers_with_an_error() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    assert_eq!(client.try_push(TOPIC, "crash", json!({})).await, refused("crashed"));
    server
        .log
        .line(&["where it panicked", "a future panics (", "plugin=\"lookup\""])
        .await;
    let crashed = client.try_join("lookup:2", json!({ "user": "crash" })).await;
    assert_eq!(crashed, refused("join crashed"));
    let crashed = http::get(server.address, "/db/websocket?vsn=2.0.0&token=crash").await;
    assert_eq!(crashed.status, 500);
    assert_eq!(
        client.push(TOPIC, "name", json!({ "id": 1 })).await,
        json!({ "name": "Ann" })
    );
}

#[tokio::test]
async fn more_futures_than_there_may_be_are_refused() {
    let bench = bench();
    bench.write_config(
        &bench
            .read_config()
            .replace("connections = 2 }", "connections = 2 }, tasks = 1"),
    );
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    let started = |started: bool| json!({ "started": started });
    // The future that has answered the join may be about to end.
    let first = async { while client.push(TOPIC, "spawned", json!({})).await != started(true) {} };
    within("place for a future", first).await;
    assert_eq!(client.push(TOPIC, "spawned", json!({})).await, started(false));
    assert_eq!(
        client.try_push(TOPIC, "name", json!({ "id": 1 })).await,
        refused("overloaded")
    );
    assert_eq!(
        client.try_join("lookup:2", json!({ "user": "ann" })).await,
        refused("overloaded")
    );
    let busy = http::get(server.address, "/db/websocket?vsn=2.0.0&token=open").await;
    assert_eq!(busy.status, 503);
}

/// The old code's futures are done within `retire_ms`: reply and message find the topic in the new code.
#[tokio::test]
async fn late_answers_of_the_old_code_reach_the_topic_in_the_new() {
    let bench = bench();
    bench.set("plugins.lookup", "retire_ms", "60_000");
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    let late = json!({ "id": 2, "ms": 2_000 });
    let reply = client.start(TOPIC, "slow", late.clone()).await;
    client.push(TOPIC, "tell", late).await;
    bench.put_numbered("lookup", Build::Lookup, 1);
    server.in_service("lookup", 2).await;
    assert_eq!(client.rest().await, [], "not yet");
    let bob = json!({ "name": "Bob" });
    assert_eq!(client.answer(&reply).await["response"], bob);
    assert_eq!(client.event(TOPIC, "told").await, bob);
}

/// With connections, their threads, timers and futures that never end: of each generation nothing is left.
#[tokio::test]
async fn a_runtime_ends_with_its_generation() {
    let bench = bench();
    bench.set("plugins.lookup", "retire_ms", "1");
    // The client says nothing while it waits, which takes long on a machine that is busy.
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    for reload in 1..=reloads() {
        client.push(TOPIC, "name", json!({ "id": 1 })).await;
        client.push(TOPIC, "spawned", json!({})).await;
        let never = client.start(TOPIC, "slow", json!({ "ms": 60_000 })).await;
        bench.put_numbered("lookup", Build::Lookup, reload);
        server.in_service("lookup", reload + 1).await;
        server.unloaded("lookup", reload).await;
        assert_eq!(client.answer(&never).await, refused("reloaded"));
    }
    assert_eq!(
        http::plugin(server.admin().await, "lookup").await["leaked_generations"],
        0
    );
    let maps = server.proc("maps");
    let mapped = maps
        .lines()
        .filter(|line| line.contains(" r-xp ") && line.contains("/stage/") && line.contains("/lookup-"));
    assert_eq!(mapped.count(), 1);
}

/// Ten, or as many as `BENNU_RELOADS` says: a thousand take some minutes.
fn reloads() -> u64 {
    let wanted = std::env::var("BENNU_RELOADS").ok();
    wanted.and_then(|wanted| wanted.parse().ok()).unwrap_or(10)
}

/// It is not pulled from under a thread that does not come back in time.
#[tokio::test]
async fn blocking_work_keeps_the_library() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    client.push(TOPIC, "block", json!({ "ms": 3_000 })).await;
    bench.put_numbered("lookup", Build::Lookup, 1);
    server.in_service("lookup", 2).await;
    server
        .log
        .line(&[
            "parts of this generation stay in memory",
            "plugin=\"lookup\"",
            "generation=1",
            "threads: lookup.1.async",
        ])
        .await;
    assert_eq!(
        client.push(TOPIC, "name", json!({ "id": 1 })).await,
        json!({ "name": "Ann" })
    );
}

/// What the settings of this file are refused for: the lines of the answer.
fn checked(bench: &Bench, settings: &str) -> String {
    let before = bench.read_config();
    let line = before
        .lines()
        .find(|line| line.starts_with("settings = { database"))
        .expect("the settings");
    bench.write_config(&before.replace(line, settings));
    let config = bench.config();
    command::said(1, |bennu| bennu.arg("check").arg(&config))
}

#[test]
fn settings_are_refused_at_their_line_however_deep() {
    let check = |settings: &str, expected: &[&str]| {
        let said = checked(&bench(), settings);
        expected
            .iter()
            .for_each(|part| assert!(said.contains(part), "no {part:?} in\n{said}"));
    };
    let many = "settings = { database = { file = \"a.db\", connections = \"two\" } }";
    check(many, &["must be a whole number from 0 to", "bennu.toml:", many, "^"]);
    let missing = "settings = { database = { file = \"a.db\" } }";
    check(missing, &["needs the setting `database.connections`", missing, "^"]);
    let unknown = "settings = { database = { file = \"a.db\", connections = 1, conections = 2 } }";
    check(
        unknown,
        &[
            "has no setting `database.conections`",
            "did you mean `connections`?",
            unknown,
            "^^^^^^^^^^\n",
        ],
    );
}

#[test]
fn a_library_says_what_settings_it_takes() {
    let bench = bench();
    let library = bench.library("lookup");
    let said = command::said(0, |bennu| bennu.args(["schema", "--plugin"]).arg(&library));
    let config = bench.config();
    let of = |name: &str| command::run(|bennu| bennu.args(["schema", "--plugin", name, "--config"]).arg(&config));
    assert_eq!(of("lookup").1, said, "by its name in the configuration");
    let (_, _, complained) = of("lokup");
    assert!(
        complained.contains("has no plugin `lokup`: did you mean `lookup`?"),
        "{complained}"
    );
    let schema: Value = serde_json::from_str(&said).expect("JSON");
    let database = &schema["properties"]["database"];
    assert_eq!(database["properties"]["connections"]["type"], "integer");
    assert_eq!(database["required"], json!(["file", "connections"]));
    assert_eq!(schema["properties"]["tasks"]["description"], "Futures at a time.");
    let valid = |settings: Value| jsonschema::is_valid(&schema, &settings);
    assert!(valid(json!({ "database": { "file": "a.db", "connections": 1 } })));
    assert!(!valid(json!({ "database": { "file": "a.db", "connections": "two" } })));
    // One that declares none.
    let none = bench.library("misbehave");
    command::check_refused(
        |bennu| bennu.args(["schema", "--plugin"]).arg(&none),
        "declares no schema",
    );
}

#[tokio::test]
async fn a_stop_waits_for_the_async_work_of_a_last_word() {
    let bench = bench();
    bench.set("server", "shutdown_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("lookup:noted", json!({ "user": "ann" })).await;
    assert!(server.stop().await.success());
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    let noted = client.push(TOPIC, "name", json!({ "id": 9 })).await;
    assert_eq!(noted["name"], "lookup:noted");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever_for_the_async_work_of_a_last_word() {
    let bench = bench();
    bench.set("server", "shutdown_timeout_ms", "500");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("lookup:endless", json!({ "user": "ann" })).await;
    let stopped = std::time::Instant::now();
    let log = server.log.clone();
    server.stop().await;
    assert!(stopped.elapsed() < std::time::Duration::from_secs(20), "{}", log.text());
}
