//! The configuration is changed while clients are there.

use std::fs;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const MISBEHAVE: &str = r#"topic = "misbehave:*"
plugin = "misbehave"
assigns = { from = "test.toml" }
"#;

/// Replaces a part of the configuration.
fn change(bench: &Bench, from: &str, to: &str) {
    let config = bench.read_config();
    assert!(config.contains(from), "there is no {from:?} in\n{config}");
    bench.write_config(&config.replacen(from, to, 1));
}

/// The same without the lines from the one that is `start` to the next that is empty.
fn without(config: &str, start: &str) -> String {
    let mut keep = true;
    let lines = config.lines().filter(|line| {
        keep = if *line == start { false } else { keep || line.is_empty() };
        keep
    });
    lines.map(|line| format!("{line}\n")).collect()
}

async fn replaced(server: &Server, times: usize) {
    server.log.nth_line(times - 1, &["configuration replaced"]).await;
}

fn unmatched() -> Value {
    json!({ "status": "error", "response": { "reason": "unmatched topic" } })
}

#[tokio::test]
async fn members_whose_route_leads_elsewhere_rejoin_there() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.join("echo:1", json!({})).await;
    change(&bench, MISBEHAVE, "topic = \"misbehave:*\"\nplugin = \"echo\"\n");
    client.event("misbehave:1", "phx_error").await;
    client.join("misbehave:1", json!({})).await;
    assert_eq!(
        client.push("misbehave:1", "echo", json!({ "n": 1 })).await,
        json!({ "n": 1 })
    );
    let reply = client.try_push("misbehave:1", "count", json!({})).await;
    assert_eq!(reply["status"], "error", "echo does not count");
    assert_eq!(client.rest().await, [], "the other topic is as it was");
}

#[tokio::test]
async fn a_route_that_is_removed_closes_its_channels() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    change(&bench, &format!("[[routes]]\n{MISBEHAVE}"), "");
    client.event("misbehave:1", "phx_close").await;
    assert_eq!(client.try_join("misbehave:1", json!({})).await, unmatched());
}

#[tokio::test]
async fn a_plugin_that_is_removed_closes_its_channels_and_goes() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    let config = without(&bench.read_config(), "[plugins.room]");
    bench.write_config(&config.replace("[[routes]]\ntopic = \"room:*\"\nplugin = \"room\"\n", ""));
    client.event("room:1", "phx_close").await;
    assert_eq!(client.try_join("room:1", json!({ "name": "ann" })).await, unmatched());
    server.unloaded("room", 1).await;
    let plugins = get(server.admin().await, "/plugins").await.body;
    assert!(!plugins.contains("room"), "{plugins}");
}

#[tokio::test]
async fn members_of_a_removed_plugin_whose_route_leads_elsewhere_rejoin_there() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    let config = without(&bench.read_config(), "[plugins.room]");
    bench.write_config(&config.replace("plugin = \"room\"", "plugin = \"echo\""));
    client.event("room:1", "phx_error").await;
    client.join("room:1", json!({})).await;
    assert_eq!(
        client.push("room:1", "echo", json!({ "n": 1 })).await,
        json!({ "n": 1 })
    );
}

#[tokio::test]
async fn a_plugin_and_its_route_can_be_added() {
    let bench = Bench::new();
    let whole = bench.read_config();
    let config = without(&whole, "[plugins.room]");
    bench.write_config(&config.replace("[[routes]]\ntopic = \"room:*\"\nplugin = \"room\"\n", ""));
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    assert_eq!(client.try_join("room:1", json!({ "name": "ann" })).await, unmatched());
    bench.write_config(&whole);
    replaced(&server, 1).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    assert_eq!(
        client.push("room:1", "new_msg", json!({ "body": "hello" })).await,
        json!({ "id": 1 })
    );
    // From now on its library is watched, too.
    bench.put_numbered("room", Build::Room, 1);
    server.in_service("room", 2).await;
    assert_eq!(
        client.push("room:1", "new_msg", json!({ "body": "hello" })).await,
        json!({ "id": 2 })
    );
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_said_once() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    let good = bench.read_config();
    let bad = good.replace("plugin = \"misbehave\"", "plugin = \"misbehaves\"");
    bench.write_config(&format!("{bad}\n[unheard]\nof = 1\n"));
    server
        .log
        .line(&["configuration rejected; the previous one stays in force"])
        .await;
    let line = 1 + bad
        .lines()
        .position(|line| line.contains("\"misbehaves\""))
        .expect("it is there");
    server.log.line(&[&format!("bennu.toml:{line}:10")]).await;
    server.log.line(&["plugin = \"misbehaves\""]).await;
    let line = 2 + bad.lines().count();
    server.log.line(&[&format!("bennu.toml:{line}:2")]).await;
    client.push("misbehave:1", "count", json!({})).await;
    // Noticed after that.
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    assert_eq!(server.log.count(&["configuration rejected"]), 1);
    assert_eq!(client.rest().await, []);
    bench.write_config(&format!("# as it was\n{good}"));
    replaced(&server, 1).await;
}

