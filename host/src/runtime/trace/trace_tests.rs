use std::time::Duration;

use super::span::Value;
use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn settings() -> Telemetry {
    Telemetry {
        endpoint: String::new(),
        headers_file: None,
        service_name: None,
        ratio: 1.0,
        follow: Follow::Backends,
        topics: false,
        max_queue_spans: 100,
        max_client_spans: 2,
        max_spans_per_event: 1,
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        flush_timeout: Duration::ZERO,
    }
}

fn tracer(settings: Telemetry) -> Arc<Tracer> {
    Arc::new(Tracer::new(settings))
}

fn taken(tracer: &Tracer) -> Vec<Finished> {
    tracer.queue().take(Duration::ZERO).expect("it is open")
}

/// Whether a trace is chosen that somebody says is recorded, or is not.
fn is_chosen(ratio: f64, follow: Follow, asking: Asking, is_sampled: bool) -> bool {
    let tracer = tracer(Telemetry {
        ratio,
        follow,
        ..settings()
    });
    let parent = TraceParent::parse(PARENT).map(|parent| TraceParent { is_sampled, ..parent });
    tracer.begin("connect", asking, parent).is_some()
}

#[test]
fn only_those_who_are_followed_decide_whether_they_are_traced() {
    for (follow, asking, decides) in [
        (Follow::Nobody, Asking::Client, false),
        (Follow::Nobody, Asking::Backend, false),
        (Follow::Backends, Asking::Client, false),
        (Follow::Backends, Asking::Backend, true),
        (Follow::Everybody, Asking::Client, true),
        (Follow::Everybody, Asking::Backend, true),
    ] {
        for is_sampled in [false, true] {
            let chosen = |ratio| is_chosen(ratio, follow, asking, is_sampled);
            let expected = if decides {
                (is_sampled, is_sampled)
            } else {
                (false, true)
            };
            assert_eq!(
                (chosen(0.0), chosen(1.0)),
                expected,
                "{follow:?} {asking:?} {is_sampled}"
            );
        }
    }
}

#[test]
fn chance_takes_about_the_part_that_it_should() {
    let tracer = tracer(Telemetry {
        ratio: 0.1,
        max_queue_spans: 0,
        ..settings()
    });
    let chosen = (0..10_000).filter(|_| tracer.begin("connect", Asking::Client, None).is_some());
    let chosen = chosen.count();
    assert!((800..1_200).contains(&chosen), "{chosen}");
}

#[test]
fn a_span_that_nobody_ends_says_so() {
    let tracer = tracer(settings());
    let span = tracer.begin("connect", Asking::Client, None).expect("chosen");
    let child = span.child("handler");
    child.end("ok");
    child.end("twice");
    drop((span, child));
    let taken = taken(&tracer);
    let shown: Vec<_> = taken
        .iter()
        .map(|span| (&*span.name, span.outcome.as_deref()))
        .collect();
    assert_eq!(shown, [("handler", Some("ok")), ("connect", Some("dropped"))]);
    assert_eq!(taken[0].parent, Some(taken[1].context.span));
    assert_eq!(taken[0].context.trace, taken[1].context.trace);
    assert!(taken.iter().all(|span| span.ended >= span.begun));
}

#[test]
fn a_span_that_is_postponed_ends_with_its_answer() {
    let tracer = tracer(settings());
    let span = tracer.begin("event", Asking::Client, None).expect("chosen");
    span.postpone(true);
    span.settle("ok", false);
    assert!(taken(&tracer).is_empty());
    span.decide("error");
    span.postpone(false);
    span.settle("ok", false);
    assert_eq!(taken(&tracer)[0].outcome.as_deref(), Some("error"));
}

#[test]
fn what_waits_has_a_bound_and_what_is_dropped_is_counted() {
    let tracer = tracer(Telemetry {
        max_queue_spans: 3,
        ..settings()
    });
    for _ in 0..10 {
        drop(tracer.begin("connect", Asking::Client, None));
    }
    assert_eq!((tracer.queue().len(), tracer.counts.full.get()), (3, 7));
    assert_eq!(taken(&tracer).len(), 3);
    tracer.queue().close();
    assert!(tracer.queue().take(Duration::from_secs(60)).is_none());
}

#[test]
fn a_client_has_so_many_spans_in_the_trace_of_its_connect() {
    let tracer = tracer(settings());
    let connect = tracer.begin("connect", Asking::Client, None).expect("chosen");
    let mut client = Some(Box::new(tracer.client(&connect)));
    let nothing = Payload::EMPTY;
    let mut next = |payload: &Payload| {
        drop(tracer.of_client("event", payload, &mut client));
        let span = taken(&tracer).remove(0);
        (
            span.parent == Some(connect.context().span) && span.context.trace == connect.context().trace,
            span.link == Some(connect.context()),
            span.context.trace,
        )
    };
    assert!(matches!(next(&nothing), (true, false, _)));
    // One that names its own trace is not counted.
    let own = Payload::Json(format!(r#"{{"traceparent":"{PARENT}"}}"#).into());
    assert_eq!(next(&own), (false, true, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
    assert!(matches!(next(&nothing), (true, false, _)));
    assert!(matches!(next(&nothing), (false, true, _)));
    // Nothing of a client whose connect was not chosen.
    assert!(tracer.of_client("event", &nothing, &mut None).is_none());
}

#[test]
fn texts_are_cut() {
    let tracer = tracer(settings());
    let span = tracer.begin("event", Asking::Client, None).expect("chosen");
    span.text("bennu.event", &"ü".repeat(1_000));
    drop(span.named_child(&"n".repeat(1_000)));
    span.end(&"o".repeat(1_000));
    let taken = taken(&tracer);
    assert_eq!(taken[0].name.len(), 100);
    assert_eq!(taken[1].outcome.as_ref().map(|outcome| outcome.len()), Some(100));
    assert_eq!(
        taken[1].attributes,
        [("bennu.event", Value::Text("ü".repeat(50).into()))]
    );
}
