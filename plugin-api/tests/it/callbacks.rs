//! The effects of each callback of a channel, and what happens when one panics.

use bennu_plugin::abi::{effect, event, outcome, reason};
use bennu_plugin::export::NoConnect;
use bennu_plugin::prelude::*;
use bennu_plugin::test::boundary::Said;

use crate::recorder::{Event, FIRST_SERIAL, Loaded, event, join, push};

#[derive(Default, Serialize, Deserialize)]
struct Shared {
    names: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Member {
    name: String,
}

#[derive(Deserialize)]
struct Params {
    name: String,
}

impl Channel for Member {
    type Shared = Shared;

    fn join(shared: &mut Shared, params: Payload<'_>, cx: &mut Context) -> Join<Self> {
        let Params { name } = params.parse()?;
        match name.as_str() {
            "later" => {
                let later = cx.later();
                cx.spawn(move |remote| {
                    remote.complete(later, "ok", json!({ "name": "late" }));
                });
                return Join::later();
            }
            "crash" => panic!("no such {name}"),
            _ => {}
        }
        cx.track(&name, json!({}));
        shared.names.push(name.clone());
        Join::reply(Self { name }, json!({ "names": shared.names }))
    }

    fn join_answer(_: &mut Shared, answer: Payload<'_>, _: &mut Context) -> Join<Self> {
        let Params { name } = answer.parse()?;
        Join::accept(Self { name })
    }

    fn handle_in(&mut self, shared: &mut Shared, event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => return Ok(Reply::ok_with(payload)),
            "shout" => cx.broadcast("shout", payload),
            "rename" => {
                let Params { name } = payload.parse()?;
                self.name = name;
                cx.broadcast_from("renamed", &self.name);
                return Ok(Reply::ok());
            }
            "crash" => {
                cx.push("never", json!({}));
                cx.stop(Stop::Normal);
                shared.names.push("half done".to_owned());
                return Err(Refusal::reason(&shared.names[99]));
            }
            "stop" => {
                cx.stop(Stop::Other("tired".to_owned()));
                return Ok(Reply::ok_with(json!("bye")));
            }
            "later" => {
                let later = cx.later();
                cx.complete(later, "ok", payload);
            }
            "timer" => {
                let timer = cx.send_after(Duration::from_millis(1_500), "tick", json!(null));
                cx.topic_send_after(Duration::ZERO, "tock", Binary(&[1, 2]));
                cx.cancel(timer);
            }
            "describe" => {
                cx.describe("ann", json!({ "age": 7 }));
            }
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::none())
    }

    fn handle_out(&mut self, _: &mut Shared, event: &str, payload: Payload<'_>, cx: &mut Context) {
        match self.name.as_str() {
            "deaf" => {}
            "fragile" => panic!("too loud"),
            _ => cx.push(event, payload),
        }
    }

    fn handle_info(&mut self, _: &mut Shared, name: &str, payload: Payload<'_>, cx: &mut Context) {
        cx.push(name, payload);
    }

    fn handle_topic_info(_: &mut Shared, name: &str, payload: Payload<'_>, cx: &mut Context) {
        assert_eq!(cx.member(), None);
        cx.broadcast(name, payload);
    }

    fn terminate(&mut self, _: &mut Shared, reason: Reason<'_>, cx: &mut Context) {
        cx.broadcast_from("gone", format!("{reason:?}"));
    }
}

fn plugin() -> Loaded {
    Loaded::new::<Member, NoConnect, NoSettings>("{}").expect("takes no settings")
}

