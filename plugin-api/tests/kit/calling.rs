//! Calls of backends, and messages from topic to topic.

use std::time::Duration;

use bennu_plugin::test::{Server, any};
use bennu_plugin::{Binary, json};

use crate::plugin::{Member, two};

#[test]
fn a_backend_is_answered_at_once_or_later() {
    let (server, ann, _) = two();
    let answer = json!({ "count": 1, "topic": "room:1" });
    server.call("room:1", "add", json!({})).assert_reply("ok", answer);
    ann.assert_push("counted", json!({ "count": 1 }));
    server
        .call("room:1", "later", Binary(&[1]))
        .assert_reply("ok", json!({ "late": true }));
    let unhandled = json!({ "reason": "unhandled event" });
    server
        .call("room:1", "what", json!({}))
        .assert_reply("error", unhandled);
}

#[test]
fn a_call_that_panics_ends_nobody_and_its_effects_are_dropped() {
    let (server, ann, bob) = two();
    server
        .call("room:1", "crash", json!({}))
        .assert_reply("error", json!({ "reason": "crashed" }));
    assert!(ann.is_joined() && bob.is_joined());
    ann.refute_push("never", any());
}

#[test]
fn a_call_makes_a_topic_that_lasts_as_long_as_it_lingers() {
    let server = Server::start::<Member>();
    let add = |count: u32| {
        let answer = json!({ "count": count, "topic": "room:7" });
        server.call("room:7", "add", json!({})).assert_reply("ok", answer);
    };
    add(1);
    server.advance(Duration::from_secs(9));
    add(2);
    server.advance(Duration::from_secs(9));
    add(3);
    server.advance(Duration::from_secs(10));
    add(1);
}

#[test]
fn a_message_to_another_topic_arrives_there_and_nowhere_else() {
    let (server, ann, _) = two();
    server
        .call("room:2", "tell", json!("room:1"))
        .assert_reply("ok", json!({}));
    ann.assert_push("told", json!({ "by": "room:2" }));
    ann.refute_push("told", any());
    // Nobody has made that topic.
    server
        .call("room:2", "tell", json!("room:3"))
        .assert_reply("ok", json!({}));
}
