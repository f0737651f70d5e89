//! Traces, as a collector gets them.

mod chosen;
mod trouble;

use bennu_tools::client::{Options, Transport};
use http::HeaderValue;
use serde_json::json;

use crate::api::{self, Backend};
use crate::support::client::Client;
use crate::support::command::{check_refused, said};
use crate::support::otlp::{Collector, Span, tree};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:t";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// What a client or backend says, with its flag `sampled`.
fn traceparent(is_sampled: bool) -> String {
    format!("00-{TRACE}-{SPAN}-0{}", u8::from(is_sampled))
}

/// A bench with the API, whose server sends each trace to the collector.
fn bench(collector: &Collector) -> Bench {
    let bench = api::bench();
    bench.append(&collector.section());
    bench
}

/// The options of a client at `/gate`, with the header.
fn traced(server: &Server, traceparent: &str) -> Options {
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/gate".to_owned();
    options.params = vec![("token".to_owned(), "open".to_owned())];
    let value = HeaderValue::from_str(traceparent).expect("a header");
    options.headers.insert("traceparent", value);
    options
}

async fn of_event(collector: &Collector, event: &str) -> Span {
    let is_it = |span: &Span| span.name == "event" && span.get("bennu.event") == event;
    collector.span(event, is_it).await
}

#[tokio::test]
async fn a_conversation_is_a_tree_below_the_span_of_the_client() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    let server = bench.serve().await;
    let mut client = Client::connect_with(&traced(&server, &traceparent(true))).await;
    client.join(TOPIC, json!({})).await;
    client.push(TOPIC, "spans", json!({ "count": 2 })).await;
    client.push(TOPIC, "later_thread", json!({ "ms": 20 })).await;
    client.try_push(TOPIC, "status", json!({ "status": "odd" })).await;
    assert!(server.stop().await.success());
    // All of it was sent before the server ended.
    let taken = collector.taken();
    let spans: Vec<Span> = taken.spans.into_iter().filter(|span| span.trace == TRACE).collect();
    let keys = ["bennu.event", "bennu.callback", "bennu.outcome"];
    assert_eq!(
        tree(&spans, SPAN, &keys),
        "\
connect ok
  handler connect ok
    look ok
  join ok
    handler join ok
  event spans ok
    handler handle_in ok
      outer ok
        inner ok
      more ok
      more ok
      behind ok
  event later_thread ok
    handler handle_in ok
  event status odd
    handler handle_in ok
"
    );
    let join = spans.iter().find(|span| span.name == "join").expect("it joined");
    for (key, value) in [
        ("bennu.mount", "/gate"),
        ("bennu.transport", "websocket"),
        ("bennu.route", "misbehave:*"),
        ("bennu.plugin", "misbehave"),
        ("bennu.topic", ""),
    ] {
        assert_eq!(join.get(key), value, "{key}");
    }
    assert!(join.get("bennu.wait_us").parse::<u64>().is_ok(), "{join:?}");
    assert_eq!((join.kind, &*join.resource["service.name"]), (2, "bennu"));
    assert!(spans.iter().all(|span| span.begun <= span.ended && !span.has_failed));
    // The event lasts until its late answer.
    let late = spans.iter().find(|span| span.get("bennu.event") == "later_thread");
    let late = late.expect("it was sent");
    assert!(late.ended - late.begun >= 20_000_000, "{late:?}");
}

#[tokio::test]
async fn time_in_the_mailbox_is_not_time_in_the_handler() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("plugins.misbehave", "shards", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let slow = client.start(TOPIC, "sleep", json!({ "ms": 200 })).await;
    client.push(TOPIC, "echo", json!({})).await;
    client.answer(&slow).await;
    let waited = of_event(&collector, "echo").await;
    let wait_us: u64 = waited.get("bennu.wait_us").parse().expect("a number");
    assert!(wait_us >= 100_000, "{waited:?}");
    let is_handler = |span: &Span| span.name == "handler" && span.parent == waited.id;
    let handler = collector.span("handler", is_handler).await;
    assert!(handler.begun - waited.begun >= 100_000_000);
    assert!(handler.ended - handler.begun < 100_000_000);
}

#[tokio::test]
async fn what_backends_ask_is_in_their_trace() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    // Theirs is followed, whatever the ratio.
    bench.set("telemetry", "ratio", "0.0");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let headers = format!("traceparent: {}\r\n", traceparent(true));
    let call = json!({ "topic": TOPIC, "event": "add", "create": true });
    let asked = backend.post_text("/api/call", &headers, &call.to_string()).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    let message = json!({ "topic": TOPIC, "event": "news", "payload": {} });
    backend
        .post_text("/api/broadcast", &headers, &message.to_string())
        .await;
    let late = json!({ "topic": TOPIC, "event": "later_thread", "create": true });
    backend.post_text("/api/call", &headers, &late.to_string()).await;
    let bad = json!({ "topic": "nowhere:1", "event": "add" });
    backend.post_text("/api/call", &headers, &bad.to_string()).await;
    // This one says nothing, so the ratio decides.
    backend.post("/api/call", call).await;
    assert!(server.stop().await.success());
    let spans = collector.taken().spans;
    assert_eq!(
        tree(
            &spans,
            SPAN,
            &["bennu.api_key", "bennu.event", "bennu.callback", "bennu.outcome"]
        ),
        "\
api call web ok
  call add ok
    handler handle_call ok
      add ok
api broadcast web ok
api call web ok
  call later_thread ok
    handler handle_call ok
api call web no_route
"
    );
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
}

