//! The dialect of Phoenix 0.11 beside today's: the same plugins, the same topics.

use bennu_tools::client::{Options, RawClient, Transport};
use serde_json::json;

use super::{OldClient, calm, message, pushed, reply};
use crate::support::client::Client;
use crate::support::http::{metric, request};

const ROOM: &str = "room:lobby";

#[tokio::test]
async fn clients_of_both_dialects_talk_in_one_room() {
    let bench = calm();
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut today = Client::connect_by(&server, transport).await;
        today.join(ROOM, json!({ "name": "ann" })).await;
        let mut old = OldClient::connect(&server, transport).await;
        old.join(ROOM, json!({ "name": "bob" })).await;
        let state = old.hear().await;
        assert_eq!(state["event"], "presence_state");
        assert!(
            state["payload"]["ann"].is_object() && state["payload"]["bob"].is_object(),
            "{state}"
        );
        assert_eq!(old.hear().await["event"], "presence_diff");

        let id = today.push(ROOM, "new_msg", json!({ "body": "hello" })).await["id"].clone();
        let said = json!({ "id": id, "name": "ann", "body": "hello" });
        assert_eq!(today.event(ROOM, "new_msg").await, said);
        assert_eq!(old.hear().await, pushed(ROOM, "new_msg", said));

        old.say(&message(ROOM, "new_msg", json!({ "body": "hi" }), "2")).await;
        let heard = today.event(ROOM, "new_msg").await;
        assert_eq!((&heard["name"], &heard["body"]), (&json!("bob"), &json!("hi")));
        assert_eq!(old.hear().await, pushed(ROOM, "new_msg", heard.clone()));
        assert_eq!(old.hear().await, reply(ROOM, "2", "ok", json!({ "id": heard["id"] })));

        old.say(&message(ROOM, "typing", json!({ "typing": true }), "3")).await;
        let typing = json!({ "name": "bob", "typing": true });
        assert_eq!(today.event(ROOM, "typing").await, typing);
    }
}

#[tokio::test]
async fn a_mount_serves_todays_clients_beside_those_of_phoenix_0_11() {
    let bench = calm();
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let options = Options {
            mount: "/ws".into(),
            ..Options::new(server.address, transport)
        };
        RawClient::connect(&options).await.expect("today's dialect");
        let options = Options {
            mount: "/socket".into(),
            ..Options::phoenix_0_11(server.address, transport)
        };
        RawClient::connect(&options)
            .await
            .expect_err("this mount has not turned it on");
    }
    let plain = request(server.address, "GET", "/ws", "", "").await;
    assert_eq!(
        (plain.status, plain.body.is_empty()),
        (400, false),
        "no upgrade was asked for"
    );
    for path in ["/ws/other", "/socket/poll"] {
        assert_eq!(request(server.address, "GET", path, "", "").await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn what_these_clients_cannot_be_sent_reaches_the_others_and_is_counted_and_said_once() {
    let bench = calm();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let topic = "misbehave:t";
    let mut today = Client::joined(&server, topic).await;
    let mut old = OldClient::connect(&server, Transport::WebSocket).await;
    old.join(topic, json!({})).await;
    for _ in 0..3 {
        today.start(topic, "broadcast_binary", json!({})).await;
        assert_eq!(today.event(topic, "binary").await, json!([0, 255, 1]));
    }
    old.say(&message(topic, "push_binary", json!({}), "2")).await;
    old.say(&message(topic, "echo", json!({}), "3")).await;
    assert_eq!(old.hear().await, reply(topic, "3", "ok", json!({})));
    assert_eq!(metric(admin, "bennu_withheld_messages_total").await, 4);
    let log = server.log.clone();
    // By then all that it has said is there.
    assert!(server.stop().await.success());
    assert_eq!(log.count(&["message not sent", topic]), 1);
}

#[tokio::test]
async fn a_route_that_is_removed_closes_its_channels_in_both_dialects() {
    let bench = calm();
    let server = bench.serve().await;
    let mut clients = Vec::new();
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut old = OldClient::connect(&server, transport).await;
        old.join("echo:a", json!({})).await;
        clients.push(old);
    }
    let routes = bench.read_config();
    bench.write_config(&routes.replace("topic = \"echo:*\"", "topic = \"other:*\""));
    for old in &mut clients {
        assert_eq!(old.hear().await, pushed("echo:a", "phx_close", json!({})));
    }
    bench.write_config(&routes);
    server.log.nth_line(1, &["configuration replaced"]).await;
    for old in &mut clients {
        old.join("echo:a", json!({})).await;
    }
    bench.write_config(&routes.replace(
        "topic = \"echo:*\"\nplugin = \"echo\"",
        "topic = \"echo:*\"\nplugin = \"misbehave\"",
    ));
    for old in &mut clients {
        assert_eq!(old.hear().await, pushed("echo:a", "phx_error", json!({})));
    }
}

#[tokio::test]
async fn a_message_that_is_too_big_closes_a_websocket_with_1009() {
    let bench = calm();
    let server = bench.serve().await;
    let mut client = RawClient::connect(&Options::phoenix_0_11(server.address, Transport::WebSocket))
        .await
        .expect("connected");
    let long = message("echo:a", "phx_join", json!("x".repeat(65_536)), "1").to_string();
    client.send(long.as_str().into()).await.expect("sent");
    let end = client.next().await.expect("an end");
    assert_eq!(end, bennu_tools::client::Incoming::Closed { code: 1009 });
}
