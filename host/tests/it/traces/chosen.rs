//! Which traces are chosen, and who has a say in that.

use bennu_tools::client::{Options, Transport};
use serde_json::{Value, json};

use super::{SPAN, TOPIC, TRACE, bench, of_event, traced, traceparent};
use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::otlp::{Collector, Span};

const OTHER_TRACE: &str = "11111111111111111111111111111111";

fn other() -> Value {
    json!(format!("00-{OTHER_TRACE}-2222222222222222-01"))
}

#[tokio::test]
async fn a_client_does_not_decide_whether_it_is_traced_unless_everybody_may() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "ratio", "0.0");
    let server = bench.serve().await;
    let mut client = Client::connect_with(&traced(&server, &traceparent(true))).await;
    client.join(TOPIC, json!({ "traceparent": other() })).await;
    client.push(TOPIC, "echo", json!({ "traceparent": other() })).await;
    assert!(server.stop().await.success());
    assert!(collector.taken().spans.is_empty());

    bench.set("telemetry", "follow", "\"everybody\"");
    let server = bench.serve().await;
    let mut client = Client::connect_with(&traced(&server, &traceparent(true))).await;
    client.join(TOPIC, json!({})).await;
    let mut quiet = Client::connect_with(&traced(&server, &traceparent(false))).await;
    quiet.join(TOPIC, json!({})).await;
    assert!(server.stop().await.success());
    let spans = collector.taken().spans;
    let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((named("connect"), named("join")), (1, 1));
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
}

#[tokio::test]
async fn a_malformed_traceparent_is_none() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    let server = bench.serve().await;
    for (bad, user) in [("nonsense", "a"), (&*traceparent(true).to_uppercase(), "b")] {
        let mut options = traced(&server, bad);
        options.params.push(("user".to_owned(), user.to_owned()));
        let _client = Client::connect_with(&options).await;
    }
    let taken = collector
        .until("connects", |taken| {
            taken.spans.iter().filter(|span| span.name == "connect").count() == 2
        })
        .await;
    let connects: Vec<&Span> = taken.spans.iter().filter(|span| span.name == "connect").collect();
    assert!(
        connects
            .iter()
            .all(|span| span.parent.is_empty() && span.trace != TRACE)
    );
    assert_ne!(connects[0].trace, connects[1].trace);
}

#[tokio::test]
async fn a_join_and_an_event_may_name_their_own_trace() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    let server = bench.serve().await;
    let mut client = Client::connect_with(&traced(&server, &traceparent(true))).await;
    client.join(TOPIC, json!({ "traceparent": other() })).await;
    client.push(TOPIC, "echo", json!({ "traceparent": other() })).await;
    client.push(TOPIC, "numbered", json!({ "traceparent": 7 })).await;
    let connect = collector.span("connect", |span| span.parent == SPAN).await;
    let join = collector.span("join", |span| span.name == "join").await;
    let echo = of_event(&collector, "echo").await;
    for span in [join, echo] {
        assert_eq!((&*span.trace, &*span.parent), (OTHER_TRACE, "2222222222222222"));
        assert_eq!(span.links, [(TRACE.to_owned(), connect.id.clone())]);
    }
    let numbered = of_event(&collector, "numbered").await;
    assert_eq!((numbered.trace, numbered.parent), (connect.trace, connect.id));
}

#[tokio::test]
async fn a_long_conversation_is_not_one_endless_trace() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "max_client_spans", "3");
    let server = bench.serve().await;
    let mut options = Options::new(server.address, Transport::LongPoll);
    options.params = vec![("traceparent".to_owned(), traceparent(true))];
    let mut client = Client::connect_with(&options).await;
    client.join(TOPIC, json!({})).await;
    for number in 0..4 {
        client.push(TOPIC, "echo", json!({ "n": number })).await;
    }
    assert!(server.stop().await.success());
    let spans = collector.taken().spans;
    let connect = spans.iter().find(|span| span.name == "connect").expect("it connected");
    let mut events: Vec<&Span> = spans.iter().filter(|span| span.name == "event").collect();
    events.sort_by_key(|span| span.begun);
    let is_in: Vec<_> = events.iter().map(|span| span.trace == TRACE).collect();
    assert_eq!(is_in, [true, true, false, false]);
    for span in &events[2..] {
        assert_eq!(span.links, [(TRACE.to_owned(), connect.id.clone())]);
        assert!(span.parent.is_empty());
    }
    assert_ne!(events[2].trace, events[3].trace);
}

#[tokio::test]
async fn a_plugin_has_a_bound_of_spans_in_an_event() {
    let collector = Collector::start().await;
    let bench = bench(&collector);
    bench.set("telemetry", "max_spans_per_event", "5");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "spans", json!({ "count": 100 })).await;
    let event = of_event(&collector, "spans").await;
    let handler = collector.span("handler", |span| span.parent == event.id).await;
    let of_plugin = |spans: &[Span]| spans.iter().filter(|span| span.parent == handler.id).count();
    let taken = collector.until("spans", |taken| of_plugin(&taken.spans) >= 4).await;
    // `outer` and three more, as `inner` is below `outer`.
    assert_eq!(of_plugin(&taken.spans), 4);
    let left_out = metric(server.admin().await, "bennu_spans_dropped_total{reason=\"event_full\"}").await;
    assert_eq!(left_out, 98);
}
