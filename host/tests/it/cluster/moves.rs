//! Topics that move to another node with their state.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Broker, Node, agree, join_again, named, patiently, settled, topic_at, two};
use crate::api::Backend;
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::server::Bench;

/// Counts in a topic of `misbehave`, as a client does that joins again when it is told so. Returns how often it was counted there.
pub(super) async fn counted(client: &mut Client, topic: &str) -> u64 {
    let counted = async {
        loop {
            let reply = client.try_push(topic, "count", json!({})).await;
            if let Some(count) = reply["response"]["topic"].as_u64() {
                return count;
            }
            let why = reply["response"]["reason"].as_str().unwrap_or_default();
            assert!(["unmatched topic", "topic moved"].contains(&why), "{topic}: {reply}");
            join_again(client, topic, json!({})).await;
        }
    };
    patiently("count", counted).await
}

/// Clients at a node, each in a topic of its own, in which it has counted as often as it is not the first.
async fn counting(node: &Node, topics: u64) -> BTreeMap<String, (Client, u64)> {
    let mut clients = BTreeMap::new();
    for number in 0..topics {
        let topic = format!("misbehave:{number}");
        let mut client = node.join(&topic, json!({})).await;
        for count in 1..=number {
            assert_eq!(counted(&mut client, &topic).await, count);
        }
        clients.insert(topic, (client, number));
    }
    clients
}

#[tokio::test]
async fn a_topic_of_a_node_that_stops_is_elsewhere_with_its_state_and_its_timer() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = b.join(&topic, json!({})).await;
    let due = Duration::from_secs(4);
    let set = Instant::now();
    let timer = json!({ "ms": due.as_millis() as u64, "payload": { "n": 7 } });
    bob.start(&topic, "topic_timer", timer).await;
    for count in 1..=3 {
        assert_eq!(counted(&mut bob, &topic).await, count);
    }
    let stopping = a.stop();
    let told = async { patiently("word of the end", bob.event(&topic, "phx_error")).await };
    let ((), error) = tokio::join!(stopping, told);
    assert_eq!(error, json!({ "reason": "topic moved" }));
    join_again(&mut bob, &topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 4);
    assert_eq!(bob.event(&topic, "tock").await["n"], 7);
    let took = set.elapsed();
    assert!(took >= due && took < due + Duration::from_secs(3), "{took:?}");
    assert_eq!(b.metric("topics_moved_in").await, 1);
    assert_eq!(b.home(&topic).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn members_who_join_again_find_their_history_and_each_other() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let mut bob = b.join(&topic, named("bob")).await;
    let mut eve = b.join(&topic, named("eve")).await;
    bob.push(&topic, "new_msg", json!({ "body": "before" })).await;
    let stopping = a.stop();
    let told = async {
        for client in [&mut bob, &mut eve] {
            patiently("word of the end", client.event(&topic, "phx_error")).await;
        }
    };
    tokio::join!(stopping, told);
    let joined = join_again(&mut bob, &topic, named("bob")).await;
    assert_eq!(joined["history"][0]["body"], "before", "{joined}");
    let joined = join_again(&mut eve, &topic, named("eve")).await;
    assert_eq!(joined["history"].as_array().map(Vec::len), Some(1));
    let is_both = |state: &Value| state.as_object().map(|state| state.keys().cloned().collect::<Vec<_>>());
    let mut state = eve.event(&topic, "presence_state").await;
    while is_both(&state) != Some(vec!["bob".to_owned(), "eve".to_owned()]) {
        // That of the join before may come first.
        state = eve.event(&topic, "presence_state").await;
    }
    bob.push(&topic, "new_msg", json!({ "body": "after" })).await;
    while eve.event(&topic, "new_msg").await["body"] != "after" {}
}

