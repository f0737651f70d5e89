//! Spans that a callback begins, as the host sees them.

use bennu_plugin::abi::{event, outcome};
use bennu_plugin::export::NoConnect;
use bennu_plugin::prelude::*;

use crate::recorder::{Event, Loaded, join, push};

#[derive(Default, Serialize, Deserialize)]
struct Traced;

impl Channel for Traced {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, cx: &mut Context) -> Join<Self> {
        let _span = cx.span("join");
        cx.track("me", json!({}));
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
        let _outer = cx.span("outer");
        for name in ["first", "left out", "second"] {
            let _inner = cx.span(name);
            assert_ne!((name, event), ("second", "panic"), "in a span");
        }
        Ok(Reply::ok())
    }
}

struct Gate;

impl Connect for Gate {
    fn connect(_: &ConnectRequest, cx: &mut ConnectContext) -> Connected {
        let _span = cx.span("connect");
        Ok(Connection::accept())
    }
}

#[test]
fn a_span_ends_where_its_value_does_and_one_that_is_left_out_does_not_end() {
    let mut plugin = Loaded::new::<Traced, NoConnect, NoSettings>("{}").expect("loaded");
    let done = plugin.handle(&[join(7, "{}"), push(7, "go", "{}")]);
    assert_eq!(done[0].spans, ["join is 1", "1 ends"]);
    assert_eq!(
        done[1].spans,
        [
            "outer is 1",
            "first is 2",
            "2 ends",
            "left out is 0",
            "second is 5",
            "5 ends",
            "1 ends"
        ]
    );
    assert_eq!(plugin.end(), (0, 0));
}

#[test]
fn a_panic_ends_the_spans_before_the_event() {
    let mut plugin = Loaded::new::<Traced, NoConnect, NoSettings>("{}").expect("loaded");
    let done = plugin.handle(&[join(7, "{}"), push(7, "panic", "{}")]);
    assert_eq!(done[1].outcome, outcome::PANICKED);
    assert_eq!(done[1].spans[5..], ["5 ends", "1 ends"]);
    assert_eq!(plugin.end(), (0, 0));
}

#[test]
fn a_connect_handler_has_spans_too() {
    let mut plugin = Loaded::new::<Traced, Gate, NoSettings>("{}").expect("loaded");
    let connect = Event {
        kind: event::CONNECT,
        info: r#"{"mount":"/socket","transport":"websocket","params":{}}"#,
        ..Event::default()
    };
    assert_eq!(plugin.one(connect).spans, ["connect is 1", "1 ends"]);
    assert_eq!(plugin.end(), (0, 0));
}
