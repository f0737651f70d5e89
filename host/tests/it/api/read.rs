//! What a backend can see: topics, presence, connections.

use bennu_tools::client::Transport;
use serde_json::{Value, json};

use super::{Backend, as_user, bench, reason, refused};
use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::within;

fn names(page: &Value) -> Vec<&str> {
    let topics = page["topics"].as_array().expect("a list");
    topics
        .iter()
        .map(|topic| topic["topic"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn topics_come_in_order_page_by_page() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut client = Client::connect(&server).await;
    for topic in ["echo:3", "echo:1", "misbehave:é", "echo:2", "echo:10", "misbehave:1"] {
        client.join(topic, json!({})).await;
    }
    let (status, all) = backend.get("/api/topics").await;
    let order = ["echo:1", "echo:10", "echo:2", "echo:3", "misbehave:1", "misbehave:é"];
    assert_eq!(
        (status, names(&all), &all["cursor"]),
        (200, order.to_vec(), &Value::Null)
    );
    let first = json!({ "topic": "echo:1", "plugin": "echo", "generation": 1, "members": 1, "joining": 0 });
    assert_eq!(all["topics"][0], first);
    for limit in 1..=6 {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let (_, page) = backend.get(&format!("/api/topics?limit={limit}{cursor}")).await;
            assert!(names(&page).len() <= limit);
            found.extend(names(&page).into_iter().map(str::to_owned));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, order, "{limit} on a page");
    }
    let (_, prefixed) = backend.get("/api/topics?prefix=echo%3A1").await;
    assert_eq!(names(&prefixed), ["echo:1", "echo:10"]);
    for query in [
        "limit=0",
        "limit=x",
        "cursor=*",
        "cursor=_w",
        "prefx=a",
        "limit=1&limit=2",
        "prefix=%ff",
    ] {
        let answer = backend.get(&format!("/api/topics?{query}")).await;
        assert_eq!(reason(answer), refused(400, "invalid"), "{query}");
    }
}

#[tokio::test]
async fn a_key_sees_the_topics_that_it_may_name() {
    let bench = bench();
    bench.set("api", "max_page", "2");
    bench.set("api.keys", "topics", "[\"echo:2*\", \"misbehave:1\", \"echo:*\"]");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut client = Client::connect(&server).await;
    for topic in ["echo:1", "echo:2", "misbehave:1", "misbehave:10"] {
        client.join(topic, json!({})).await;
    }
    let (_, page) = backend.get("/api/topics?limit=50").await;
    assert_eq!(names(&page), ["echo:1", "echo:2"]);
    let cursor = page["cursor"].as_str().expect("there is more");
    let (_, page) = backend.get(&format!("/api/topics?cursor={cursor}")).await;
    assert_eq!((names(&page), &page["cursor"]), (vec!["misbehave:1"], &Value::Null));
}

#[tokio::test]
async fn a_topic_has_its_presence_list_as_clients_see_it() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let (mut ann, mut bob) = (Client::connect(&server).await, Client::connect(&server).await);
    ann.join("room:a/b c", json!({ "name": "ann" })).await;
    bob.join("room:a/b c", json!({ "name": "bob" })).await;
    let state = bob.event("room:a/b c", "presence_state").await;
    for path in ["/api/topics/room:a%2Fb%20c", "/api/topics/room%3Aa/b%20c"] {
        let (status, topic) = backend.get(path).await;
        assert_eq!(status, 200, "{topic}");
        assert_eq!(
            topic,
            json!({
                "topic": "room:a/b c", "plugin": "room", "generation": 1, "members": 2, "joining": 0, "presence": state,
                "stored": null, "cursor": null,
            })
        );
    }
    ann.join("echo:1", json!({})).await;
    assert_eq!(backend.get("/api/topics/echo:1").await.1["presence"], Value::Null);
    assert_eq!(
        reason(backend.get("/api/topics/echo:2").await),
        refused(404, "not_alive")
    );
    assert_eq!(
        reason(backend.get("/api/topics/no:route").await),
        refused(404, "no_route")
    );
}

#[tokio::test]
async fn a_stored_topic_is_shown_in_memory_or_not_and_does_not_wake() {
    let bench = bench();
    bench.set("plugins.misbehave", "durability", "\"commit\"");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    let (backend, admin) = (Backend::of(&server).await, server.admin().await);
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "count", json!({})).await;
    client
        .push("misbehave:1", "topic_count", json!({ "ms": 3_600_000 }))
        .await;
    let (_, awake) = backend.get("/api/topics/misbehave:1").await;
    assert_eq!(
        (&awake["members"], &awake["stored"]["timers"]),
        (&json!(1), &json!(1)),
        "{awake}"
    );
    drop(client);
    let hibernated = "bennu_plugin_hibernated_topics_total{plugin=\"misbehave\"}";
    let asleep = async {
        while metric(admin, hibernated).await == 0 || backend.get("/api/topics/misbehave:1").await.1["members"] != 0 {}
    };
    within("the topic sleeps", asleep).await;
    let (status, asleep) = backend.get("/api/topics/misbehave:1").await;
    assert_eq!(
        (status, &asleep["plugin"], &asleep["presence"]),
        (200, &json!("misbehave"), &Value::Null)
    );
    let stored = &asleep["stored"];
    assert_eq!(
        (&stored["state_version"], &stored["timers"]),
        (&json!(1), &json!(1)),
        "{asleep}"
    );
    assert!(stored["bytes"].as_u64() > Some(50) && stored["written_unix_ms"].as_u64() > Some(1_700_000_000_000));
    assert_eq!(
        metric(admin, "bennu_plugin_woken_topics_total{plugin=\"misbehave\"}").await,
        0
    );
    assert_eq!(
        reason(backend.get("/api/topics/misbehave:2").await),
        refused(404, "not_alive")
    );
}