#[tokio::test]
async fn a_browser_names_its_trace_in_a_parameter() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut options = Options::new(server.address, transport);
        options.params = vec![("traceparent".to_owned(), traceparent(false))];
        let _client = Client::connect_with(&options).await;
    }
    for transport in ["websocket", "longpoll"] {
        let is_it = |span: &Span| span.get("bennu.transport") == transport;
        let connect = collector.span(transport, is_it).await;
        assert_eq!((&*connect.trace, &*connect.parent), (TRACE, SPAN));
    }
}

#[tokio::test]
async fn faults_are_marked_and_refusals_are_not() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("plugins.misbehave", "deadline_ms", "300");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.try_join(TOPIC, json!({ "do": "refuse" })).await;
    client.try_join(TOPIC, json!({ "do": "later_refuse" })).await;
    client.try_join(TOPIC, json!({ "do": "never" })).await;
    client.try_join(TOPIC, json!({ "do": "panic" })).await;
    client.join(TOPIC, json!({ "do": "later", "ms": 1 })).await;
    client.start(TOPIC, "spans", json!({ "at": "panic" })).await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    client.event(TOPIC, "phx_error").await;
    let hung = of_event(&collector, "unruly").await;
    assert_eq!((hung.get("bennu.outcome"), hung.has_failed), ("hung", true));
    let taken = collector.taken();
    let mut joins: Vec<&Span> = taken.spans.iter().filter(|span| span.name == "join").collect();
    joins.sort_by_key(|span| span.begun);
    let joins: Vec<_> = joins
        .iter()
        .map(|span| (span.get("bennu.outcome"), span.has_failed))
        .collect();
    assert_eq!(
        joins,
        [
            ("refused", false),
            ("refused", false),
            ("join timeout", true),
            ("crashed", true),
            ("ok", false),
            ("ok", false)
        ]
    );
    let crashed = taken.spans.iter().find(|span| span.get("bennu.event") == "spans");
    let crashed = crashed.expect("it was sent");
    assert!(crashed.has_failed);
    assert_eq!(
        tree(&taken.spans, &crashed.id, &["bennu.outcome"]),
        "handler crashed\n  outer ok\n    inner ok\n"
    );
}

#[tokio::test]
async fn a_plugin_of_an_old_kit_is_traced() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.put("misbehave", Build::Misbehave);
    bench.put("veteran", Build::VeteranOld);
    bench.append(
        "[plugins.veteran]\nlibrary = \"libveteran.so\"\n[[routes]]\ntopic = \"veteran:*\"\nplugin = \"veteran\"",
    );
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    client.join("veteran:1", json!({ "name": "ann" })).await;
    client.push("veteran:1", "echo", json!({})).await;
    let event = of_event(&collector, "echo").await;
    collector.span("handler", |span| span.parent == event.id).await;
}

#[tokio::test]
async fn names_of_topics_are_there_only_if_they_are_wanted_and_payloads_never() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "topics", "true");
    bench.set("telemetry", "service_name", "\"chat\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "echo", json!({ "hunter2": "hunter2" })).await;
    client.start(TOPIC, &"e".repeat(5_000), json!({})).await;
    let echo = of_event(&collector, "echo").await;
    assert_eq!(
        (echo.get("bennu.topic"), &*echo.resource["service.name"]),
        (TOPIC, "chat")
    );
    let long = of_event(&collector, &"e".repeat(100)).await;
    assert_eq!(long.get("bennu.outcome"), "error");
    assert!(!format!("{:?}", collector.taken()).contains("hunter2"));
}

#[tokio::test]
async fn the_collector_gets_its_headers_and_nobody_else_sees_them() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "headers_file", "\"headers\"");
    std::fs::write(bench.path("headers"), "Authorization: Bearer s3cret-of-the-file\n").expect("written");
    let server = bench.serve().await;
    let _client = Client::connect(&server).await;
    let has = |header: &'static str| {
        collector.until(header, move |taken| {
            taken.heads.iter().any(|head| head.contains(header))
        })
    };
    has("authorization: bearer s3cret-of-the-file").await;
    has("content-type: application/x-protobuf").await;
    assert!(!server.log.text().contains("s3cret"));
    drop(server);
    let server = bench
        .serve_with(|command| command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret%20of%20the%20variable"))
        .await;
    let _client = Client::connect(&server).await;
    has("x-key: s3cret of the variable").await;
    assert!(!server.log.text().contains("s3cret"));
}

#[tokio::test]
async fn what_is_wrong_with_the_headers_is_said_before_the_start() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "headers_file", "\"headers\"");
    let serve = |words: &str| {
        check_refused(|command| command.args(["serve", "--config"]).arg(bench.config()), words);
        // `check` finds the same without serving.
        let found = said(1, |command| command.args(["check", "--serve"]).arg(bench.config()));
        assert!(found.contains(words) && !found.contains("s3cret"), "{found}");
    };
    serve("cannot read the headers for the collector");
    std::fs::write(bench.path("headers"), "s3cret\n").expect("written");
    serve("header 1 in");
}
