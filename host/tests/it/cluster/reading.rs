//! What backends and operators read from any node: topics, presence, connections, and what became of clients.

use bennu_tools::client::Transport;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Broker, Node, agree, named, patiently, settled, topic_at, two};
use crate::api::{Backend, KEY, as_user};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::http::get;

/// Name and node of each topic of a page.
fn topics(page: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let topics = page["topics"].as_array().expect("a list").iter();
    topics
        .map(|topic| (text(&topic["topic"]), text(&topic["node"])))
        .collect()
}

/// What a command of this node's own program says, and complains of.
async fn command(args: &[&str]) -> (String, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || run(|command| command.args(args).env("BENNU_API_KEY", KEY)));
    let (output, said, complained) = ran.await.expect("it runs");
    assert!(output.status.success(), "{said}{complained}");
    (said, complained)
}

#[tokio::test]
async fn topics_of_all_nodes_are_listed_in_order_page_by_page_with_their_node() {
    let (_broker, a, b) = two().await;
    let mut clients = Vec::new();
    let mut expected = Vec::new();
    for number in 0..8 {
        let topic = format!("echo:{number}");
        clients.push(a.join(&topic, json!({})).await);
        let home = patiently("home", async { a.home(&topic).await.expect("it is joined") }).await;
        expected.push((topic, home));
    }
    for node in ["a", "b"] {
        assert!(expected.iter().any(|(_, home)| home == node), "{expected:?}");
    }
    for node in [&a, &b] {
        let backend = Backend::of(&node.server).await;
        let (status, all) = backend.get("/api/topics?prefix=echo:").await;
        assert_eq!(
            (status, topics(&all), &all["cursor"]),
            (200, expected.clone(), &Value::Null)
        );
        assert_eq!(all["missing"], json!([]));
        for limit in 1..=4 {
            let (mut found, mut cursor) = (Vec::new(), String::new());
            loop {
                let (_, page) = backend
                    .get(&format!("/api/topics?prefix=echo:&limit={limit}{cursor}"))
                    .await;
                assert!(topics(&page).len() <= limit);
                found.extend(topics(&page));
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{limit} on a page");
        }
    }
    let address = Backend::of(&b.server).await.address.to_string();
    let (said, complained) = command(&["topics", "echo:", "--api", &address]).await;
    assert!(
        said.lines().next().is_some_and(|header| header.contains("node")),
        "{said}"
    );
    assert_eq!((said.lines().count(), &*complained), (9, ""));
}

#[tokio::test]
async fn a_topic_is_shown_by_every_node_as_by_its_home() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "a").await;
    let _ann = a.join(&topic, named("ann")).await;
    let mut bob = b.join(&topic, named("bob")).await;
    bob.event(&topic, "presence_state").await;
    let path = format!("/api/topics/{topic}");
    let of_a = Backend::of(&a.server).await.get(&path).await;
    let of_b = Backend::of(&b.server).await.get(&path).await;
    assert_eq!(of_a, of_b);
    let (status, shown) = of_b;
    assert_eq!(
        (status, &shown["members"], &shown["node"]),
        (200, &json!(2), &json!("a"))
    );
    let present: Vec<&String> = shown["presence"].as_object().expect("a list").keys().collect();
    assert_eq!(present, ["ann", "bob"]);
    let absent = topic_at(&b, "room:absent", "a").await;
    for node in [&a, &b] {
        for (topic, reason) in [(&*absent, "not_alive"), ("nowhere:1", "no_route")] {
            let (status, refused) = Backend::of(&node.server)
                .await
                .get(&format!("/api/topics/{topic}"))
                .await;
            assert_eq!((status, &refused["reason"]), (404, &json!(reason)), "{topic}");
        }
    }
    let address = Backend::of(&b.server).await.address.to_string();
    let (said, _) = command(&["topics", &topic, "--api", &address]).await;
    assert!(said.contains("2 members") && said.contains("on node a"), "{said}");
}

