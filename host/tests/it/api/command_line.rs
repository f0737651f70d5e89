//! `bennu publish`, `bennu topics`, `bennu disconnect`.

use std::fs;

use bennu_tools::client::Transport;
use serde_json::{Value, json};

use super::{Backend, KEY, as_user, bench};
use crate::support::client::Client;
use crate::support::command::{check_refused, said};
use crate::support::server::Bench;

#[tokio::test]
async fn a_message_is_published_from_the_command_line() {
    let bench = bench();
    let server = bench.serve().await;
    let address = Backend::of(&server).await.address.to_string();
    let mut member = Client::joined(&server, "echo:1").await;
    let key = bench.path("api_key");
    let publish = |rest: &[&str]| {
        said(0, |command| {
            command
                .args(["publish", "--api", &address, "--key-file"])
                .arg(&key)
                .args(rest)
        })
    };
    assert_eq!(publish(&["echo:1", "news", r#"{"a":1}"#]), "heard by 1\n");
    assert_eq!(member.event("echo:1", "news").await, json!({ "a": 1 }));
    assert_eq!(publish(&["echo:1", "news"]), "heard by 1\n");
    assert_eq!(member.event("echo:1", "news").await, json!({}));
    assert_eq!(publish(&["echo:2", "news", "-1"]), "sent, but nobody is on echo:2\n");
    let answer: Value = serde_json::from_str(&publish(&["echo:2", "news", "--json"])).expect("JSON");
    assert_eq!(answer, json!({ "heard": 0, "intercepted": 0 }));
    let refused = |rest: &[&str], words: &str| {
        check_refused(
            |command| {
                command
                    .args(["publish", "--api", &address])
                    .args(rest)
                    .env("BENNU_API_KEY", KEY)
            },
            words,
        );
    };
    refused(&["eco:1", "news"], "no route matches this topic");
    refused(
        &["echo:1", "news", "hello"],
        "the payload is not JSON; a text needs quotes of its own",
    );
    refused(
        &["echo:1", "phx_join"],
        "events that begin with `phx_` are the server's own",
    );
}

#[tokio::test]
async fn topics_are_listed_and_connections_closed_from_the_command_line() {
    let bench = bench();
    let server = bench.serve().await;
    let address = Backend::of(&server).await.address.to_string();
    let run = |rest: &[&str]| {
        said(0, |command| {
            command.args(rest).args(["--api", &address]).env("BENNU_API_KEY", KEY)
        })
    };
    assert_eq!(run(&["topics"]), "there is no such topic now\n");
    let mut ann = Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await;
    ann.join("misbehave:1", json!({})).await;
    let mut bob = Client::connect(&server).await;
    bob.join("room:1", json!({ "name": "bob" })).await;
    bob.join("room:2", json!({ "name": "bob" })).await;
    let all = run(&["topics"]);
    for topic in ["misbehave:1", "room:1", "room:2"] {
        assert!(all.contains(topic), "{all}");
    }
    let rooms = run(&["topics", "room:*"]);
    assert!(rooms.contains("room:2") && !rooms.contains("misbehave"), "{rooms}");
    assert!(run(&["topics", "--limit", "1"]).contains("--limit COUNT"));
    let one = run(&["topics", "room:1"]);
    assert!(
        one.starts_with("room:1: 1 members, plugin room generation 1\n  bob  "),
        "{one}"
    );
    assert_eq!(
        run(&["disconnect", "user:ann", "--refuse-ms", "1000"]),
        "closed 1 connection\n"
    );
    assert_eq!(ann.close_code().await, 1001);
    assert_eq!(run(&["disconnect", "user:ann"]), "nobody is connected as user:ann\n");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() {
    let bench = bench();
    bench.set("api.keys", "allow", "[\"read\"]");
    let server = bench.serve().await;
    let address = Backend::of(&server).await.address.to_string();
    let refused = |key: Option<&str>, words: &str| {
        check_refused(
            |command| {
                command.args(["publish", "--api", &address, "echo:1", "news"]);
                match key {
                    Some(key) => command.env("BENNU_API_KEY", key),
                    None => command.env_remove("BENNU_API_KEY"),
                }
            },
            words,
        );
    };
    refused(None, "needs a key: name a file with --key-file, or set BENNU_API_KEY");
    refused(Some("no key"), "does not know this key");
    refused(Some(KEY), "this key does not allow it: see `allow` and `topics`");
    drop(server);
    refused(Some(KEY), "no server answers at");
}

#[tokio::test]
async fn beside_dev_no_key_and_no_address_is_needed() {
    let bench = Bench::new();
    bench.append("[api]\nlisten = \"127.0.0.1:0\"");
    let server = bench.dev().await;
    let mut member = Client::joined(&server, "echo:1").await;
    server.api().await;
    let publish = |command: &mut std::process::Command| {
        command
            .args(["publish", "echo:1", "news", "--config"])
            .arg(bench.config())
            .env_remove("BENNU_API_KEY");
    };
    let heard = said(0, |command| {
        publish(command);
        command
    });
    assert_eq!(heard, "heard by 1\n");
    assert_eq!(member.event("echo:1", "news").await, json!({}));
    // A key that is named goes before it.
    check_refused(
        |command| {
            publish(command);
            command.env("BENNU_API_KEY", KEY)
        },
        "does not know this key",
    );
    let key = fs::read_to_string(bench.path("state/api-key")).expect("a key");
    assert!(!server.log.text().contains(key.trim()));
    let address = bench.path("state/api-address");
    assert!(address.exists());
    server.stop().await;
    assert!(!address.exists());
}
