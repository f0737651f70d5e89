//! Which plugin a topic leads to, by transport and mount.

use bennu_tools::client::{Client, ClientError, Frame, Incoming, Options, RawClient, Transport};
use serde_json::json;

use crate::support::server::{Bench, Server};

/// Joins a topic, and says which plugin serves it: what each of the two answers to an event of the other.
async fn served_by(server: &Server, transport: Transport, mount: &str, topic: &str) -> &'static str {
    let mut options = Options::new(server.address, transport);
    options.mount = mount.to_owned();
    let mut client = Client::connect(&options).await.expect("connected");
    let reply = client.join(topic, json!({})).await.expect("an answer");
    if reply.status != "ok" {
        assert_eq!(reply.json(), Some(&json!({ "reason": "unmatched topic" })));
        return "nobody";
    }
    match &*client.call(topic, "count", json!({})).await.expect("an answer").status {
        "ok" => "misbehave",
        _ => "echo",
    }
}

const ROUTES: &str = r#"
[[routes]]
topic = "t:exact"
plugin = "misbehave"

[[routes]]
topic = "t:*"
plugin = "misbehave"
transports = ["websocket"]

[[routes]]
topic = "t:b*"
plugin = "echo"
mounts = ["/socket"]

[[routes]]
topic = "t:c*"
plugin = "echo"
mounts = ["/ws"]
"#;

#[tokio::test]
async fn routes_are_the_same_for_clients_of_phoenix_0_11() {
    let bench = Bench::new();
    bench.append(ROUTES);
    let server = bench.serve().await;
    let (websocket, longpoll) = (Transport::WebSocket, Transport::LongPoll);
    for (transport, topic, served) in [
        (websocket, "t:a", true),
        (longpoll, "t:a", false),
        (longpoll, "t:b", false),
        (longpoll, "t:c", true),
        (longpoll, "t:exact", true),
    ] {
        let mut client = RawClient::connect(&Options::phoenix_0_11(server.address, transport))
            .await
            .expect("connected");
        let join = format!(r#"{{"topic":"{topic}","event":"phx_join","payload":{{}},"ref":"1"}}"#);
        match client.send(Frame::from(&*join)).await {
            Ok(()) => assert!(
                served && matches!(client.next().await, Ok(Incoming::Frame(_))),
                "{topic}"
            ),
            Err(ClientError::NotTaken { status: 401 }) => assert!(!served, "{topic}"),
            Err(error) => panic!("{topic}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_route_without_the_clients_transport_or_mount_is_skipped_and_the_next_one_tried() {
    let bench = Bench::new();
    bench.append(ROUTES);
    let server = bench.serve().await;
    let (websocket, longpoll) = (Transport::WebSocket, Transport::LongPoll);
    for (transport, mount, topic, plugin) in [
        (websocket, "/socket", "t:a", "misbehave"),
        (longpoll, "/socket", "t:a", "nobody"),
        (websocket, "/socket", "t:b", "misbehave"),
        (longpoll, "/socket", "t:b", "echo"),
        (longpoll, "/gate", "t:b", "nobody"),
        (longpoll, "/gate", "t:exact", "misbehave"),
        (websocket, "/socket", "t:", "misbehave"),
        (websocket, "/socket", "t", "nobody"),
    ] {
        let served = served_by(&server, transport, mount, topic).await;
        assert_eq!(served, plugin, "{topic} at {mount} over {}", transport.name());
    }
    server
        .log
        .line(&[
            "WARN",
            "join refused: no route matches the topic",
            "topic=\"t\"",
            "mount=\"/socket\"",
        ])
        .await;
}
