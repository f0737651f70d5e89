//! What happens to a plugin: joins, ends, timers, threads, panics.

use std::time::Duration;

use bennu_plugin::test::{Server, any, like};
use bennu_plugin::{Binary, Value, json};

use crate::plugin::{Member, Room, two};

#[test]
fn settings_are_read_and_checked() {
    let server = Server::start_with::<Member>(json!({ "greeting": "hi" }));
    assert_eq!(
        server.join("room:1", json!({ "name": "ann" })).join_reply(),
        json!({ "greeting": "hi" })
    );
    let refused = Server::try_run(bennu_plugin::test::Code::of::<Member>(), json!({ "greting": "hi" }));
    assert!(refused.unwrap_err().contains("greting"));
}

#[test]
fn a_newcomer_gets_the_list_and_everyone_a_diff() {
    let (_, ann, bob) = two();
    let list = bob.assert_push("presence_state", any());
    assert_eq!(list["bob"]["metas"], json!([{ "mood": "new", "phx_ref": "2" }]));
    ann.assert_push("presence_diff", like(json!({ "joins": { "ann": {} }, "leaves": {} })));
    ann.assert_push("presence_diff", like(json!({ "joins": { "bob": {} }, "leaves": {} })));
    ann.refute_push("presence_diff", any());
}

#[test]
fn who_leaves_is_told_and_gone() {
    let (_, ann, bob) = two();
    ann.leave().assert_reply("ok", json!({}));
    ann.assert_close();
    assert!(!ann.is_joined() && bob.is_joined());
    bob.assert_push("gone", json!({ "name": "ann", "why": "Left" }));
    bob.assert_push("presence_diff", like(json!({ "leaves": { "ann": {} } })));
    bob.refute_presence("ann");
    ann.push("echo", json!({}))
        .assert_reply("error", json!({ "reason": "unmatched topic" }));
}

#[test]
fn a_connection_that_closes_takes_all_its_channels_along() {
    let (server, _, bob) = two();
    let client = server.client();
    let (here, there) = (
        client.join("room:1", json!({ "name": "eve" })),
        client.join("room:2", json!({ "name": "eve" })),
    );
    client.close();
    assert!(client.is_closed() && !here.is_joined() && !there.is_joined());
    bob.assert_push("gone", json!({ "name": "eve", "why": "Closed" }));
    here.refute_push("phx_close", any());
}

#[test]
fn joining_again_ends_the_channel_before() {
    let (server, _, bob) = two();
    let client = server.client();
    let (first, second) = (
        client.join("room:1", json!({ "name": "eve" })),
        client.join("room:1", json!({ "name": "eva" })),
    );
    assert!(!first.is_joined() && second.is_joined());
    bob.assert_push("gone", json!({ "name": "eve", "why": "DuplicateJoin" }));
}

#[test]
fn a_stop_is_a_close_or_an_error() {
    let (_, ann, bob) = two();
    ann.push("stop", json!({}));
    ann.assert_close();
    bob.assert_push("gone", json!({ "name": "ann", "why": "Normal" }));
    bob.push("fail", json!({}));
    bob.assert_error();
    bob.assert_broadcast("gone", json!({ "name": "bob", "why": "Other(\"tired\")" }));
}

#[test]
fn a_panic_ends_its_member_and_nothing_of_the_event_goes_out() {
    let (server, ann, bob) = two();
    ann.push("crash", json!({})).refute_reply();
    ann.assert_error();
    let gone = bob.assert_push("gone", like(json!({ "name": "ann" })));
    assert!(
        gone["why"].as_str().is_some_and(|why| why.contains("on request")),
        "{gone}"
    );
    bob.refute_broadcast("never", any());
    bob.push("count", json!({})).assert_reply("ok", json!({ "count": 2 }));
    let log = server.log();
    assert!(
        log[0].starts_with("handle_in panicked: on request (plugin-api/tests/kit/plugin.rs:"),
        "{log:?}"
    );
}

#[test]
fn a_panic_can_be_injected_into_any_callback() {
    let (server, ann, bob) = two();
    server.inject_panic();
    ann.push("count", json!({})).refute_reply();
    ann.assert_error();
    bob.refute_push("counted", any());
    bob.push("count", json!({})).assert_reply("ok", json!({ "count": 2 }));
    server.inject_panic();
    let refused = server.try_join("room:1", json!({ "name": "eve" })).unwrap_err();
    assert_eq!(refused, json!({ "reason": "join crashed" }));
    bob.refute_presence("eve");
}

#[test]
fn timers_fire_when_the_clock_is_turned_each_at_its_time() {
    let (server, ann, _) = two();
    ann.push("remind", json!({ "of": "tea" }));
    server.advance(Duration::from_millis(1_999));
    ann.refute_push("first", any());
    server.advance(Duration::from_millis(1));
    ann.assert_push("first", any());
    ann.refute_push("reminded", any());
    server.advance(Duration::from_secs(60));
    ann.assert_push("reminded", json!({ "of": "tea" }));
    ann.refute_push("never", any());
    ann.push("now", json!({ "of": "tea" }));
    ann.assert_push("reminded", any());
}

#[test]
fn a_topic_ends_some_time_after_its_last_member() {
    let (server, ann, bob) = two();
    ann.push("count", json!({}));
    ann.leave();
    bob.leave();
    server.advance(Duration::from_secs(9));
    let eve = server.join("room:1", json!({ "name": "eve" }));
    server.advance(Duration::from_secs(60));
    eve.push("count", json!({})).assert_reply("ok", json!({ "count": 2 }));
    eve.leave();
    server.advance(Duration::from_secs(10));
    let eva = server.join("room:1", json!({ "name": "eva" }));
    eva.push("count", json!({})).assert_reply("ok", json!({ "count": 1 }));
}

