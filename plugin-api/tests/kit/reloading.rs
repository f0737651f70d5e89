//! Reloads: state that comes over, state that changes its shape, and what does not come over.

use std::time::Duration;

use bennu_plugin::test::{Code, Server, any};
use bennu_plugin::{Value, json};

use crate::plugin::{self, two};

/// The first version of a counter.
mod v1 {
    use bennu_plugin::prelude::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(crate) struct Topic {
        pub(crate) count: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Member {}

    impl Channel for Member {
        type Shared = Topic;

        fn handle_in(&mut self, topic: &mut Topic, event: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
            if event == "tick" {
                cx.send_after(Duration::from_secs(1), "tock", json!({}));
            }
            topic.count += 1;
            Ok(Reply::ok_with(json!({ "count": topic.count })))
        }
    }

    bennu_plugin::test_plugin!(Member);
}

/// The second, which counts by name.
mod v2 {
    use std::collections::BTreeMap;

    use bennu_plugin::prelude::*;

    use super::v1;

    #[derive(Default, Serialize, Deserialize)]
    pub(crate) struct Topic {
        counts: BTreeMap<String, u32>,
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct Member {
        #[serde(default)]
        name: String,
    }

    impl Channel for Member {
        type Shared = Topic;

        const STATE_VERSION: u32 = 2;
        const READS_FROM: u32 = 1;

        fn handle_in(&mut self, topic: &mut Topic, _: &str, _: Payload<'_>, _: &mut Context) -> Handled {
            let count = topic.counts.entry(self.name.clone()).or_default();
            *count += 1;
            Ok(Reply::ok_with(json!({ "counts": topic.counts })))
        }

        fn handle_info(&mut self, _: &mut Topic, name: &str, _: Payload<'_>, cx: &mut Context) {
            cx.push(name, json!({ "by": "v2" }));
        }

        fn migrate_shared(from: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
            if from > 1 {
                return old.read();
            }
            let v1::Topic { count } = old.read()?;
            if count > 2 {
                return Err(MigrateError::new("too many"));
            }
            let counts = BTreeMap::from([("before".to_owned(), count)]);
            Ok(Topic { counts })
        }

        fn restored(_: &mut Topic, cx: &mut Context) {
            cx.broadcast("restored", json!({}));
        }
    }

    bennu_plugin::test_plugin!(Member);
}

#[test]
fn a_new_version_reads_what_the_old_one_wrote() {
    let server = Server::start::<v1::Member>();
    let ann = server.join("topic", json!({}));
    ann.push("tick", json!({})).assert_reply("ok", json!({ "count": 1 }));
    server.reload::<v2::Member>();
    ann.assert_push("restored", json!({}));
    ann.push("any", json!({}))
        .assert_reply("ok", json!({ "counts": { "": 1, "before": 1 } }));
    server.advance(Duration::from_secs(1));
    ann.assert_push("tock", json!({ "by": "v2" }));
    server.reload::<v2::Member>();
    assert_eq!(
        server.shared::<Value>("topic"),
        json!({ "counts": { "": 1, "before": 1 } })
    );
}

/// State that JSON could not carry.
mod odd {
    use bennu_plugin::prelude::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Member {
        odd: Vec<(f64, Option<u8>)>,
    }

    impl Channel for Member {
        type Shared = ();

        fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
            let odd = vec![(f64::INFINITY, None)];
            Join::accept(Self { odd })
        }

        fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
            let (number, nothing) = self.odd[0];
            Ok(Reply::ok_with(json!([number.is_infinite(), nothing, cx.socket_id()])))
        }
    }

    bennu_plugin::test_plugin!(Member);
}

#[test]
fn what_serde_writes_comes_back_as_it_was_and_so_does_the_socket_id() {
    let server = Server::start::<odd::Member>();
    let ann = server.client().id("user:1").join("topic", json!({}));
    server.reload::<odd::Member>();
    ann.push("any", json!({}))
        .assert_reply("ok", json!([true, null, "user:1"]));
}