#[tokio::test]
async fn connections_and_what_became_of_clients_are_found_from_every_node() {
    let (_broker, a, b) = two().await;
    let mut clients = Vec::new();
    for node in [&a, &b, &b] {
        let options = as_user(&node.server, Transport::WebSocket, "ann");
        clients.push(Client::connect_with(&options).await);
    }
    for node in [&a, &b] {
        let backend = Backend::of(&node.server).await;
        let (_, found) = backend.get("/api/connections?socket_id=user:ann").await;
        let mut nodes: Vec<_> = { found["connections"].as_array().expect("a list").iter() }
            .filter_map(|connection| connection["node"].as_str())
            .collect();
        nodes.sort_unstable();
        assert_eq!((&found["count"], &found["more"]), (&json!(3), &json!(false)));
        assert_eq!((nodes, &found["missing"]), (vec!["a", "b", "b"], &json!([])));
        let (_, few) = backend.get("/api/connections?socket_id=user:ann&limit=2").await;
        assert_eq!((&few["count"], &few["more"]), (&json!(3), &json!(true)));
        let known = get(node.admin, "/why?client=user:ann").await.json();
        assert_eq!(known["connections"].as_array().map(Vec::len), Some(3), "{known}");
    }
    let (_, answer) = { Backend::of(&b.server).await }
        .post("/api/disconnect", json!({ "socket_id": "user:ann" }))
        .await;
    assert_eq!(answer["disconnected"], 3);
    for node in [&a, &b] {
        let all = async {
            loop {
                let known = get(node.admin, "/why?client=user:ann").await.json();
                if known["closes"].as_array().map(Vec::len) == Some(3) {
                    break known;
                }
            }
        };
        let known = patiently("closes", all).await;
        assert_eq!((&known["connections"], &known["missing"]), (&json!([]), &json!([])));
    }
    let (said, complained) = command(&["why", "user:ann", "--admin", &a.admin.to_string()]).await;
    assert_eq!(said.matches(" on node b, socket id user:ann").count(), 2, "{said}");
    assert_eq!(
        (said.matches(" on node a, socket id user:ann").count(), &*complained),
        (1, "")
    );
}

/// Checks that `b` says which node it has not heard.
async fn check_missing(b: &Node, topic: &str) {
    let backend = Backend::of(&b.server).await;
    let shown = format!("/api/topics/{topic}");
    let (topics, connections, why, shown) = tokio::join!(
        backend.get("/api/topics"),
        backend.get("/api/connections?socket_id=user:ann"),
        get(b.admin, "/why?client=user:ann"),
        backend.get(&shown),
    );
    for (status, answer) in [topics, connections, (why.status, why.json())] {
        assert_eq!((status, &answer["missing"]), (200, &json!(["a"])), "{answer}");
    }
    let (status, refused) = shown;
    assert_eq!((status, &refused["reason"]), (503, &json!("unavailable")));
    let message = refused["message"].as_str().expect("a text");
    assert!(message.contains("the node `a`"), "{message}");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let broker = Broker::start();
    let change = |bench: &crate::support::server::Bench| {
        // Its lease must not end before it is asked.
        bench.set("cluster", "lease_ms", "20_000");
        bench.set("api", "heard_timeout_ms", "300");
    };
    let mut a = Node::start_with(&broker, "a", change).await;
    let b = Node::start_with(&broker, "b", change).await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&b, "room:", "a").await;
    let _ann = a.join(&topic, named("ann")).await;
    a.server.signal(Signal::STOP);
    check_missing(&b, &topic).await;
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    check_missing(&b, &topic).await;
    let address = Backend::of(&b.server).await.address.to_string();
    let (_, complained) = command(&["topics", "--api", &address]).await;
    assert_eq!(
        complained,
        "warning: the node a does not answer: what is there is not shown\n"
    );
}
