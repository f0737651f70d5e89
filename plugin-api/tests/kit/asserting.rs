//! Each assertion, where it holds and where it fails.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use bennu_plugin::Binary;
use bennu_plugin::json;
use bennu_plugin::test::{any, like, that};

use crate::plugin::two;

thread_local! {
    /// In which file this thread has panicked last.
    static FILE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a failing assertion says. It must fail here, where the test is, and not in the kit.
#[track_caller]
fn failure(assertion: impl FnOnce()) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            FILE.set(
                info.location()
                    .map_or_else(String::new, |place| place.file().to_owned()),
            );
            before(info);
        }));
    });
    let said = said(assertion);
    assert_eq!(FILE.take(), file!(), "{said}");
    said
}

#[track_caller]
fn said(assertion: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion holds");
    payload.downcast_ref::<String>().cloned().expect("it says something")
}

#[track_caller]
fn says(assertion: impl FnOnce(), expected: &[&str]) {
    let said = failure(assertion);
    for expected in expected {
        assert!(said.contains(expected), "`{expected}` is not in:\n{said}");
    }
}

#[test]
fn a_reply_is_compared_whole_or_in_part() {
    let (_, ann, _) = two();
    let pushed = ann.push("echo", json!({ "a": 1, "b": 2 }));
    pushed.assert_reply("ok", json!({ "a": 1, "b": 2 }));
    pushed.assert_reply("ok", like(json!({ "a": 1 })));
    pushed.assert_reply("ok", that(|payload| payload["b"].as_u64() > Some(1)));
    assert_eq!(pushed.assert_reply("ok", any())["b"], 2);
    let said = r#"`echo` was answered `ok` {"a":1,"b":2}"#;
    says(
        || drop(pushed.assert_reply("ok", json!({ "a": 1 }))),
        &[said, r#"not `ok` {"a":1}"#],
    );
    says(|| drop(pushed.assert_reply("error", any())), &[said]);
    says(|| pushed.refute_reply(), &[said]);
    ann.push("echo", Binary(&[0, 255]))
        .assert_reply("ok", Binary(&[0, 255]));
}

#[test]
fn a_missing_reply_is_not_waited_for_where_none_is_promised() {
    let (server, ann, _) = two();
    let pushed = ann.push("push", json!({}));
    pushed.refute_reply();
    server.patience(std::time::Duration::from_secs(60));
    says(|| drop(pushed.assert_reply("ok", any())), &["`push` was not answered"]);
}

#[test]
fn a_promised_reply_is_waited_for_as_long_as_the_test_says() {
    let (server, ann, _) = two();
    server.patience(std::time::Duration::from_millis(10));
    let pushed = ann.push("never answered", json!({}));
    says(|| drop(pushed.assert_reply("ok", any())), &["was not answered"]);
}

#[test]
fn what_a_client_was_sent_instead_is_listed() {
    let (server, ann, _) = two();
    server.patience(std::time::Duration::ZERO);
    ann.push("push", json!({ "n": 1 }));
    says(
        || drop(ann.assert_push("pushed", json!({ "n": 2 }))),
        &[
            "client 1 on `room:1` was not sent `pushed` {\"n\":2}",
            "push      `presence_state` {\"ann\":{\"metas\":[{\"mood\":\"new\",\"phx_ref\":\"1\"}]}}",
            "broadcast `presence_diff`",
            "push      `pushed` {\"n\":1}",
        ],
    );
    ann.assert_push("pushed", json!({ "n": 1 }));
    let taken = failure(|| drop(ann.assert_push("pushed", json!({ "n": 1 }))));
    assert!(
        !taken.contains("push      `pushed`"),
        "an assertion takes what it has found:\n{taken}"
    );
}

#[test]
fn a_push_that_came_is_not_refuted() {
    let (_, ann, bob) = two();
    ann.push("push", json!({ "n": 1 }));
    bob.refute_push("pushed", any());
    ann.refute_push("pushed", json!({ "n": 2 }));
    says(
        || ann.refute_push("pushed", any()),
        &["client 1 on `room:1` was sent", "`pushed` {\"n\":1}"],
    );
}

#[test]
fn a_broadcast_is_seen_on_the_topic_whomever_it_reaches() {
    let (server, ann, bob) = two();
    server.patience(std::time::Duration::ZERO);
    ann.push("secret", json!({ "n": 1 }));
    ann.assert_broadcast("secret", json!({ "n": 1 }));
    ann.refute_broadcast("secret", any());
    bob.assert_push("secret", any());
    ann.refute_push("secret", any());
    says(
        || drop(bob.assert_broadcast("secret", any())),
        &["was not broadcast to `room:1`", "presence_diff"],
    );
    ann.push("count", json!({}));
    says(
        || bob.refute_broadcast("counted", any()),
        &["`room:1` was sent broadcast `counted` {\"count\":1}"],
    );
}

#[test]
fn who_is_present_is_asserted_by_key_and_meta() {
    let (server, ann, bob) = two();
    server.patience(std::time::Duration::ZERO);
    bob.assert_presence("ann", json!({ "mood": "new" }));
    ann.push("mood", json!({ "mood": "fine" }));
    bob.assert_presence("ann", json!({ "mood": "fine" }));
    says(
        || bob.assert_presence("ann", json!({ "mood": "new" })),
        &[
            "nobody is present as `ann` {\"mood\":\"new\"}",
            "who is: {\"ann\":",
            "\"phx_ref_prev\":\"1\"",
        ],
    );
    says(|| bob.refute_presence("ann"), &["somebody is present as `ann`"]);
    ann.push("hide", json!({}));
    bob.refute_presence("ann");
    assert_eq!(bob.presences().keys().collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn a_join_that_is_refused_says_with_what() {
    let (server, ..) = two();
    let refusal = server
        .try_join("room:1", json!({ "name": "much too long" }))
        .unwrap_err();
    assert_eq!(
        (&refusal["field"], &refusal["message"]),
        (&json!("name"), &json!("must have 1 to 8 characters"))
    );
    says(
        || drop(server.join("room:1", json!({}))),
        &["was refused with", "missing field `name`"],
    );
    says(
        || drop(server.join("room:1", json!({ "name": "crash" }))),
        &[
            "{\"reason\":\"join crashed\"}",
            "the plugin has logged:",
            "join panicked: no such name (plugin-api/tests/kit/plugin.rs:",
        ],
    );
}

#[test]
fn an_effect_that_the_host_would_refuse_is_in_the_log() {
    let (server, ann, _) = two();
    ann.push("wrong", json!({}));
    ann.refute_push("wrong", any());
    let log = server.log();
    assert!(
        log.iter()
            .any(|line| line.starts_with("warn") && line.contains("wrong")),
        "{log:?}"
    );
}
