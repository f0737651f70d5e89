//! Asking a topic's plugin over HTTP.

use serde_json::{Value, json};

use super::{Backend, bench, reason, refused};
use crate::support::client::Client;
use crate::support::command::{check_refused, run, said};
use crate::support::http::metric;
use crate::support::plugins::Build;

async fn ask(backend: &Backend, event: &str, payload: Value) -> (u16, Value) {
    let asked = json!({ "topic": "misbehave:t", "event": event, "payload": payload, "create": true });
    backend.post("/api/call", asked).await
}

#[tokio::test]
async fn the_plugin_answers_with_status_and_response() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let replied = |status: &str, response: Value| (200, json!({ "status": status, "response": response }));
    assert_eq!(
        ask(&backend, "echo", json!([1, null])).await,
        replied("ok", json!([1, null]))
    );
    assert_eq!(
        ask(&backend, "add", json!({})).await,
        replied("ok", json!({ "topic": 1 }))
    );
    assert_eq!(
        ask(&backend, "add", json!({})).await,
        replied("ok", json!({ "topic": 2 }))
    );
    assert_eq!(ask(&backend, "none", json!({})).await, replied("ok", json!({})));
    assert_eq!(
        ask(&backend, "refuse", json!({})).await,
        replied("error", json!({ "reason": "refused" }))
    );
    let unhandled = replied("error", json!({ "reason": "unhandled event" }));
    assert_eq!(ask(&backend, "nothing", json!({})).await, unhandled);
    assert_eq!(
        ask(&backend, "later_thread", json!({})).await,
        replied("ok", json!({ "late": true }))
    );
    let bytes = json!({ "topic": "misbehave:t", "event": "echo", "payload_base64": "AP8=", "create": true });
    assert_eq!(
        backend.post("/api/call", bytes).await,
        (200, json!({ "status": "ok", "response_base64": "AP8=" }))
    );
}

#[tokio::test]
async fn a_topic_must_be_alive_unless_the_call_makes_it() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let asked = json!({ "topic": "misbehave:t", "event": "add" });
    assert_eq!(
        reason(backend.post("/api/call", asked.clone()).await),
        refused(404, "not_alive")
    );
    let _member = Client::joined(&server, "misbehave:t").await;
    assert_eq!(backend.post("/api/call", asked).await.0, 200);
    let typo = json!({ "topic": "misbehav:t", "event": "add", "create": true });
    assert_eq!(reason(backend.post("/api/call", typo).await), refused(404, "no_route"));
}

#[tokio::test]
async fn a_plugin_that_panics_or_does_not_answer_is_no_server_error() {
    let bench = bench();
    bench.set("api", "call_deadline_ms", "100");
    bench.set("api", "max_call_deadline_ms", "10_000");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    // Without a member, the topic would end before it answers.
    let _member = Client::joined(&server, "misbehave:t").await;
    assert_eq!(reason(ask(&backend, "panic", json!({})).await), refused(502, "crashed"));
    assert_eq!(
        reason(ask(&backend, "never", json!({})).await),
        refused(504, "deadline")
    );
    let patient = |deadline_ms: u64| {
        json!({
            "topic": "misbehave:t", "event": "later_thread", "payload": { "ms": 300 }, "create": true, "deadline_ms": deadline_ms,
        })
    };
    assert_eq!(backend.post("/api/call", patient(5_000)).await.0, 200);
    assert_eq!(
        reason(backend.post("/api/call", patient(1)).await),
        refused(504, "deadline")
    );
    for deadline_ms in [0, 10_001] {
        assert_eq!(
            reason(backend.post("/api/call", patient(deadline_ms)).await),
            refused(400, "invalid")
        );
    }
}

#[tokio::test]
async fn a_plugin_of_an_old_kit_handles_no_calls() {
    let bench = bench();
    bench.put("veteran", Build::VeteranOld);
    bench.append(
        "[plugins.veteran]\nlibrary = \"libveteran.so\"\n[[routes]]\ntopic = \"veteran:*\"\nplugin = \"veteran\"",
    );
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut member = Client::connect(&server).await;
    member.join("veteran:t", json!({ "name": "ann" })).await;
    let asked = json!({ "topic": "veteran:t", "event": "add" });
    assert_eq!(
        reason(backend.post("/api/call", asked).await),
        refused(501, "unhandled")
    );
}