/// Restarts these nodes one after the other, while a client counts in each of some topics, and a topic has a timer.
async fn rolling(names: &[&str]) {
    let broker = Broker::start();
    let mut nodes = Vec::new();
    for name in names {
        // Also a topic that has stayed where it is has its members come back.
        let patient = |bench: &Bench| bench.set("plugins.misbehave", "linger_ms", "60_000");
        nodes.push(Node::start_with(&broker, name, patient).await);
    }
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    settled(&nodes.iter().collect::<Vec<_>>()).await;
    let topics = counting(&nodes[0], 12).await;
    let mut counts: BTreeMap<String, u64> = topics
        .iter()
        .map(|(topic, (_, count))| (topic.clone(), *count))
        .collect();
    let mut clients: BTreeMap<String, Client> =
        topics.into_iter().map(|(topic, (client, _))| (topic, client)).collect();
    // It is due somewhere on the way, counts without a member, and counts once.
    let timed = "misbehave:3".to_owned();
    let timer = json!({ "ms": 2_000 });
    clients
        .get_mut(&timed)
        .expect("it is there")
        .push(&timed, "topic_count", timer)
        .await;
    for restarted in 0..nodes.len() {
        nodes[restarted].stop().await;
        let other = &nodes[(restarted + 1) % nodes.len()];
        for (topic, count) in &mut counts {
            // A client whose node has stopped connects to another one.
            let mut client = other.join(topic, json!({})).await;
            let found = counted(&mut client, topic).await;
            *count += 1;
            let has_fired = *topic == timed && found == *count + 1;
            assert!(found == *count || has_fired, "{topic}: {found} instead of {count}");
            clients.insert(topic.clone(), client);
        }
        nodes[restarted].start_again().await;
        agree(&nodes.iter().collect::<Vec<_>>()).await;
        settled(&nodes.iter().collect::<Vec<_>>()).await;
    }
    let (client, count) = (clients.get_mut(&timed).expect("it is there"), counts[&timed]);
    let fired = async {
        let mut pushed = count;
        loop {
            let found = counted(client, &timed).await;
            pushed += 1;
            match found - pushed {
                0 => tokio::time::sleep(Duration::from_millis(20)).await,
                more => return more,
            }
        }
    };
    assert_eq!(patiently("timer", fired).await, 1);
    let mut moved = 0;
    for node in &nodes {
        moved += node.metric("topics_moved_in").await;
        assert_eq!(node.metric("moves_refused").await, 0);
        assert_eq!(node.metric("superseded_topics").await, 0);
    }
    assert!(moved > 0);
}

#[tokio::test]
async fn a_rolling_restart_of_two_nodes_keeps_what_they_count_and_a_timer() {
    rolling(&["a", "b"]).await;
}

