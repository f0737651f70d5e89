//! The callbacks of a channel, what they ask for, and what happens when they panic.

use bennu_plugin::abi::{effect, event, outcome, reason};
use bennu_plugin::export::NoConnect;
use bennu_plugin::prelude::*;

use crate::fake::{Event, Loaded, event, join, push};

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

    const INTERCEPTS: &'static [&'static str] = &["secret"];

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
            "forgetful" => return Join::later(),
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
            "busy" => return Ok(Reply::status("busy", json!(1))),
            "refused" => return Err(Refusal::reason("no")),
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
            "who" => return Ok(Reply::ok_with(cx.presences().keys().collect::<Vec<_>>())),
            "who is" => return Ok(Reply::ok_with(cx.presence(payload.parse()?))),
            "describe" => {
                cx.describe("ann", json!({ "age": 7 }));
            }
            "me" => {
                let user: serde_json::Value = cx.socket_assigns()?;
                let route: serde_json::Value = cx.route()?;
                return Ok(Reply::ok_with(json!([cx.topic(), cx.socket_id(), user, route])));
            }
            "elsewhere" => {
                cx.broadcast_to("room:2", "hello", json!({}));
                cx.disconnect("user:1");
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

type Plugin = Loaded<Member, NoConnect, NoSettings>;

fn plugin() -> Plugin {
    Plugin::new("{}").expect("takes no settings")
}

/// A plugin with members `ann` (7) and `bob` (8).
fn plugin_with_two() -> Plugin {
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
fn an_event_replies_with_any_status() {
    check("echo", "[1]", &[(effect::REPLY, 7, "ok", "[1]")]);
    check("busy", "", &[(effect::REPLY, 7, "busy", "1")]);
    check("refused", "", &[(effect::REPLY, 7, "error", r#"{"reason":"no"}"#)]);
    check(
        "what",
        "",
        &[(effect::REPLY, 7, "error", r#"{"reason":"unhandled event"}"#)],
    );
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
fn other_topics_and_sockets_can_be_reached() {
    let done = plugin_with_two().one(push(7, "elsewhere", "{}"));
    let topics: Vec<_> = done
        .effects
        .iter()
        .map(|effect| (effect.topic.as_str(), effect.name.as_str()))
        .collect();
    assert_eq!(topics, [("room:2", "hello"), ("user:1", "disconnect")]);
}

#[test]
fn a_payload_that_is_passed_on_is_not_copied() {
    for (name, binary) in [("echo", false), ("shout", true)] {
        let mut plugin = plugin_with_two();
        let pushed = Event {
            binary,
            ..push(7, name, "[1,2,3]")
        };
        let at = pushed.payload.as_ptr().addr();
        let done = plugin.handle(std::slice::from_ref(&pushed)).remove(0);
        assert_eq!((done.effects[0].at, done.effects[0].binary), (at, binary));
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
        (topic.kind, topic.member, topic.number, topic.binary),
        (effect::SEND, 0, 0, true)
    );
    assert_eq!((cancel.kind, cancel.number), (effect::CANCEL, 101));
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
    assert_eq!(done.effects[1].token, 101);
}

#[test]
fn a_join_may_be_answered_later_from_another_thread() {
    let mut plugin = plugin();
    assert_eq!(
        plugin.one(join(7, r#"{"name":"later"}"#)).seen(),
        [(effect::LATER, 7, "", "")]
    );
    assert_eq!(plugin.one(push(7, "echo", "1")).seen(), [], "not yet a member");
    plugin.outside.wait_for(r#"complete 1.101 ok {"name":"late"}"#);
    let answer = event(event::ANSWER, "", r#"{"name":"late"}"#);
    assert_eq!(plugin.one(answer).seen(), [(effect::ACCEPT, 7, "", "{}")]);
    assert_eq!(plugin.one(push(7, "echo", "1")).seen(), [(effect::REPLY, 7, "ok", "1")]);
}

#[test]
fn a_join_without_the_promise_that_it_announces_panics() {
    let done = plugin().one(join(7, r#"{"name":"forgetful"}"#));
    assert_eq!(done.outcome, outcome::PANICKED);
    assert!(done.message.contains("cx.later()"), "{}", done.message);
}

#[test]
fn what_the_host_knows_of_the_client_can_be_read() {
    let mut plugin = plugin();
    let info = r#"{"socket_id":"user:1","socket":{"user":1},"route":{"slow":true}}"#;
    let joined = Event {
        info: info.to_owned(),
        ..join(7, r#"{"name":"ann"}"#)
    };
    plugin.one(joined);
    let expected = r#"["room:1","user:1",{"user":1},{"slow":true}]"#;
    assert_eq!(
        plugin.one(push(7, "me", "")).seen(),
        [(effect::REPLY, 7, "ok", expected)]
    );
}

#[test]
fn presences_are_read_from_the_host() {
    let mut plugin = plugin_with_two();
    plugin.presence = r#"{"ann":{"metas":[{"phx_ref":"1"}]}}"#.to_owned();
    assert_eq!(
        plugin.one(push(7, "who", "")).seen(),
        [(effect::REPLY, 7, "ok", r#"["ann"]"#)]
    );
    plugin.presence = r#"{"ann":{"metas":[{"phx_ref":"1"}],"age":7}}"#.to_owned();
    assert_eq!(
        plugin.one(push(7, "who is", r#""ann""#)).seen(),
        [(effect::REPLY, 7, "ok", r#"{"metas":[{"phx_ref":"1"}],"age":7}"#)]
    );
    assert_eq!(
        plugin.one(push(7, "who is", r#""bob""#)).seen(),
        [(effect::REPLY, 7, "ok", "null")]
    );
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
    assert_eq!(
        plugin.one(terminate.clone()).seen(),
        [(effect::BROADCAST, 7, "gone", gone)]
    );
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
