//! The last word of a topic, and its end for good.

use std::time::Duration;

use bennu_plugin::prelude::*;
use bennu_plugin::test::Server;

/// Counts, and says so at the end.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct Member {}

impl Channel for Member {
    type Shared = Counter;

    fn handle_in(&mut self, counter: &mut Counter, event: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "forget" => cx.forget(),
            _ => counter.count += 1,
        }
        Ok(Reply::ok_with(json!({ "count": counter.count })))
    }

    fn closing(counter: &mut Counter, cx: &mut Context) {
        cx.broadcast_to("closed", "closed", json!({ "count": counter.count }));
    }
}

bennu_plugin::test_plugin!(Member);

#[test]
fn a_topic_has_its_last_word_when_it_has_been_empty_for_a_while() {
    let server = Server::start::<Member>();
    let listener = server.join("closed", json!({}));
    let ann = server.join("counter:1", json!({}));
    ann.push("count", json!({})).assert_reply("ok", json!({ "count": 1 }));
    ann.leave();
    listener.refute_push("closed", bennu_plugin::test::any());
    server.advance(Duration::from_secs(10));
    listener.assert_push("closed", json!({ "count": 1 }));
}

#[test]
fn a_forgotten_topic_ends_with_its_members_and_begins_anew() {
    let server = Server::start::<Member>();
    let listener = server.join("closed", json!({}));
    let ann = server.join("counter:1", json!({}));
    ann.push("count", json!({})).assert_reply("ok", json!({ "count": 1 }));
    ann.push("forget", json!({})).assert_reply("ok", json!({ "count": 1 }));
    ann.assert_close();
    listener.assert_push("closed", json!({ "count": 1 }));
    let ann = server.join("counter:1", json!({}));
    ann.push("count", json!({})).assert_reply("ok", json!({ "count": 1 }));
}