#[test]
fn a_topic_that_cannot_be_read_stays_where_it_was() {
    let server = Server::start::<v1::Member>();
    let (here, there) = (server.join("here", json!({})), server.join("there", json!({})));
    for _ in 0..3 {
        here.push("any", json!({}));
    }
    let why = server.try_reload_to(Code::of::<v2::Member>()).unwrap_err();
    assert_eq!(why, "`here` stays with the old code: the topic's state: too many");
    here.push("any", json!({})).assert_reply("ok", json!({ "count": 4 }));
    there
        .push("any", json!({}))
        .assert_reply("ok", json!({ "counts": { "": 1, "before": 0 } }));
}

/// The first with a field more, in the topic's state or in the member's.
mod v1_and_more {
    use bennu_plugin::prelude::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Topic {
        count: u32,
        mood: String,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Member {}

    impl Channel for Member {
        type Shared = Topic;
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Moody {
        mood: String,
    }

    impl Channel for Moody {
        type Shared = super::v1::Topic;
    }

    bennu_plugin::test_plugin!(Member);
    bennu_plugin::test_plugin!(Moody);
}

#[test]
fn a_new_field_without_a_default_is_refused_with_what_to_do() {
    let why = |code| {
        let server = Server::start::<v1::Member>();
        let _ann = server.join("topic", json!({}));
        server.try_reload_to(code).expect_err("refused")
    };
    assert_eq!(
        why(Code::of::<v1_and_more::Member>()),
        "`topic` stays with the old code: the topic's state: missing field `mood`; give a new field `#[serde(default)]`, and a \
         field that had another name `#[serde(alias = \"…\")]`; for any other change set `STATE_VERSION` to 2, `READS_FROM` to 1 and write a `migrate_shared` that reads the old state"
    );
    let of_member = why(Code::of::<v1_and_more::Moody>());
    assert!(
        of_member.contains("a member's state: ")
            && of_member.contains("and write a `migrate` that reads the old state"),
        "{of_member}"
    );
}

#[test]
fn a_version_that_is_not_read_is_refused_at_once() {
    let server = Server::start::<v2::Member>();
    let ann = server.join("topic", json!({}));
    let why = server.try_reload_to(Code::of::<v1::Member>()).unwrap_err();
    assert!(why.contains("version 2, the code reads 1 to 1"), "{why}");
    ann.push("any", json!({}))
        .assert_reply("ok", json!({ "counts": { "": 1 } }));
}

#[test]
fn presence_timers_and_promises_in_state_come_over() {
    let (server, ann, bob) = two();
    ann.push("remind", json!({ "of": "tea" }));
    let owed = ann.push("owe", json!({}));
    server.reload::<plugin::Member>();
    bob.assert_presence("ann", any());
    bob.refute_push("phx_error", any());
    server.advance(Duration::from_secs(5));
    ann.assert_push("reminded", json!({ "of": "tea" }));
    owed.refute_reply();
    server.send("room:1", "pay", json!({ "all": true }));
    owed.assert_reply("ok", json!({ "all": true }));
}

#[test]
fn a_promise_that_nobody_has_read_is_answered_when_its_code_ends() {
    let (server, ann, _) = two();
    let owed = ann.push("never answered", json!({}));
    server.reload::<plugin::Member>();
    owed.assert_reply("error", json!({ "reason": "reloaded" }));
}

#[test]
fn state_of_an_old_version_can_be_made_up() {
    let server = Server::start::<v2::Member>();
    let members = server.restore("topic", 1, json!({ "count": 2 }), [json!({}), json!({})]);
    members[1].assert_push("restored", json!({}));
    members[0]
        .push("any", json!({}))
        .assert_reply("ok", json!({ "counts": { "": 1, "before": 2 } }));
    let ann = server.join("topic", json!({}));
    ann.push("any", json!({}))
        .assert_reply("ok", json!({ "counts": { "": 2, "before": 2 } }));
}

#[test]
#[should_panic(expected = "cannot restore `topic`: the topic's state: too many")]
fn state_that_cannot_be_read_is_not_restored() {
    Server::start::<v2::Member>().restore("topic", 1, json!({ "count": 3 }), [(); 0]);
}
