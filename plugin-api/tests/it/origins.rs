//! Which pages a connect handler lets in.

use bennu_plugin::abi::{effect, event, outcome};
use bennu_plugin::export::NoChannel;
use bennu_plugin::prelude::*;

use crate::recorder::{Done, Event, Loaded};

struct Gate;

impl Connect for Gate {
    fn connect(_: &ConnectRequest, _: &mut ConnectContext) -> Connected {
        Ok(Connection::accept())
    }

    fn check_origin(origin: &Origin, _: &NoSettings) -> bool {
        match origin.host() {
            Some("crash.example") => panic!("broken gate"),
            Some(host) => host == "a.example" && origin.port() == Some(443),
            None => origin.text() == "file://" && origin.mount() == "/socket",
        }
    }
}

/// Asks about a page, by what the host has parsed of its origin.
fn ask(parsed: &str) -> Done {
    let info = format!(r#"{{"mount":"/socket",{parsed}}}"#);
    let mut plugin = Loaded::new::<NoChannel, Gate, NoSettings>("").expect("takes no settings");
    plugin.one(Event {
        kind: event::ORIGIN,
        info: &info,
        ..Event::default()
    })
}

#[track_caller]
fn check(parsed: &str, kind: u32, number: u64) {
    let done = ask(parsed);
    assert_eq!(done.seen(), [(kind, 0, "", "")]);
    assert_eq!(done.effects[0].number, number);
}

#[test]
fn a_page_is_let_in_or_refused_by_its_origin() {
    let known = r#""origin":"https://a.example","scheme":"https","host":"a.example","port":443"#;
    check(known, effect::CONNECT_ACCEPT, 0);
    check(r#""origin":"file://","scheme":"file""#, effect::CONNECT_ACCEPT, 0);
    check(r#""origin":"null""#, effect::CONNECT_REFUSE, 403);
    let crashed = ask(r#""origin":"https://crash.example","host":"crash.example""#);
    assert_eq!(crashed.outcome, outcome::PANICKED);
}