/// A plugin with members `ann` (7) and `bob` (8).
fn plugin_with_two() -> Loaded {
    let mut plugin = plugin();
    plugin.handle(&[join(7, r#"{"name":"ann"}"#), join(8, r#"{"name":"bob"}"#)]);
    plugin
}

#[test]
fn a_join_tracks_and_then_answers() {
    let done = plugin().one(join(7, r#"{"name":"ann"}"#));
    assert_eq!(
        done.seen(),
        [
            (effect::TRACK, 7, "ann", "{}"),
            (effect::ACCEPT, 7, "", r#"{"names":["ann"]}"#)
        ]
    );
}

#[test]
fn a_join_with_wrong_params_is_refused_by_field() {
    let mut plugin = plugin();
    let refusal = r#"{"reason":"invalid payload","field":"name","message":"missing field `name`"}"#;
    assert_eq!(plugin.one(join(7, "{}")).seen(), [(effect::REFUSE, 7, "", refusal)]);
    assert_eq!(plugin.one(push(7, "echo", "{}")).seen(), [], "nobody is there");
}

/// Has ann push `name`, and checks what comes of it.
#[track_caller]
fn check(name: &str, payload: &str, expected: &[(u32, u64, &str, &str)]) {
    assert_eq!(plugin_with_two().one(push(7, name, payload)).seen(), expected);
}

#[test]
fn an_event_broadcasts_before_it_replies() {
    check(
        "rename",
        r#"{"name":"eve"}"#,
        &[
            (effect::BROADCAST, 7, "renamed", r#""eve""#),
            (effect::REPLY, 7, "ok", "{}"),
        ],
    );
    check("shout", "{}", &[(effect::BROADCAST, 0, "shout", "{}")]);
}

#[test]
fn a_stop_comes_after_the_reply() {
    check(
        "stop",
        "",
        &[(effect::REPLY, 7, "ok", r#""bye""#), (effect::STOP, 7, "tired", "")],
    );
}

#[test]
fn a_payload_that_is_passed_on_is_not_copied() {
    for (name, binary) in [("echo", false), ("shout", true)] {
        let pushed = Event {
            binary,
            ..push(7, name, "[1,2,3]")
        };
        let done = plugin_with_two().one(pushed);
        let effect = &done.effects[0];
        assert_eq!(
            (effect.at, effect.body.binary),
            (pushed.payload.as_ptr().addr(), binary)
        );
    }
}

#[test]
fn timers_are_data() {
    let done = plugin_with_two().one(push(7, "timer", ""));
    let (member, topic, cancel) = (&done.effects[0], &done.effects[1], &done.effects[2]);
    assert_eq!(
        (member.kind, member.member, member.number, member.name.as_str()),
        (effect::SEND, 7, 1_500, "tick")
    );
    assert_eq!(
        (topic.kind, topic.member, topic.number, topic.body.binary),
        (effect::SEND, 0, 0, true)
    );
    assert_eq!((cancel.kind, cancel.number), (effect::CANCEL, FIRST_SERIAL));
}

#[test]
fn messages_reach_a_member_or_the_topic() {
    let mut plugin = plugin_with_two();
    assert_eq!(
        plugin.one(event(event::INFO, "tick", "1")).seen(),
        [(effect::PUSH, 7, "tick", "1")]
    );
    let to_topic = Event {
        member: 0,
        ..event(event::INFO, "tock", "2")
    };
    assert_eq!(plugin.one(to_topic).seen(), [(effect::BROADCAST, 0, "tock", "2")]);
}

#[test]
fn an_answer_may_come_later() {
    let mut plugin = plugin_with_two();
    let done = plugin.one(push(7, "later", "[1]"));
    assert_eq!(
        done.seen(),
        [(effect::LATER, 7, "", ""), (effect::REPLY, 0, "ok", "[1]")]
    );
    assert_eq!(done.effects[1].token, FIRST_SERIAL);
}

#[test]
fn a_join_may_be_answered_later_from_another_thread() {
    let mut plugin = plugin();
    assert_eq!(
        plugin.one(join(7, r#"{"name":"later"}"#)).seen(),
        [(effect::LATER, 7, "", "")]
    );
    assert_eq!(plugin.one(push(7, "echo", "1")).seen(), [], "not yet a member");
    let Said::Complete {
        topic: 1,
        serial: FIRST_SERIAL,
        status,
        body,
    } = plugin.said()
    else {
        panic!("no answer");
    };
    assert_eq!((status.as_str(), &*body.bytes), ("ok", &br#"{"name":"late"}"#[..]));
    let answer = event(event::ANSWER, "", r#"{"name":"late"}"#);
    assert_eq!(plugin.one(answer).seen(), [(effect::ACCEPT, 7, "", "{}")]);
    assert_eq!(plugin.one(push(7, "echo", "1")).seen(), [(effect::REPLY, 7, "ok", "1")]);
}

#[test]
fn what_describes_a_presence_is_told_to_the_host() {
    let mut plugin = plugin_with_two();
    assert_eq!(
        plugin.one(push(7, "describe", "null")).seen()[0],
        (effect::DESCRIBE, 0, "ann", r#"{"age":7}"#)
    );
}

#[test]
fn an_intercepted_event_passes_each_member_but_the_sender() {
    let mut plugin = plugin_with_two();
    plugin.handle(&[join(9, r#"{"name":"deaf"}"#), join(10, r#"{"name":"eve"}"#)]);
    let done = plugin.one(event(event::OUT, "secret", "1"));
    assert_eq!(
        done.seen(),
        [(effect::PUSH, 8, "secret", "1"), (effect::PUSH, 10, "secret", "1")]
    );
}

#[test]
fn a_panic_while_an_event_goes_out_ends_that_member_only() {
    let mut plugin = plugin_with_two();
    plugin.handle(&[join(9, r#"{"name":"fragile"}"#), join(10, r#"{"name":"eve"}"#)]);
    let done = plugin.one(event(event::OUT, "secret", "1"));
    assert_eq!(done.outcome, outcome::OK);
    let seen: Vec<_> = done
        .effects
        .iter()
        .map(|effect| (effect.kind, effect.member, effect.number))
        .collect();
    let stop = (effect::STOP, 9, reason::PANICKED.into());
    assert_eq!(seen, [(effect::PUSH, 8, 0), stop, (effect::PUSH, 10, 0)]);
    assert!(
        done.effects[1].name.starts_with("too loud ("),
        "{}",
        done.effects[1].name
    );
}

#[test]
fn a_panic_is_told_with_its_place_and_the_batch_goes_on() {
    let mut plugin = plugin_with_two();
    let done = plugin.handle(&[
        push(7, "crash", ""),
        push(8, "echo", "1"),
        join(9, r#"{"name":"crash"}"#),
    ]);
    assert_eq!([done[0].outcome, done[1].outcome, done[2].outcome], [1, 0, 1]);
    assert!(
        done[0]
            .message
            .contains("index is 99 (plugin-api/tests/it/callbacks.rs:"),
        "{}",
        done[0].message
    );
    assert!(done[2].message.starts_with("no such crash ("), "{}", done[2].message);
    assert_eq!(
        done[1].seen(),
        [(effect::REPLY, 8, "ok", "1")],
        "the stop before the panic is forgotten"
    );
}

#[test]
fn a_member_that_panicked_stays_until_it_is_told_to_terminate() {
    let mut plugin = plugin_with_two();
    plugin.one(push(7, "crash", ""));
    let number = reason::PANICKED.into();
    let terminate = Event {
        number,
        ..event(event::TERMINATE, "boom", "")
    };
    let gone = r#""Panicked(\"boom\")""#;
    assert_eq!(plugin.one(terminate).seen(), [(effect::BROADCAST, 7, "gone", gone)]);
    assert_eq!(plugin.one(terminate).seen(), [], "it is gone");
}

#[test]
fn the_host_may_take_the_rest_of_a_batch_back() {
    let mut plugin = plugin_with_two();
    plugin.back_after = Some(1);
    let events = [push(7, "echo", "1"), push(7, "echo", "2"), push(7, "echo", "3")];
    assert_eq!(plugin.handle(&events).len(), 2);
}

#[test]
fn an_unknown_kind_of_event_is_said_to_be_unknown() {
    assert_eq!(plugin().one(event(99, "", "")).outcome, outcome::UNKNOWN);
}
