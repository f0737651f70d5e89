//! `bennu topics` for stored topics, over the admin listener.

use std::fs;

use serde_json::{Value, json};

use super::{TOPIC, bench, count, counted};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::http::{get, request};
use crate::support::server::{Bench, Server};

/// What `bennu topics` says with these arguments.
async fn topics(bench: &Bench, server: &Server, arguments: &[&str]) -> (bool, String) {
    let admin = server.admin().await.to_string();
    let config = bench.config();
    let (done, stdout, stderr) = run(|command| {
        command.args(["topics", "--config"]).arg(config);
        command.args(["--admin", &admin]).args(arguments)
    });
    (done.status.success(), format!("{stdout}{stderr}"))
}

#[tokio::test]
async fn stored_topics_are_listed_and_shown_without_being_loaded() {
    let bench = bench("commit");
    let server = bench.serve().await;
    counted(&server).await;
    assert!(server.stop().await.success());
    let server = bench.serve().await;
    let (done, said) = topics(&bench, &server, &["--stored", "--json"]).await;
    assert!(done, "{said}");
    let listed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(listed[0]["topic"], TOPIC);
    assert_eq!(
        (&listed[0]["in_memory"], &listed[0]["state_version"]),
        (&json!(false), &json!(1))
    );
    let (_, said) = topics(&bench, &server, &["--stored", TOPIC]).await;
    assert!(said.contains("\"count\": 5"), "{said}");
    let (_, said) = topics(&bench, &server, &["--stored", "other:"]).await;
    assert_eq!(said.trim(), "no such topic is stored");
    let admin = server.admin().await;
    assert_eq!(crate::support::http::metric(admin, super::WOKEN).await, 0);
    assert_eq!(get(admin, "/stored/echo").await.status, 404);
    assert_eq!(get(admin, "/stored/misbehave?what=1").await.status, 400);
}

#[tokio::test]
async fn a_topic_is_forgotten_by_an_operator_in_memory_or_not() {
    let bench = bench("checkpoint");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    let (done, said) = topics(&bench, &server, &["--forget", TOPIC]).await;
    assert!(done, "{said}");
    client.event(TOPIC, "phx_close").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 1);
    assert!(server.stop().await.success());
    let server = bench.serve().await;
    let (done, said) = topics(&bench, &server, &["--forget", TOPIC]).await;
    assert!(done, "{said}");
    for unknown in [TOPIC, "misbehave:"] {
        let (done, said) = topics(&bench, &server, &["--forget", unknown]).await;
        assert!(!done && said.contains("there is no topic"), "{said}");
    }
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 1);
}

#[tokio::test]
async fn an_export_is_a_backup() {
    let bench = bench("commit");
    let server = bench.serve().await;
    counted(&server).await;
    let file = bench.path("topics.jsonl");
    let path = file.to_str().expect("UTF-8");
    let (done, said) = topics(&bench, &server, &["--export", path]).await;
    assert!(done && said.contains("1 topics"), "{said}");
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
    // Not while somebody works with it.
    let (done, said) = topics(&bench, &server, &["--import", path]).await;
    assert!(!done && said.contains("line 1") && said.contains("in memory"), "{said}");
    client.push(TOPIC, "forget", json!({})).await;
    client.event(TOPIC, "phx_close").await;
    drop(client);
    let imported = async { while !topics(&bench, &server, &["--import", path]).await.0 {} };
    crate::support::within("the topic is gone", imported).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6, "as it was exported");

    // A changed line is noticed.
    let line: Value = serde_json::from_str(&fs::read_to_string(&file).expect("readable")).expect("JSON");
    let capsule = line["capsule"].as_str().expect("a text").replacen('Y', "Z", 1);
    let body = json!({ "capsule": capsule }).to_string();
    let headers = "content-type: application/json\r\n";
    let answer = request(server.admin().await, "PUT", "/stored/misbehave", headers, &body).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

/// The time that it was asleep before it was exported does not count.
#[tokio::test]
async fn an_imported_topic_is_forgotten_when_its_time_since_then_is_over() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    drop(counted(&server).await);
    let admin = server.admin().await;
    super::reaches(admin, super::HIBERNATED, 1).await;
    let file = bench.path("topics.jsonl");
    let path = file.to_str().expect("UTF-8");
    let (done, said) = topics(&bench, &server, &["--export", path]).await;
    assert!(done, "{said}");
    let written = async || {
        let stored: Value = serde_json::from_str(&get(admin, "/stored/misbehave").await.body).expect("JSON");
        stored[0]["written_unix_ms"].as_u64().expect("a time")
    };
    let before = written().await;
    let (done, said) = topics(&bench, &server, &["--import", path]).await;
    assert!(done, "{said}");
    assert!(written().await > before);
    bench.set("plugins.misbehave", "retain_ms", "1");
    server.log.line(&["configuration replaced"]).await;
    let (done, said) = topics(&bench, &server, &["--import", path]).await;
    assert!(done, "{said}");
    // Nobody asks for it, and it goes.
    let gone = async { while get(admin, "/stored/misbehave").await.body != "[]" {} };
    crate::support::within("its end", gone).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 1);
}
