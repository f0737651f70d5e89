//! What plugins write by `tracing` stands in the host's log: whose it is, with its fields, as far as the filter lets it through.

use bennu_tools::client::{Options, Transport};
use http::HeaderValue;
use serde_json::json;

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::Bench;

const TOPIC: &str = "misbehave:1";

#[tokio::test]
async fn a_line_of_a_plugin_says_whose_it_is() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/gate".into();
    options.params = [("token", "open"), ("user", "ann")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    options
        .headers
        .insert("origin", HeaderValue::from_static("https://example.com"));
    let mut ann = Client::connect_with(&options).await;
    ann.join(TOPIC, json!({ "do": "log" })).await;
    ann.push(
        TOPIC,
        "log",
        json!({ "payload": { "a": 1 }, "count": 3, "key": "k", "bytes": 9 }),
    )
    .await;
    let joining = server.log.line(&["joining"]).await;
    let of_ann = "plugin=\"misbehave\" generation=1 topic=\"misbehave:1\" socket=\"user:ann\"";
    assert!(
        joining.ends_with(&format!("INFO misbehave::asked: joining {of_ann}")),
        "{joining}"
    );
    let in_a_span = server.log.line(&["in a span"]).await;
    let fields = format!("WARN misbehave::asked: in a span {of_ann} count=3 key=\"k\" span=asking bytes=9");
    assert!(in_a_span.ends_with(&fields), "{in_a_span}");
    server.log.line(&["misbehave::asked: {\"a\":1} ", of_ann]).await;

    // From a thread of the plugin, about a client that has no socket id.
    let mut bob = Client::joined(&server, TOPIC).await;
    bob.push(TOPIC, "twice_thread", json!({})).await;
    let late = server.log.line(&["completed 2"]).await;
    assert!(
        late.ends_with("plugin=\"misbehave\" generation=1 topic=\"misbehave:1\""),
        "{late}"
    );

    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    bob.push(TOPIC, "log", json!({})).await;
    server.log.line(&["in a span", "generation=2"]).await;
}

/// Asks for lines of several levels under this filter; whether the one at `debug` came.
async fn is_heard(filter: &str) -> bool {
    let server = Bench::new()
        .serve_with(|command| command.env("BENNU_LOG", filter))
        .await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "log", json!({})).await;
    server.log.line(&["in a span"]).await;
    server.log.count(&["seldom wanted"]) > 0
}

#[tokio::test]
async fn the_hosts_filter_knows_a_plugins_modules() {
    assert!(!is_heard("info").await);
    assert!(is_heard("info,misbehave::quiet=debug").await);
    assert!(!is_heard("debug,misbehave::quiet=info").await);
}