#[test]
fn messages_reach_a_member_or_the_topic() {
    let (server, ann, bob) = two();
    ann.send("note", json!({ "n": 1 }));
    ann.assert_push("note", json!({ "n": 1 }));
    bob.refute_push("note", any());
    server.send("room:1", "note", json!({ "n": 2 }));
    bob.assert_push("note", json!({ "n": 2 }));
}

#[test]
fn what_a_thread_does_is_waited_for() {
    let (_, ann, _) = two();
    ann.push("elsewhere", json!({ "n": 1 }))
        .assert_reply("ok", json!({ "n": 1 }));
    ann.assert_push("reminded", json!({ "from": "a thread" }));
}

#[test]
fn a_join_may_be_answered_later() {
    let (server, ..) = two();
    let slow = server.join("room:1", json!({ "name": "slow" }));
    slow.push("echo", json!({})).assert_reply("ok", json!({}));
    let timed = server.start_join("room:1", json!({ "name": "timed" }));
    assert!(timed.is_pending());
    server.advance(Duration::from_secs(3));
    assert!(timed.assert_accepted().is_joined());
}

#[test]
fn an_intercepted_broadcast_passes_each_member() {
    let (server, ann, bob) = two();
    let deaf = server.join("room:1", json!({ "name": "deaf" }));
    server.broadcast("room:1", "secret", json!({ "n": 1 }));
    ann.assert_push("secret", json!({ "n": 1 }));
    bob.assert_push("secret", json!({ "n": 1 }));
    deaf.refute_push("secret", any());
    assert_eq!(deaf.state::<Value>()["heard"], 1);
}

#[test]
fn a_broadcast_that_is_intercepted_leaves_out_its_sender() {
    let (_, ann, bob) = two();
    ann.push("secret", json!({ "n": 1 }));
    bob.assert_push("secret", json!({ "n": 1 }));
    ann.refute_push("secret", any());
}

#[test]
fn a_panic_while_an_event_goes_out_ends_that_member_only() {
    let (server, ann, bob) = two();
    let fragile = server.join("room:1", json!({ "name": "fragile" }));
    server.broadcast("room:1", "secret", json!({}));
    fragile.assert_error();
    ann.assert_push("secret", any());
    bob.assert_push("secret", any());
    let gone = bob.assert_push("gone", like(json!({ "name": "fragile" })));
    assert!(
        gone["why"].as_str().is_some_and(|why| why.contains("too loud (")),
        "{gone}"
    );
}

#[test]
fn an_event_is_answered_with_any_status_or_not_at_all() {
    let (_, ann, _) = two();
    ann.push("busy", json!({})).assert_reply("busy", json!(1));
    ann.push("refuse", json!({}))
        .assert_reply("error", json!({ "reason": "no" }));
    ann.push("what", json!({}))
        .assert_reply("error", json!({ "reason": "unhandled event" }));
    ann.push("push", json!({})).refute_reply();
    ann.push("promise", json!([1])).assert_reply("ok", json!([1]));
}

#[test]
fn a_join_that_is_answered_later_without_a_promise_is_refused() {
    let (server, ..) = two();
    let refused = server.try_join("room:1", json!({ "name": "careless" })).unwrap_err();
    assert_eq!(refused, json!({ "reason": "join crashed" }));
    let log = server.log();
    assert!(
        log[0].starts_with("join panicked: `join` returned `later()` without a promise: call `cx.later()` first"),
        "{log:?}"
    );
}

#[test]
fn other_topics_can_be_reached() {
    let (server, ann, bob) = two();
    let eve = server.join("room:2", json!({ "name": "eve" }));
    ann.push("far", json!({ "n": 1 }));
    eve.assert_push("hello", json!({ "n": 1 }));
    bob.refute_push("hello", any());
}

#[test]
fn a_message_to_the_topic_may_be_binary() {
    let (_, ann, bob) = two();
    ann.push("to topic", Binary(&[1, 2]));
    bob.assert_push("tock", Binary(&[1, 2]));
}

#[test]
fn presence_is_read_whole_or_by_key_with_what_describes_it() {
    let (_, ann, _) = two();
    let presence = json!({ "metas": [{ "mood": "new", "phx_ref": "1" }] });
    ann.push("who is", json!("ann")).assert_reply("ok", &presence);
    ann.push("who is", json!("eve")).assert_reply("ok", json!(null));
    ann.push("describe", json!({ "age": 7 }))
        .assert_reply("ok", json!(true));
    let described = json!({ "age": 7, "metas": presence["metas"] });
    ann.push("who is", json!("ann")).assert_reply("ok", &described);
    let all = ann.push("all", json!({})).assert_reply("ok", any());
    assert_eq!((&all["ann"], &all["bob"]["age"]), (&described, &json!(null)));
}

#[test]
fn a_disconnect_closes_the_connections_of_that_id() {
    let (server, ann, _) = two();
    let client = server.client().id("user:1").assigns(json!({ "admin": true }));
    server.route(json!({ "slow": true }));
    let member = client.join("room:1", json!({ "name": "eve" }));
    member
        .push("me", json!({}))
        .assert_reply("ok", json!(["user:1", { "admin": true }, { "slow": true }]));
    ann.push("disconnect", json!({}));
    assert!(client.is_closed() && !member.is_joined() && ann.is_joined());
    ann.assert_push("gone", json!({ "name": "eve", "why": "Disconnected" }));
}

#[test]
fn state_can_be_looked_at_as_it_is_written() {
    let (server, ann, _) = two();
    ann.push("count", json!({}));
    assert_eq!(server.shared::<Room>("room:1").count, 1);
    assert_eq!(&*ann.state::<Member>().name, "ann");
}
