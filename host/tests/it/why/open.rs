//! `/connections`: who is connected.

use std::collections::BTreeSet;

use bennu_tools::client::{Client as Plain, Options, Transport};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, get_with};
use crate::support::server::Bench;
use crate::support::wire::Wire;

async fn list(admin: std::net::SocketAddr, query: &str) -> (Vec<Value>, Value) {
    let mut page = get(admin, &format!("/connections?{query}")).await.json();
    let cursor = page["cursor"].take();
    (
        serde_json::from_value(page["connections"].take()).expect("a list"),
        cursor,
    )
}

#[tokio::test]
async fn each_connection_is_on_one_page() {
    const CLIENTS: usize = 25;
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut wires = Vec::new();
    for _ in 0..CLIENTS {
        wires.push(Wire::open(&server).await);
    }
    let (mut seen, mut cursor, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let (page, next) = list(admin, &format!("limit=4{cursor}")).await;
        assert!(page.len() <= 4);
        pages += 1;
        for connection in page {
            let number = connection["connection"].as_u64().expect("a number");
            assert!(
                seen.insert((number, connection["peer"].to_string())),
                "{number} is there twice"
            );
        }
        match next.as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(pages > CLIENTS / 4, "{pages} pages");
    let peers: BTreeSet<String> = seen.iter().map(|(_, peer)| peer.clone()).collect();
    let expected = wires.iter().map(|wire| json!(wire.address()).to_string()).collect();
    assert_eq!(peers, expected);
    let one = &wires[7];
    let (found, _) = list(admin, &format!("peer={}", one.address())).await;
    assert_eq!(found.len(), 1);
    let number = found[0]["connection"].as_u64().expect("a number");
    assert_eq!(list(admin, &format!("connection={number}")).await.0.len(), 1);
}

#[tokio::test]
async fn a_connection_shows_what_an_operator_needs_and_no_secret() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let user = transport.name();
        let mut options = Options::new(server.address, transport);
        options.mount = "/gate".into();
        options.params = vec![("token".into(), "open".into()), ("user".into(), user.into())];
        let mut ann = Plain::connect(&options).await.expect("connected");
        ann.join("misbehave:a", json!({ "secret": "hidden-text" }))
            .await
            .expect("joined");
        ann.join("misbehave:b", json!({})).await.expect("joined");
        let (found, _) = list(admin, &format!("socket_id=user%3A{user}")).await;
        assert_eq!(found.len(), 1, "{user}");
        let connection = &found[0];
        for (key, expected) in [
            ("socket_id", json!(format!("user:{user}"))),
            ("mount", json!("/gate")),
            ("transport", json!(user)),
            ("vsn", json!("2.0.0")),
            ("topics", json!(2)),
            ("messages_in", json!(2)),
            ("messages_out", json!(2)),
        ] {
            assert_eq!(connection[key], expected, "{key} of {connection}");
        }
        let connect = format!("connection={} ", connection["connection"]);
        server.log.line(&["connect", "mount=\"/gate\"", &connect]).await;
        server.log.line(&["joined", "misbehave:b", &connect]).await;
        assert!(!connection.to_string().contains("hidden-text"));
    }
}

#[tokio::test]
async fn a_question_that_is_wrong_is_told_so_and_the_secret_is_needed() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let answer = get(admin, "/connections?sokcet_id=1").await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("there is no parameter `sokcet_id`"),
        "{}",
        answer.body
    );
    let answer = get(admin, "/closes?reason=idel").await;
    assert!(
        answer.status == 400 && answer.body.contains("there is no reason `idel`"),
        "{}",
        answer.body
    );
    drop(server);
    let server = bench
        .serve_with(|command| command.env("BENNU_ADMIN_SECRET", "for the operator alone"))
        .await;
    let admin = server.admin().await;
    for path in ["/connections", "/closes"] {
        assert_eq!(get(admin, path).await.status, 401, "{path}");
        let with = get_with(admin, path, "authorization: Bearer for the operator alone\r\n").await;
        assert_eq!(with.status, 200, "{path}");
    }
}

#[tokio::test]
async fn lines_about_a_client_name_its_connection() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.try_join("nowhere:1", json!({})).await;
    let (found, _) = list(server.admin().await, "").await;
    let connection = format!("connection={} ", found[0]["connection"]);
    server.log.line(&["no route matches the topic", &connection]).await;
}
