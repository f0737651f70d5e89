//! Connect handlers.

use bennu_plugin::abi::{effect, event, outcome};
use bennu_plugin::export::NoChannel;
use bennu_plugin::prelude::*;

use crate::fake::{Done, Event, Loaded};

#[derive(Deserialize)]
struct Params {
    token: String,
}

struct Gate;

impl Connect for Gate {
    fn connect(request: &ConnectRequest, cx: &mut ConnectContext) -> Connected {
        let Params { token } = request.params()?;
        match token.as_str() {
            "open" => Ok(Connection::accept()
                .id("user:1")
                .assigns(json!({ "agent": request.header("user-agent") }))),
            "later" => {
                let later = cx.later();
                cx.remote().complete(later, "", json!("good"));
                Ok(Connection::later())
            }
            "crash" => panic!("broken gate"),
            _ => Err(Denial::status(403).body(json!({ "reason": "closed" }))),
        }
    }

    fn connect_answer(_: &ConnectRequest, answer: Payload<'_>, _: &mut ConnectContext) -> Connected {
        if answer.parse::<String>().is_ok_and(|answer| answer == "good") {
            return Ok(Connection::accept());
        }
        Err(Denial::status(403))
    }

    fn check_origin(origin: &Origin, _: &NoSettings) -> bool {
        match origin.host() {
            Some("crash.example") => panic!("broken gate"),
            Some(host) => host == "a.example" && origin.port() == Some(443),
            None => origin.text() == "file://" && origin.mount() == "/socket",
        }
    }
}

fn plugin() -> Loaded<NoChannel, Gate, NoSettings> {
    Loaded::new("").expect("takes no settings")
}

fn connect(kind: u32, params: &str, payload: &str) -> Event {
    let info =
        format!(r#"{{"mount":"/socket","transport":"websocket","params":{params},"headers":[["user-agent","test"]]}}"#);
    Event {
        kind,
        info,
        payload: payload.into(),
        ..Event::default()
    }
}

#[track_caller]
fn check(done: &Done, kind: u32, number: u64, name: &str, payload: &str) {
    assert_eq!(done.seen(), [(kind, 0, name, payload)]);
    assert_eq!(done.effects[0].number, number);
}

#[test]
fn a_client_is_let_in_or_refused() {
    let mut plugin = plugin();
    let mut connect = |params| plugin.one(connect(event::CONNECT, params, ""));
    check(
        &connect(r#"{"token":"open"}"#),
        effect::CONNECT_ACCEPT,
        0,
        "user:1",
        r#"{"agent":"test"}"#,
    );
    check(
        &connect(r#"{"token":"x"}"#),
        effect::CONNECT_REFUSE,
        403,
        "",
        r#"{"reason":"closed"}"#,
    );
    let missing = r#"{"reason":"invalid payload","field":"token","message":"missing field `token`"}"#;
    check(&connect("{}"), effect::CONNECT_REFUSE, 400, "", missing);
    assert_eq!(connect(r#"{"token":"crash"}"#).outcome, outcome::PANICKED);
}

#[test]
fn the_answer_to_a_connect_may_come_later() {
    let mut plugin = plugin();
    let done = plugin.one(connect(event::CONNECT, r#"{"token":"later"}"#, ""));
    assert_eq!(done.seen(), [(effect::LATER, 0, "", "")]);
    plugin.outside.wait_for(r#"complete 0.101  "good""#);
    let answered = plugin.one(connect(event::ANSWER, "{}", r#""good""#));
    check(&answered, effect::CONNECT_ACCEPT, 0, "", "{}");
    let answered = plugin.one(connect(event::ANSWER, "{}", r#""bad""#));
    check(&answered, effect::CONNECT_REFUSE, 403, "", "");
}

#[test]
fn a_page_is_let_in_or_refused_by_its_origin() {
    let mut plugin = plugin();
    let mut origin = |parsed: &str| {
        let info = format!(r#"{{"mount":"/socket",{parsed}}}"#);
        plugin.one(Event {
            kind: event::ORIGIN,
            info,
            ..Event::default()
        })
    };
    let known = r#""origin":"https://a.example","scheme":"https","host":"a.example","port":443"#;
    check(&origin(known), effect::CONNECT_ACCEPT, 0, "", "");
    check(
        &origin(r#""origin":"file://","scheme":"file""#),
        effect::CONNECT_ACCEPT,
        0,
        "",
        "",
    );
    check(&origin(r#""origin":"null""#), effect::CONNECT_REFUSE, 403, "", "");
    let crashed = origin(r#""origin":"https://crash.example","host":"crash.example""#);
    assert_eq!(crashed.outcome, outcome::PANICKED);
}

#[test]
fn a_plugin_that_only_connects_refuses_joins() {
    let join = crate::fake::join(7, "{}");
    check(
        &plugin_refuses(join),
        effect::REFUSE,
        0,
        "",
        r#"{"reason":"unmatched topic"}"#,
    );
}

fn plugin_refuses(join: Event) -> Done {
    let mut done = plugin().one(join);
    done.effects[0].member = 0;
    done
}
