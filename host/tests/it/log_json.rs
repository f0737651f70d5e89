//! `[log] format = "json"`: whatever the server says is one JSON object a line.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::command::run;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.set("log", "format", "\"json\"");
    bench
}

async fn serve(bench: &Bench) -> Server {
    let mut server = Server::starting(bench.command());
    let line = server.log.line(&["listening on http://"]).await;
    let message = parsed(&line)["message"].as_str().expect("a text").to_owned();
    let address = message.trim_start_matches("listening on http://");
    server.address = address.parse().expect("an address");
    server
}

#[track_caller]
fn parsed(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    for key in ["level", "target", "message"] {
        assert!(value[key].is_string(), "no {key} in {line}");
    }
    value
}

/// All lines, and those among them whose message has these words.
fn lines(server: &Server, words: &str) -> Vec<Value> {
    let text = server.log.text();
    let all = text.lines().map(parsed);
    all.filter(|line| line["message"].as_str().is_some_and(|message| message.contains(words)))
        .collect()
}

#[tokio::test]
async fn every_line_is_an_object_whoever_wrote_it() {
    let mut server = serve(&bench()).await;
    let mut client = Client::joined(&server, TOPIC).await;
    client
        .push(
            TOPIC,
            "log",
            json!({ "payload": { "a": "\n" }, "count": 3, "key": "k", "bytes": 9 }),
        )
        .await;
    client.start(TOPIC, "panic", json!({})).await;
    client.event(TOPIC, "phx_error").await;
    client.try_join("nowhere:1", json!({})).await;
    server.signal(Signal::TERM);
    assert_eq!(client.close_code().await, 1012);
    assert!(server.ended().await.success());
    let of_plugin = lines(&server, "in a span");
    assert_eq!(
        (&of_plugin[0]["plugin"], &of_plugin[0]["count"], &of_plugin[0]["level"]),
        (&json!("misbehave"), &json!(3), &json!("WARN"))
    );
    assert_eq!(lines(&server, "plugin panicked").len(), 1);
    assert!(lines(&server, "no route matches the topic")[0]["connection"].is_u64());
    let closed = &lines(&server, "connection closed")[0];
    assert_eq!(
        (&closed["code"], &closed["reason"]),
        (&json!(1012), &json!("server_restarts"))
    );
    assert!(
        closed["time"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{closed}"
    );
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_objects_as_well() {
    let bench = bench();
    bench.set("limits", "max_conections", "5");
    let (output, said, complained) = run(|command| {
        *command = bench.command();
        command
    });
    assert_eq!((output.status.code(), &*said), (Some(1), ""));
    let lines: Vec<Value> = complained.lines().map(parsed).collect();
    let mistake = lines[0]["message"].as_str().expect("a text");
    assert!(
        mistake.contains("max_conections") && mistake.contains("max_connections"),
        "{mistake}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line["level"] == "ERROR" && line["time"].is_string()),
        "{complained}"
    );
    bench.write_config("[log]\nformat = \"json\"\n[limits\n");
    let (_, _, complained) = run(|command| {
        *command = bench.command();
        command
    });
    assert!(complained.lines().count() > 0);
    complained.lines().for_each(|line| drop(parsed(line)));
}

#[tokio::test]
async fn a_crash_is_an_object_as_well() {
    let mut server = serve(&bench()).await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "unruly", json!({ "at": "crash" })).await;
    assert!(!server.ended().await.success());
    let crash = &lines(&server, "plugin misbehave crashed the server")[0];
    assert_eq!(crash["level"], "ERROR");
    assert!(
        crash["message"]
            .as_str()
            .is_some_and(|text| text.contains("of \"unruly\"")),
        "{crash}"
    );
}

#[tokio::test]
async fn level_and_filters_change_while_the_server_runs() {
    let bench = bench();
    bench.set("log", "level", "\"info\"");
    let server = serve(&bench).await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "log", json!({})).await;
    server.log.line(&["in a span"]).await;
    assert_eq!(server.log.count(&["seldom wanted"]), 0);
    bench.set(
        "log",
        "level",
        "\"warn,misbehave::quiet=debug,bennu::server=info,bennu::cli=info\"",
    );
    server.log.line(&["log level changed"]).await;
    client.push(TOPIC, "log", json!({})).await;
    server.log.line(&["seldom wanted"]).await;
}