#[tokio::test]
async fn connections_are_found_by_their_socket_id() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut connected = Vec::new();
    for (transport, name) in [
        (Transport::WebSocket, "ann"),
        (Transport::WebSocket, "ann"),
        (Transport::LongPoll, "ann"),
        (Transport::WebSocket, "bob"),
    ] {
        let mut client = Client::connect_with(&as_user(&server, transport, name)).await;
        client.join("misbehave:1", json!({})).await;
        connected.push(client);
    }
    let (status, found) = backend.get("/api/connections?socket_id=user:ann").await;
    assert_eq!((status, &found["count"]), (200, &json!(3)));
    let mut transports: Vec<&str> = Vec::new();
    for connection in found["connections"].as_array().expect("a list") {
        assert_eq!(connection["mount"], "/gate");
        assert_eq!(
            (&connection["vsn"], &connection["topics"]),
            (&json!("2.0.0"), &json!(["misbehave:1"]))
        );
        transports.push(connection["transport"].as_str().expect("a name"));
    }
    transports.sort_unstable();
    assert_eq!(transports, ["longpoll", "websocket", "websocket"]);
    let (_, some) = backend.get("/api/connections?socket_id=user:ann&limit=2").await;
    assert_eq!(
        (&some["count"], some["connections"].as_array().map(Vec::len)),
        (&json!(3), Some(2))
    );
    let nobody = json!({ "count": 0, "connections": [], "more": false });
    assert_eq!(backend.get("/api/connections?socket_id=user:eve").await, (200, nobody));
    assert_eq!(reason(backend.get("/api/connections").await), refused(400, "invalid"));
}

#[tokio::test]
async fn a_presence_list_of_any_depth_is_shown() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    let deep = (0..122).fold(json!(1), |inner, _| json!([inner]));
    let tracked = json!({ "key": "k", "meta": { "x": deep } });
    client.push("misbehave:1", "track", tracked).await;
    let path = "/api/topics/misbehave:1";
    let answer = crate::support::http::get_with(backend.address, path, &backend.header()).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(&"[".repeat(122)), "{}", answer.body);
}

#[tokio::test]
async fn an_answer_has_no_more_bytes_than_the_configuration_allows() {
    let bench = bench();
    bench.set("api", "max_answer_bytes", "16_384");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await;
        // One byte on the wire, six in JSON.
        let topic = format!("misbehave:{n}{}", "\u{1}".repeat(900));
        client.join(&topic, json!({})).await;
        clients.push(client);
    }
    let (_, found) = backend.get("/api/connections?socket_id=user:ann").await;
    assert_eq!((&found["count"], &found["more"]), (&json!(4), &json!(true)));
    let listed = found["connections"].as_array().expect("a list").len();
    assert!((1..4).contains(&listed) && found.to_string().len() < 17_000, "{listed}");
    let (mut topics, mut cursor) = (0, String::new());
    loop {
        let (_, page) = backend.get(&format!("/api/topics?{cursor}")).await;
        assert!(page.to_string().len() < 17_000);
        topics += names(&page).len();
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("cursor={next}"),
            None => break,
        }
    }
    assert_eq!(topics, 4);
}

#[tokio::test]
async fn a_topic_of_two_plugins_is_on_one_page_and_the_next_page_follows() {
    let bench = bench();
    let routes = "[[routes]]\ntopic = \"echo:*\"\nplugin = \"misbehave\"\nmounts = [\"/gate\"]\n\n";
    let text = bench
        .read_config()
        .replacen("[[routes]]", &format!("{routes}[[routes]]"), 1);
    bench.write_config(&text);
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut here = Client::connect(&server).await;
    let mut there = Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await;
    for topic in ["echo:1", "echo:2", "echo:3"] {
        here.join(topic, json!({})).await;
        there.join(topic, json!({})).await;
    }
    for limit in 1..=6 {
        let (mut found, mut cursor) = (0, String::new());
        loop {
            let (_, page) = backend.get(&format!("/api/topics?limit={limit}{cursor}")).await;
            found += names(&page).len();
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, 6, "{limit} on a page");
    }
}
