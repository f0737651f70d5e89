//! Publishing: who hears it, in which order, and what is refused.

use serde_json::{Value, json};

use super::{Backend, bench, reason, refused};
use crate::support::client::Client;

#[tokio::test]
async fn everybody_on_the_topic_hears_it_and_is_counted_on_every_io_thread() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut members = Vec::new();
    // With two I/O threads, which take turns.
    for count in 1..=6 {
        members.push(Client::joined(&server, "echo:1").await);
        assert_eq!(backend.publish("echo:1", "news", json!({ "n": count })).await, count);
    }
    let _elsewhere = Client::joined(&server, "echo:2").await;
    for (at, member) in members.iter_mut().enumerate() {
        for n in at + 1..=6 {
            assert_eq!(member.event("echo:1", "news").await, json!({ "n": n }));
        }
    }
    drop(members.pop());
    // The server hears of the end in its own time.
    while backend.publish("echo:1", "news", json!({})).await != 5 {}
}

#[tokio::test]
async fn a_topic_without_anybody_is_not_a_topic_without_a_route() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    assert_eq!(backend.publish("room:nobody", "news", json!({})).await, 0);
    let typo = json!({ "topic": "rom:lobby", "event": "news" });
    assert_eq!(
        reason(backend.post("/api/broadcast", typo).await),
        refused(404, "no_route")
    );
}

#[tokio::test]
async fn a_message_of_a_list_that_fails_does_not_stop_the_others() {
    let bench = bench();
    bench.set("api", "max_payload_bytes", "100");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut member = Client::joined(&server, "echo:1").await;
    let long = "x".repeat(99);
    let messages = json!([
        { "topic": "echo:1", "event": "news", "payload": 1 },
        { "topic": "rom:1", "event": "news" },
        { "topic": "echo:1", "event": "news", "payload": long },
        { "topic": "echo:1", "event": "phx_close" },
        { "topic": "echo:1", "event": "disconnect" },
        { "topic": "echo:1" },
        { "topic": "echo:1", "event": "news", "palyoad": 1 },
        7,
        { "topic": "echo:2", "event": "news" },
        { "topic": "echo:1", "event": "news", "payload": null },
    ]);
    for body in [messages.clone(), json!({ "messages": messages })] {
        let (status, answer) = backend.post("/api/broadcast", body).await;
        let results: Vec<Value> = answer["results"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|result| result.get("reason").unwrap_or(&result["heard"]).clone())
            .collect();
        assert_eq!(
            json!(results),
            json!([
                1,
                "no_route",
                "too_large",
                "invalid",
                "invalid",
                "invalid",
                "invalid",
                "invalid",
                0,
                1
            ])
        );
        assert_eq!((status, &answer["failed"]), (200, &json!(7)));
        assert_eq!(member.event("echo:1", "news").await, json!(1));
        assert_eq!(member.event("echo:1", "news").await, Value::Null);
    }
}

#[tokio::test]
async fn messages_of_one_request_and_of_one_connection_arrive_in_order() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut members = [
        Client::joined(&server, "echo:1").await,
        Client::joined(&server, "echo:1").await,
    ];
    let mut connection = backend.connection().await;
    for request in 0..20 {
        let numbers = (0..10).map(|n| json!({ "topic": "echo:1", "event": "n", "payload": request * 10 + n }));
        let body = json!(numbers.collect::<Vec<_>>()).to_string();
        connection
            .send("POST", "/api/broadcast", &backend.header(), &body)
            .await;
        assert_eq!(connection.answer().await.status, 200);
    }
    for member in &mut members {
        for n in 0..200 {
            assert_eq!(member.event("echo:1", "n").await, json!(n));
        }
    }
}

#[tokio::test]
async fn bytes_are_base64() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut member = Client::joined(&server, "echo:1").await;
    for base64 in ["AP+A/w==", "AP+A/w"] {
        let message = json!({ "topic": "echo:1", "event": "raw", "payload_base64": base64 });
        assert_eq!(
            backend.post("/api/broadcast", message).await,
            (200, json!({ "heard": 1, "intercepted": 0 }))
        );
        assert_eq!(member.event("echo:1", "raw").await, json!([0, 255, 128, 255]));
    }
    for payload in [
        json!({ "payload_base64": "*" }),
        json!({ "payload_base64": "", "payload": 1 }),
        json!({ "payload_base64": 1 }),
    ] {
        let mut message = json!({ "topic": "echo:1", "event": "raw" });
        message
            .as_object_mut()
            .expect("an object")
            .append(&mut payload.as_object().expect("one").clone());
        assert_eq!(
            reason(backend.post("/api/broadcast", message).await),
            refused(400, "invalid")
        );
    }
}

#[tokio::test]
async fn members_whose_plugin_intercepts_the_event_are_counted_apart() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(Client::joined(&server, "misbehave:t").await);
    }
    let message = |event: &str| json!({ "topic": "misbehave:t", "event": event, "payload": { "n": 1 } });
    assert_eq!(
        backend.post("/api/broadcast", message("secret")).await,
        (200, json!({ "heard": 0, "intercepted": 3 }))
    );
    for member in &mut members {
        assert_eq!(member.event("misbehave:t", "secret").await["secret"], json!({ "n": 1 }));
    }
    assert_eq!(
        backend.post("/api/broadcast", message("plain")).await,
        (200, json!({ "heard": 3, "intercepted": 0 }))
    );
}

#[tokio::test]
async fn events_of_the_servers_own_and_what_is_no_message_are_refused() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    for event in [
        "phx_join",
        "phx_reply",
        "phx_",
        "presence_state",
        "presence_diff",
        "disconnect",
        "",
    ] {
        let message = json!({ "topic": "echo:1", "event": event });
        assert_eq!(
            reason(backend.post("/api/broadcast", message).await),
            refused(400, "invalid"),
            "{event}"
        );
    }
    let long = "x".repeat(2_000);
    let wide = format!(
        "{{\"topic\":\"echo:{}\",\"event\":\"a\",\"payload_base64\":\"AA==\"}}",
        "x".repeat(300)
    );
    for body in [
        "",
        "null",
        "7",
        "{",
        "[7",
        "{}",
        r#"{"topic":"echo:1","event":7}"#,
        r#"{"topic":"echo:1","topic":"echo:1","event":"a"}"#,
        r#"{"messages":[],"topic":"echo:1"}"#,
        r#"{"messages":{}}"#,
        "{\"topic\":\"echo:1\",\"event\":\"a\",\"payload\":\"\u{1}\"}",
        &format!(r#"{{"topic":"echo:{long}","event":"a"}}"#),
        &wide,
    ] {
        let answer = backend.post_text("/api/broadcast", "", body).await;
        assert_eq!(
            reason((answer.status, answer.json())),
            refused(400, "invalid"),
            "{body}"
        );
    }
    let empty = backend.post("/api/broadcast", json!([])).await;
    assert_eq!(empty, (200, json!({ "results": [], "failed": 0 })));
}
