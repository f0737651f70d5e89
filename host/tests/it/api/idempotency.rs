//! A request that comes twice with the same `Idempotency-Key` is carried out once.

use std::fs;

use serde_json::json;

use super::{Backend, bench};
use crate::support::client::Client;
use crate::support::http::metric;

const OTHER: &str = "other-key-0123456789-0123456789-0123456789";

fn message(n: u32) -> String {
    json!({ "topic": "echo:1", "event": "news", "payload": n }).to_string()
}

async fn publish(backend: &Backend, key: &str, body: &str) -> (u16, bool, String) {
    let header = format!("idempotency-key: {key}\r\n");
    let answer = backend.post_text("/api/broadcast", &header, body).await;
    let replayed = answer.header("idempotency-replayed") == Some("true");
    (answer.status, replayed, answer.body)
}

#[tokio::test]
async fn the_same_request_twice_is_one_delivery_and_the_same_answer() {
    let bench = bench();
    fs::write(bench.path("other"), OTHER).expect("written");
    bench.append("[[api.keys]]\nname = \"other\"\nsecret_file = \"other\"\nallow = [\"broadcast\"]\ntopics = [\"*\"]");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut member = Client::joined(&server, "echo:1").await;
    let sent = json!({ "heard": 1, "intercepted": 0 }).to_string();
    assert_eq!(publish(&backend, "a", &message(1)).await, (200, false, sent.clone()));
    let _second = Client::joined(&server, "echo:1").await;
    assert_eq!(publish(&backend, "a", &message(1)).await, (200, true, sent.clone()));
    // Another body, another key, another backend.
    assert_eq!(publish(&backend, "a", &message(2)).await.0, 422);
    assert_eq!(publish(&backend, "b", &message(3)).await.0, 200);
    assert_eq!(publish(&backend.with(OTHER), "a", &message(4)).await.0, 200);
    for n in [1, 3, 4] {
        assert_eq!(member.event("echo:1", "news").await, json!(n));
    }
    assert_eq!(member.rest().await.len(), 0);
    assert_eq!(metric(server.admin().await, "bennu_api_idempotency_keys").await, 3);
}

#[tokio::test]
async fn a_request_that_did_nothing_may_be_tried_again() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let typo = json!({ "topic": "eco:1", "event": "news" }).to_string();
    assert_eq!(publish(&backend, "a", &typo).await.0, 404);
    let (status, replayed, _) = publish(&backend, "a", &message(1)).await;
    assert_eq!((status, replayed), (200, false));
    let long = "k".repeat(256);
    for key in ["", "a b", "é", &long] {
        assert_eq!(publish(&backend, key, &message(1)).await.0, 400, "{key}");
    }
}

#[tokio::test]
async fn a_second_request_while_the_first_is_at_work_is_told_so() {
    let bench = bench();
    // The I/O threads do not answer while the inbox is full of a body that takes its time: a list keeps the first at work.
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let _member = Client::joined(&server, "echo:1").await;
    let list: Vec<_> = (0..1_000)
        .map(|n| json!({ "topic": "echo:1", "event": "n", "payload": n }))
        .collect();
    let list = json!(list).to_string();
    let headers = format!("{}idempotency-key: k\r\n", backend.header());
    let (mut first, mut second) = (backend.connection().await, backend.connection().await);
    first.send("POST", "/api/broadcast", &headers, &list).await;
    second.send("POST", "/api/broadcast", &headers, &list).await;
    let (first, second) = (first.answer().await, second.answer().await);
    assert_eq!(first.status, 200);
    match second.status {
        200 => assert_eq!(second.body, first.body),
        409 => assert_eq!(
            (&second.json()["reason"], second.header("retry-after")),
            (&json!("in_progress"), Some("1"))
        ),
        status => panic!("{status}"),
    }
    assert_eq!(metric(server.admin().await, "bennu_api_published_total").await, 1_000);
}

#[tokio::test]
async fn a_client_that_hangs_up_has_its_request_carried_out_once() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut member = Client::joined(&server, "echo:1").await;
    let mut hasty = backend.connection().await;
    let headers = format!("{}idempotency-key: k\r\n", backend.header());
    hasty.send("POST", "/api/broadcast", &headers, &message(1)).await;
    drop(hasty);
    assert_eq!(member.event("echo:1", "news").await, json!(1));
    let again = loop {
        let again = publish(&backend, "k", &message(1)).await;
        if again.0 != 409 {
            break again;
        }
    };
    assert_eq!((again.0, again.1), (200, true));
    assert_eq!(member.rest().await.len(), 0);
}

#[tokio::test]
async fn the_oldest_answers_are_forgotten_when_there_are_too_many() {
    let bench = bench();
    bench.set("api", "max_idempotency_keys", "2");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    for key in ["a", "b", "c"] {
        assert_eq!(publish(&backend, key, &message(1)).await.0, 200);
    }
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_api_idempotency_forgotten_total").await, 1);
    assert!(publish(&backend, "b", &message(1)).await.1 && publish(&backend, "c", &message(1)).await.1);
    assert!(!publish(&backend, "a", &message(1)).await.1);
    bench.set("api", "idempotency_ms", "1");
    server.log.line(&["configuration replaced"]).await;
    while publish(&backend, "c", &message(1)).await.1 {}
}

#[tokio::test]
async fn one_backend_does_not_make_the_server_forget_the_answers_of_another() {
    let bench = bench();
    bench.set("api", "max_idempotency_keys", "3");
    fs::write(bench.path("other"), OTHER).expect("written");
    bench.append("[[api.keys]]\nname = \"other\"\nsecret_file = \"other\"\nallow = [\"broadcast\"]\ntopics = [\"*\"]");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let other = backend.with(OTHER);
    assert!(!publish(&backend, "mine", &message(1)).await.1);
    for key in ["a", "b", "c", "d"] {
        assert!(!publish(&other, key, &message(1)).await.1);
    }
    assert!(publish(&backend, "mine", &message(1)).await.1);
    assert!(!publish(&other, "a", &message(1)).await.1);
}

#[tokio::test]
async fn a_list_in_which_every_message_failed_is_not_remembered() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let (bad, good) = (
        json!({ "topic": "no:route", "event": "e" }),
        json!({ "topic": "echo:1", "event": "e" }),
    );
    let (failed, half) = (json!([bad, bad]).to_string(), json!([bad, good]).to_string());
    for replayed in [false, false] {
        let (status, was_replayed, _) = publish(&backend, "failed", &failed).await;
        assert_eq!((status, was_replayed), (200, replayed));
    }
    for replayed in [false, true] {
        assert_eq!(publish(&backend, "half", &half).await.1, replayed);
    }
}
