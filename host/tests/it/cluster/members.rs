//! Clients of one node in topics of another.

use serde_json::{Value, json};

use super::{Node, join_again, named, patiently, topic_at, two};
use crate::api::Backend;
use crate::support::client::Client;
use crate::support::http::metric;

/// A client of the home and one of the other node, in a room.
async fn room(a: &Node, b: &Node) -> (String, Client, Client) {
    let topic = topic_at(a, "room:", "a").await;
    let ann = a.join(&topic, named("ann")).await;
    let bob = b.join(&topic, named("bob")).await;
    (topic, ann, bob)
}

/// Waits until a client hears that somebody has come (`joins`) or gone (`leaves`).
async fn diff(client: &mut Client, topic: &str, what: &str, who: &str) {
    while !client.event(topic, "presence_diff").await[what][who].is_object() {}
}

#[tokio::test]
async fn members_of_all_nodes_are_in_one_room_with_one_history_and_one_presence_list() {
    let (_broker, a, b) = two().await;
    let (topic, mut ann, mut bob) = room(&a, &b).await;
    let state = bob.event(&topic, "presence_state").await;
    let keys: Vec<&String> = state.as_object().expect("a list").keys().collect();
    assert_eq!(keys, ["ann", "bob"]);
    for (number, from) in [(1, 0), (2, 1)] {
        let client = [&mut ann, &mut bob];
        let [one, other] = client;
        let sender = if from == 0 { one } else { other };
        let id = sender.push(&topic, "new_msg", json!({ "body": "hello" })).await;
        assert_eq!(id, json!({ "id": number }));
    }
    for client in [&mut ann, &mut bob] {
        for number in 1..=2 {
            assert_eq!(client.event(&topic, "new_msg").await["id"], number);
        }
    }
    let mut eve = Client::connect(&b.server).await;
    let joined = join_again(&mut eve, &topic, named("eve")).await;
    assert_eq!(joined["history"].as_array().map(Vec::len), Some(2));
    diff(&mut bob, &topic, "joins", "eve").await;
}

#[tokio::test]
async fn a_broadcast_crosses_once_however_many_members_the_other_node_has_and_leaves_out_whom_it_should() {
    let (_broker, a, b) = two().await;
    let (topic, mut ann, mut bob) = room(&a, &b).await;
    let mut others = Vec::new();
    for number in 0..5 {
        others.push(b.join(&topic, named(&format!("o{number}"))).await);
    }
    // All presence changes are through.
    bob.push(&topic, "new_msg", json!({ "body": "first" })).await;
    for client in &mut others {
        client.event(&topic, "new_msg").await;
    }
    let before = metric(a.admin, "bennu_cluster_items_out_total").await;
    for _ in 0..20 {
        bob.start(&topic, "typing", json!({ "typing": true })).await;
    }
    for client in others.iter_mut().chain([&mut ann]) {
        for _ in 0..20 {
            assert_eq!(client.event(&topic, "typing").await["name"], "bob");
        }
    }
    let crossed = metric(a.admin, "bennu_cluster_items_out_total").await - before;
    // A change of presence that was announced late may be among them.
    assert!(
        (20..25).contains(&crossed),
        "{crossed} messages for 20 broadcasts to six members"
    );
    let heard = bob.rest().await;
    assert!(!heard.iter().any(|message| message.event == "typing"), "{heard:?}");
}

#[tokio::test]
async fn a_client_of_another_node_leaves_joins_twice_and_goes() {
    let (_broker, a, b) = two().await;
    let (topic, mut ann, mut bob) = room(&a, &b).await;
    diff(&mut ann, &topic, "joins", "bob").await;
    bob.push(&topic, "phx_leave", json!({})).await;
    bob.event(&topic, "phx_close").await;
    diff(&mut ann, &topic, "leaves", "bob").await;
    let gone = bob.try_push(&topic, "new_msg", json!({ "body": "x" })).await;
    assert_eq!(gone["response"]["reason"], "unmatched topic");
    bob.join(&topic, named("bob")).await;
    bob.join(&topic, named("rob")).await;
    bob.push(&topic, "new_msg", json!({ "body": "again" })).await;
    assert_eq!(ann.event(&topic, "new_msg").await["name"], "rob");
    drop(bob);
    let gone = async { while !ann.event(&topic, "presence_diff").await["leaves"]["rob"].is_object() {} };
    patiently("word that rob is gone", gone).await;
    let empty = async {
        while b.report().await["mailboxes"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("end of the mailbox", empty).await;
}

#[tokio::test]
async fn a_join_that_the_plugin_refuses_is_refused_with_its_reason() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&a, "room:", "a").await;
    let mut client = Client::connect(&b.server).await;
    let reply = client.try_join(&topic, json!({})).await;
    assert_eq!(reply["status"], "error");
    let mut local = Client::connect(&a.server).await;
    assert_eq!(local.try_join(&topic, json!({})).await, reply);
}

#[tokio::test]
async fn what_waits_behind_a_join_that_is_refused_is_answered() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&a, "misbehave:", "a").await;
    let mut client = Client::connect(&b.server).await;
    let join = client
        .start_join(&topic, json!({ "do": "later_refuse", "ms": 100 }))
        .await;
    let echo = client.start(&topic, "echo", json!({})).await;
    assert_eq!(client.answer(&join).await["response"]["reason"], "refused late");
    assert_eq!(client.answer(&echo).await["response"]["reason"], "unmatched topic");
}

#[tokio::test]
async fn messages_larger_than_the_broker_takes_at_once_arrive() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&a, "echo:", "a").await;
    let large = Value::from("x".repeat(60_000));
    let mut client = b.join(&topic, json!({})).await;
    let mut refs = Vec::new();
    for _ in 0..20 {
        refs.push(client.start(&topic, "echo", json!({ "large": large })).await);
    }
    for reference in refs {
        assert_eq!(client.answer(&reference).await["response"]["large"], large);
    }
}

#[tokio::test]
async fn backends_reach_a_topic_and_a_client_from_any_node() {
    let (_broker, a, b) = two().await;
    let (topic, mut ann, mut bob) = room(&a, &b).await;
    bob.push(&topic, "new_msg", json!({ "body": "kept" })).await;
    for node in [&a, &b] {
        let backend = Backend::of(&node.server).await;
        let message = json!({ "topic": topic, "event": "news", "payload": { "n": 1 } });
        let answer = backend.post_text("/api/broadcast", "", &message.to_string()).await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "heard": 2, "intercepted": 0 }))
        );
        for client in [&mut ann, &mut bob] {
            assert_eq!(client.event(&topic, "news").await, json!({ "n": 1 }));
        }
        let call = json!({ "topic": topic, "event": "history" });
        let answer = backend.post_text("/api/call", "", &call.to_string()).await.json();
        assert_eq!(answer["response"]["history"][0]["body"], "kept", "{answer}");
    }
}