#[tokio::test]
async fn a_rolling_restart_of_three_nodes_keeps_what_they_count_and_a_timer() {
    rolling(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_node_that_comes_gets_its_share_of_what_is_in_use_with_its_state() {
    let broker = Broker::start();
    let a = Node::start(&broker, "a").await;
    agree(&[&a]).await;
    let mut clients = counting(&a, 16).await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let mut moved = 0;
    for (topic, (client, count)) in &mut clients {
        moved += u64::from(a.home(topic).await.as_deref() == Some("b"));
        assert_eq!(counted(client, topic).await, *count + 1, "{topic}");
    }
    assert!((1..16).contains(&moved), "{moved}");
    assert_eq!(a.metric("topics_moved_out").await, moved);
    assert_eq!(b.metric("topics_moved_in").await, moved);
    let admin = a.admin.to_string();
    let (_, said, _) = tokio::task::spawn_blocking(move || run(|command| command.args(["cluster", "--admin", &admin])))
        .await
        .expect("it runs");
    let words = format!("topics that have moved: 0 to this node, {moved} from it");
    assert!(said.contains(&words), "{said}");
}

#[tokio::test]
async fn members_are_ended_once_where_their_topic_arrives() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = b.join(&topic, json!({})).await;
    bob.push(&topic, "arm", json!({ "at": "log" })).await;
    let stopping = a.stop();
    let told = async { patiently("word of the end", bob.event(&topic, "phx_error")).await };
    tokio::join!(stopping, told);
    b.server.log.line(&["terminating: Closed"]).await;
    assert!(!a.server.log.text().contains("terminating:"));
}

#[tokio::test]
async fn a_call_that_waits_for_a_topic_that_leaves_is_answered_at_its_new_home() {
    let (_broker, mut a, b) = two().await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = b.join(&topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 1);
    // Whoever is on this shard waits behind it.
    bob.start(&topic, "sleep", json!({ "ms": 700 })).await;
    let backend = Backend::of(&b.server).await;
    let call = json!({ "topic": topic, "event": "add" }).to_string();
    let called = backend.post_text("/api/call", "", &call);
    let ((), answer) = tokio::join!(a.stop(), called);
    assert_eq!(answer.json()["response"], json!({ "topic": 2 }), "{}", answer.body);
    join_again(&mut bob, &topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 3);
}

#[tokio::test]
async fn a_topic_that_owes_an_answer_moves_once_it_has_given_it() {
    let broker = Broker::start();
    let a = Node::start(&broker, "a").await;
    agree(&[&a]).await;
    let (mut clients, mut owed) = (counting(&a, 16).await, BTreeMap::new());
    for (topic, (client, _)) in &mut clients {
        let answer = client.start(topic, "later_thread", json!({ "ms": 3_000 })).await;
        owed.insert(topic.clone(), answer);
    }
    let b = Node::start(&broker, "b").await;
    for (topic, (client, _)) in &mut clients {
        let reply = client.answer(&owed[topic]).await;
        assert_eq!(
            reply,
            json!({ "status": "ok", "response": { "late": true } }),
            "{topic}"
        );
    }
    agree(&[&a, &b]).await;
    let moved = async { while b.metric("topics_moved_in").await == 0 {} };
    patiently("move", moved).await;
    settled(&[&a, &b]).await;
    for (topic, (client, count)) in &mut clients {
        assert_eq!(counted(client, topic).await, *count + 1, "{topic}");
    }
}

#[tokio::test]
async fn an_answer_that_a_topic_owes_for_too_long_is_an_error_when_its_node_stops() {
    let broker = Broker::start();
    let quick = |bench: &Bench| bench.set("server", "shutdown_timeout_ms", "4_000");
    let mut a = Node::start_with(&broker, "a", quick).await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut bob = b.join(&topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 1);
    let never = bob.start(&topic, "never", json!({})).await;
    // It is handled by then.
    assert_eq!(counted(&mut bob, &topic).await, 2);
    let stopping = a.stop();
    let told = async { patiently("answer", bob.answer(&never)).await };
    let ((), reply) = tokio::join!(stopping, told);
    assert_eq!(reply["response"]["reason"], "topic moved", "{reply}");
    bob.event(&topic, "phx_error").await;
    join_again(&mut bob, &topic, json!({})).await;
    assert_eq!(counted(&mut bob, &topic).await, 3);
}

/// How long it takes: `cargo test --release … -- --ignored --nocapture a_thousand_topics_move`.
#[tokio::test]
#[ignore = "it measures"]
#[expect(clippy::print_stdout, reason = "its figures are for whoever runs it")]
async fn a_thousand_topics_move() {
    const TOPICS: usize = 1_000;
    let broker = Broker::start();
    let many = |bench: &Bench| {
        bench.set("mounts", "max_channels_per_socket", "1_000");
        bench.set("server", "shutdown_timeout_ms", "60_000");
    };
    let mut a = Node::start_with(&broker, "a", many).await;
    agree(&[&a]).await;
    let mut client = Client::connect(&a.server).await;
    for number in 0..TOPICS {
        let topic = format!("misbehave:{number}");
        client.join(&topic, json!({})).await;
        client.push(&topic, "count", json!({})).await;
    }
    let began = Instant::now();
    let b = Node::start_with(&broker, "b", many).await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let (report, took) = (a.report().await, began.elapsed());
    println!(
        "a node comes: {} topics in {took:?}, with its start and half a second of calm; held for at most {} µs",
        report["moves"]["away"], report["moves"]["longest_hold_us"]
    );
    let began = Instant::now();
    a.server.signal(Signal::TERM);
    let moved = async {
        while b.report().await["moves"]["here"].as_u64() < Some(TOPICS as u64) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("moves", moved).await;
    println!(
        "the other one stops: all {TOPICS} topics are there after {:?}",
        began.elapsed()
    );
    println!("{}", a.server.log.line(&["all topics are handed over"]).await);
    patiently("end", a.server.ended()).await;
    let mut client = Client::connect(&b.server).await;
    for number in 0..TOPICS {
        let topic = format!("misbehave:{number}");
        client.join(&topic, json!({})).await;
        assert_eq!(counted(&mut client, &topic).await, 2, "{topic}");
    }
}