#[tokio::test]
async fn calls_that_wait_for_a_plugin_do_not_keep_others_from_publishing() {
    let bench = bench();
    bench.set("api", "max_calls", "2");
    bench.set("api", "max_concurrent", "1");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let never = json!({ "topic": "misbehave:t", "event": "never", "create": true }).to_string();
    let mut waiting = [backend.connection().await, backend.connection().await];
    for connection in &mut waiting {
        connection.send("POST", "/api/call", &backend.header(), &never).await;
    }
    let admin = server.admin().await;
    while metric(admin, "bennu_api_calling").await != 2 {}
    assert_eq!(
        reason(ask(&backend, "add", json!({})).await),
        refused(503, "overloaded")
    );
    assert_eq!(backend.publish("misbehave:t", "news", json!({})).await, 0);
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_run_again_by_the_same_key() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let _member = Client::joined(&server, "misbehave:t").await;
    let ask = async |event: &str, key: &str| {
        let asked = json!({ "topic": "misbehave:t", "event": event, "create": true, "deadline_ms": 200 }).to_string();
        let answer = backend
            .post_text("/api/call", &format!("idempotency-key: {key}\r\n"), &asked)
            .await;
        (
            answer.status,
            answer.header("idempotency-replayed").is_some(),
            answer.body,
        )
    };
    for (event, status) in [("add", 200), ("panic", 502), ("never", 504)] {
        let first = ask(event, event).await;
        assert_eq!((first.0, first.1), (status, false), "{event}");
        assert_eq!(ask(event, event).await, (status, true, first.2), "{event}");
    }
    assert!(ask("add", "another").await.2.contains("\"topic\":2"));
}

#[tokio::test]
async fn a_topic_is_asked_from_the_command_line() {
    let bench = bench();
    let server = bench.serve().await;
    let address = Backend::of(&server).await.address.to_string();
    let key = bench.path("api_key");
    let ask = |command: &mut std::process::Command, rest: &[&str]| {
        command
            .args(["ask", "--api", &address, "--key-file"])
            .arg(&key)
            .arg("misbehave:t")
            .args(rest);
    };
    let answer = said(0, |command| {
        ask(command, &["echo", r#"{"a":1}"#, "--create"]);
        command
    });
    assert_eq!(answer, "{\"a\":1}\n");
    let (output, answer, _) = run(|command| {
        ask(command, &["refuse"]);
        command
    });
    assert_eq!(
        (output.status.code(), &*answer),
        (Some(1), "error: {\"reason\":\"refused\"}\n")
    );
    check_refused(
        |command| {
            ask(command, &["never", "--deadline-ms", "50"]);
            command
        },
        "the plugin did not answer within 50 ms",
    );
}

#[tokio::test]
async fn a_reply_has_the_bytes_of_the_plugin_and_is_remembered() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let deep = "[".repeat(200) + &"]".repeat(200);
    for (at, payload) in ["1e999", "12345678901234567890123", r#"{"b":1,"a":2,"b":3}"#, &deep]
        .iter()
        .enumerate()
    {
        let body = format!(r#"{{"topic":"misbehave:t","event":"echo","create":true,"payload":{payload}}}"#);
        for replayed in [None, Some("true")] {
            let answer = backend
                .post_text("/api/call", &format!("idempotency-key: {at}\r\n"), &body)
                .await;
            assert_eq!(
                (answer.status, answer.header("idempotency-replayed")),
                (200, replayed),
                "{payload}"
            );
            assert_eq!(answer.body, format!(r#"{{"status":"ok","response":{payload}}}"#));
        }
    }
}

#[tokio::test]
async fn a_call_at_work_when_the_server_stops_is_answered() {
    let bench = bench();
    bench.set("server", "shutdown_timeout_ms", "5_000");
    // The topic has no members, and stays while it owes answers.
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let (mut soon, mut never) = (backend.connection().await, backend.connection().await);
    let ask = |event: &str, ms: u64| {
        json!({ "topic": "misbehave:t", "event": event, "payload": { "ms": ms }, "create": true, "deadline_ms": 60_000 }).to_string()
    };
    soon.send("POST", "/api/call", &backend.header(), &ask("later", 1_500))
        .await;
    never
        .send("POST", "/api/call", &backend.header(), &ask("never", 0))
        .await;
    while metric(server.admin().await, "bennu_api_calling").await != 2 {}
    server.signal(rustix::process::Signal::TERM);
    let answer = soon.answer().await;
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &json!("ok")),
        "{}",
        answer.body
    );
    let answer = never.answer().await;
    assert_eq!((answer.status, &answer.json()["reason"]), (502, &json!("ended")));
}

#[tokio::test]
async fn a_standstill_does_not_count_as_time_of_the_plugin() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut connection = backend.connection().await;
    let asked = json!({
        "topic": "misbehave:t", "event": "later", "payload": { "ms": 1_000 }, "create": true, "deadline_ms": 2_000,
    });
    connection
        .send("POST", "/api/call", &backend.header(), &asked.to_string())
        .await;
    while metric(server.admin().await, "bennu_api_calling").await != 1 {}
    server.stand_still(std::time::Duration::from_secs(3), async {}).await;
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test]
async fn fields_in_their_order_are_no_object() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let call = json!(["misbehave:t", "echo", {}, null, true, 1_000]);
    assert_eq!(reason(backend.post("/api/call", call).await), refused(400, "invalid"));
    let disconnect = json!(["user:9", null]);
    assert_eq!(
        reason(backend.post("/api/disconnect", disconnect).await),
        refused(400, "invalid")
    );
    let (status, answer) = backend
        .post("/api/broadcast", json!([["echo:1", "e", {}, null, null]]))
        .await;
    assert_eq!((status, &answer["results"][0]["reason"]), (200, &json!("invalid")));
}