#[tokio::test]
async fn changed_settings_come_with_the_same_state() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    for body in ["one", "two", "three"] {
        client.push("room:1", "new_msg", json!({ "body": body })).await;
    }
    bench.set("plugins.room", "settings", "{ max_history = 2 }");
    server.in_service("room", 2).await;
    assert_eq!(
        client.push("room:1", "new_msg", json!({ "body": "four" })).await,
        json!({ "id": 4 })
    );
    let mut late = Client::connect(&server).await;
    let history = late.join("room:1", json!({ "name": "bob" })).await["history"].clone();
    let bodies: Vec<_> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| &message["body"])
        .collect();
    assert_eq!(bodies, ["three", "four"]);
}

#[tokio::test]
async fn settings_that_the_plugin_does_not_take_are_shown_at_their_line() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    bench.set("plugins.room", "settings", "{ max_history = \"many\" }");
    let refused = server
        .log
        .line(&["configuration rejected; the previous one stays in force"])
        .await;
    let config = bench.read_config();
    let line = 1 + config
        .lines()
        .position(|line| line.contains("many"))
        .expect("it is there");
    server.log.line(&[&format!("bennu.toml:{line}:")]).await;
    server.log.line(&["settings = { max_history = \"many\" }"]).await;
    assert_eq!(server.log.count(&["configuration replaced"]), 0, "{refused}");
    assert_eq!(
        client.push("room:1", "new_msg", json!({ "body": "hello" })).await,
        json!({ "id": 1 })
    );
    assert_eq!(plugin(server.admin().await, "room").await["generation"], 1);
}

#[tokio::test]
async fn what_needs_a_restart_says_so() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.set("server", "io_threads", "3");
    let text = bench.read_config();
    let line = 1 + { text.lines() }
        .position(|line| line.starts_with("io_threads"))
        .expect("set");
    let place = format!("bennu.toml:{line}: [server] io_threads: restart the server to apply this change");
    server.log.line(&[&place]).await;
    replaced(&server, 1).await;
    // As it was again: nothing needs a restart. And what does is not said with each change elsewhere.
    bench.set("server", "io_threads", "2");
    replaced(&server, 2).await;
    assert_eq!(server.log.count(&["restart the server to apply this change"]), 1);
    bench.set("admin", "listen", "false");
    server
        .log
        .line(&["restart the server to apply this change", "[admin]"])
        .await;
    replaced(&server, 3).await;
    bench.append("# something else");
    replaced(&server, 4).await;
    assert_eq!(server.log.count(&["restart the server to apply this change"]), 2);
    assert_eq!(get(server.admin().await, "/ready").await.status, 200);
}

#[tokio::test]
async fn a_configuration_that_is_emptied_or_removed_is_told_of_and_the_one_before_stays() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let before = bench.read_config();
    fs::write(bench.config(), "").expect("emptied");
    let gone = "the configuration cannot be read: it is empty; the previous one stays in force";
    server.log.line(&[gone]).await;
    bench.write_config(&before);
    server.log.line(&["the configuration file exists again"]).await;
    fs::remove_file(bench.config()).expect("removed");
    let gone = "the configuration cannot be read: there is no such file; the previous one stays in force";
    server.log.line(&[gone]).await;
    Client::joined(&server, "misbehave:1").await;
}

#[tokio::test]
async fn assigns_of_a_route_reach_the_plugin_at_the_next_join() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    let route = |answer: Value| answer["route"].clone();
    let whoami = client.push("misbehave:1", "whoami", json!({})).await;
    assert_eq!(route(whoami), json!({ "from": "test.toml" }));
    change(
        &bench,
        "assigns = { from = \"test.toml\" }",
        "assigns = { from = \"elsewhere\" }",
    );
    replaced(&server, 1).await;
    let whoami = client.push("misbehave:1", "whoami", json!({})).await;
    assert_eq!(route(whoami), json!({ "from": "test.toml" }), "bound when it joined");
    client.join("misbehave:2", json!({})).await;
    let whoami = client.push("misbehave:2", "whoami", json!({})).await;
    assert_eq!(route(whoami), json!({ "from": "elsewhere" }));
    // And what it is bound to survives a reload.
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let whoami = client.push("misbehave:1", "whoami", json!({})).await;
    assert_eq!(route(whoami), json!({ "from": "test.toml" }));
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_library_and_the_configuration_may_change_at_the_same_time() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    bench.put("misbehave", Build::MisbehaveV2);
    bench.set("plugins.room", "settings", "{ max_history = 2 }");
    replaced(&server, 1).await;
    server.in_service("misbehave", 2).await;
    assert_eq!(client.push("misbehave:1", "count", json!({})).await["version"], 2);
}
