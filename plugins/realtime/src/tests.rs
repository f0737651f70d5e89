use bennu_plugin::expiry::now_s;
use bennu_plugin::prelude::*;
use bennu_plugin::test::{Membership, Server, any, like};

use super::Client;
use super::access::{Access, Settings};

fn server() -> Server {
    Server::start::<Client>()
}

fn claims(role: &str, in_s: i64) -> Value {
    json!({ "role": role, "sub": "ann", "exp": now_s().saturating_add_signed(in_s) })
}

/// A client of this role on this topic.
fn member(server: &Server, topic: &str, role: &str, config: Value) -> Membership {
    let params = json!({ "config": config });
    server.client().claims(claims(role, 100)).join(topic, params)
}

fn refused(server: &Server, topic: &str, claims: Value, config: Value) -> Value {
    let params = json!({ "config": config });
    { server.client().claims(claims) }
        .try_join(topic, params)
        .expect_err("refused")
}

fn said(n: u32) -> Value {
    json!({ "type": "broadcast", "event": "said", "payload": { "n": n } })
}

#[test]
fn a_join_is_answered_with_what_was_asked_for_then_presence_then_system() {
    let server = server();
    let params = json!({ "config": { "broadcast": null, "presence": null, "postgres_changes": null } });
    for params in [json!({}), json!({ "config": null }), params] {
        let ann = server.join("realtime:a", params);
        assert_eq!(ann.join_reply(), json!({ "postgres_changes": [] }));
        let sent = ann.client().sent();
        let events: Vec<String> = sent.iter().map(|sent| sent.event.clone()).collect();
        assert_eq!(events, ["phx_reply", "presence_state", "system"]);
        ann.assert_push("presence_state", json!({}));
        let system = json!({ "channel": "a", "extension": "system", "status": "ok", "message": "Subscribed" });
        ann.assert_push("system", system);
    }
}

#[test]
fn database_changes_come_back_in_order_with_numbers_and_a_word_that_there_are_none() {
    let changes = json!([
        { "event": "*", "schema": "public", "table": "a", "filter": "id=eq.1" },
        { "event": "INSERT", "schema": "public", "select": ["id"] },
    ]);
    let ann = server().join("realtime:a", json!({ "config": { "postgres_changes": changes } }));
    let mut numbered = changes;
    numbered[0]["id"] = json!(1);
    numbered[1]["id"] = json!(2);
    assert_eq!(ann.join_reply(), json!({ "postgres_changes": numbered }));
    let system = ann.assert_push(
        "system",
        like(json!({ "extension": "postgres_changes", "status": "ok" })),
    );
    assert!(
        system["message"]
            .as_str()
            .is_some_and(|message| message.contains("offers no changes"))
    );
    let many = json!({ "postgres_changes": vec![json!({}); 101] });
    assert_eq!(
        refused(&server(), "realtime:a", json!({}), many)["field"],
        "config.postgres_changes"
    );
}

#[test]
fn what_is_said_reaches_the_others_and_oneself_and_is_acknowledged_only_on_request() {
    let server = server();
    let plain = member(&server, "realtime:a", "anon", json!({}));
    let own = member(
        &server,
        "realtime:a",
        "anon",
        json!({ "broadcast": { "self": true, "ack": true } }),
    );
    plain.push("broadcast", said(1)).refute_reply();
    own.push("broadcast", said(2)).assert_reply("ok", json!({}));
    plain.assert_push("broadcast", said(2));
    plain.refute_push("broadcast", said(1));
    own.assert_push("broadcast", said(1));
    own.assert_push("broadcast", said(2));
    own.push("broadcast", Binary(&[1, 0, b'e', 9]));
    plain.assert_push("broadcast", Binary(&[1, 0, b'e', 9]));
    plain.push("broadcast", json!([1])).assert_reply("error", any());
    for event in ["presence_state", "system", "postgres_changes"] {
        let reply = json!({ "reason": "unhandled event" });
        plain.push(event, json!({})).assert_reply("error", reply);
    }
}

#[test]
fn presence_is_tracked_updated_and_untracked_under_the_key_of_the_join() {
    let server = server();
    let ann = member(
        &server,
        "realtime:a",
        "anon",
        json!({ "presence": { "key": "ann", "enabled": true } }),
    );
    let bob = member(&server, "realtime:a", "anon", json!({}));
    let act = |event: &str, payload: Value| json!({ "type": "presence", "event": event, "payload": payload });
    ann.push("presence", act("track", json!({ "x": 1 })))
        .assert_reply("ok", json!({}));
    bob.assert_presence("ann", like(json!({ "x": 1 })));
    ann.push("presence", act("track", json!({ "x": 2 })))
        .assert_reply("ok", json!({}));
    bob.assert_presence("ann", like(json!({ "x": 2 })));
    assert_eq!(bob.presences()["ann"].metas.len(), 1, "the second one is an update");
    let mut other = act("track", json!({}));
    other["payload"].take();
    bob.push("presence", other).assert_reply("ok", json!({}));
    assert_eq!(bob.presences().len(), 2, "whoever names no key has one of its own");
    ann.push("presence", act("untrack", Value::Null))
        .assert_reply("ok", json!({}));
    ann.push("presence", act("untrack", Value::Null))
        .assert_reply("ok", json!({}));
    bob.refute_presence("ann");
    ann.push("presence", act("track", json!([1])))
        .assert_reply("error", any());
    ann.push("presence", act("hide", json!({})))
        .assert_reply("error", any());
    let long = json!({ "presence": { "key": "k".repeat(256) } });
    assert_eq!(
        refused(&server, "realtime:a", json!({}), long)["field"],
        "config.presence.key"
    );
}

#[test]
fn a_private_channel_is_for_roles_that_may_and_a_public_one_for_all() {
    let (server, topic) = (server(), "private-realtime:a");
    let private = json!({ "private": true });
    for (role, is_let_in) in [
        ("authenticated", true),
        ("service_role", true),
        ("anon", false),
        ("", false),
    ] {
        let joined = server
            .client()
            .claims(claims(role, 100))
            .try_join(topic, json!({ "config": private }));
        assert_eq!(joined.is_ok(), is_let_in, "{role}");
        server.client().claims(claims(role, 100)).join("realtime:a", json!({}));
    }
    let reason = refused(&server, topic, json!({}), private.clone())["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.starts_with("Unauthorized")));
    // At a mount of another dialect both would be the same topic.
    assert!(refused(&server, "realtime:a", claims("authenticated", 100), private)["reason"].is_string());
}

#[test]
fn a_rule_may_let_clients_read_and_not_write() {
    let rules = json!({ "private": [{ "channel": "news", "roles": ["anon"], "write": false }] });
    let server = Server::start_with::<Client>(rules);
    let reader = member(&server, "private-realtime:news", "anon", json!({}));
    for (event, payload) in [("broadcast", said(1)), ("presence", json!({ "event": "track" }))] {
        let refusal = reader.push(event, payload).assert_reply("error", any());
        assert!(
            refusal["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("to write"))
        );
    }
    let asked = |role: &str, status: &str| {
        let question = json!({ "claims": { "role": role } });
        server
            .call("private-realtime:news", "broadcast", question)
            .assert_reply(status, any());
        let question = json!({ "claims": { "role": role } });
        server
            .call("realtime:news", "broadcast", question)
            .assert_reply("ok", any());
    };
    asked("anon", "error");
    asked("service_role", "ok");
}

#[test]
fn a_rule_names_channels_by_claims() {
    #[track_caller]
    fn check(pattern: &str, name: &str, fits: bool) {
        let rules = json!({ "private": [{ "channel": pattern }] });
        let settings: Settings = serde_json::from_value(rules).expect("settings");
        let claims = json!({
            "role": "authenticated", "sub": "7", "n": 8, "f": 1.5, "empty": "", "org": { "id": "acme", "deep": { "er": "x" } },
        });
        let claims = claims.as_object().expect("an object").clone();
        let expected = if fits { Access::Write } else { Access::Nothing };
        assert_eq!(settings.access(name, true, &claims), expected, "{pattern} {name}");
    }
    check("a", "a", true);
    check("a", "ab", false);
    check("a*", "ab", true);
    check("*", "", true);
    check("user:{sub}", "user:7", true);
    check("user:{sub}", "user:77", false);
    check("user:{sub}", "user:*", false);
    check("user:{sub}:*", "user:7:x", true);
    check("user:{sub}:*", "user:8:x", false);
    check("{org.id}/{n}-{sub}", "acme/8-7", true);
    check("{org.deep.er}", "x", true);
    for never in ["{empty}*", "{f}*", "{org}*", "{none}*", "{org.none}*", "{sub.x}*"] {
        check(never, "7", false);
        check(never, "", false);
    }
}

#[test]
fn a_rule_that_can_fit_nothing_is_a_mistake() {
    let wrong = |rule: Value, why: &str| {
        let rules = json!({ "private": [rule] });
        let error = serde_json::from_value::<Settings>(rules).expect_err("a mistake");
        assert!(error.to_string().contains(why), "{error}");
    };
    let braces = [
        "{sub", "sub}", "{}", "{a..b}", "{ sub }", "{*", "}*", "{a}}", "{{a}}", "{a}{",
    ];
    braces
        .iter()
        .for_each(|channel| wrong(json!({ "channel": channel }), "braces have a claim"));
    wrong(json!({ "channel": "a*b" }), "at the end");
    wrong(json!({ "channel": "" }), "`*` fits all");
    wrong(json!({ "channel": "realtime:x" }), "without `realtime:`");
    wrong(json!({ "channel": "a", "roles": [] }), "about nobody");
}

#[test]
fn who_may_no_longer_write_is_no_longer_present_and_may_always_leave() {
    let rules = json!({ "private": [{ "channel": "a" }, { "channel": "a", "roles": ["reader"], "write": false }] });
    let server = Server::start_with::<Client>(rules);
    let ann = member(
        &server,
        "private-realtime:a",
        "authenticated",
        json!({ "presence": { "key": "ann" } }),
    );
    let bob = member(&server, "private-realtime:a", "authenticated", json!({}));
    ann.push("presence", json!({ "event": "track" }))
        .assert_reply("ok", any());
    bob.assert_presence("ann", any());
    ann.client().refresh(claims("reader", 100));
    bob.refute_presence("ann");
    ann.push("presence", json!({ "event": "untrack" }))
        .assert_reply("ok", any());
    ann.push("presence", json!({ "event": "track" }))
        .assert_reply("error", any());
    assert!(ann.is_joined());
}

#[test]
fn a_client_whose_token_expires_is_told_and_its_channel_closed() {
    let server = server();
    let short = server
        .client()
        .claims(claims("authenticated", 60))
        .join("private-realtime:a", json!({}));
    let renewed = server
        .client()
        .claims(claims("authenticated", 50))
        .join("private-realtime:a", json!({}));
    let long = server
        .client()
        .claims(claims("authenticated", 4_000))
        .join("private-realtime:a", json!({}));
    renewed.client().refresh(claims("authenticated", 4_000));
    renewed
        .push("access_token", json!({ "access_token": "…" }))
        .refute_reply();
    // The wall clock stands still meanwhile, so what waits for 60 s from 50 s on is due after 110 s.
    server.advance(Duration::from_secs(111));
    let expired = json!({ "channel": "a", "extension": "system", "status": "error" });
    short.assert_push("system", like(expired.clone()));
    short.assert_close();
    for other in [&renewed, &long] {
        other.refute_push("system", like(expired.clone()));
        assert!(other.is_joined());
    }
    server.advance(Duration::from_secs(4_000));
    renewed.assert_close();
    long.assert_close();
    let reason = json!({ "reason": "token expired" });
    assert_eq!(refused(&server, "realtime:a", claims("anon", -1), json!({})), reason);
}

#[test]
fn a_token_that_allows_less_closes_a_private_channel_and_leaves_a_public_one() {
    let server = server();
    let client = server.client().claims(claims("authenticated", 100));
    let (private, public) = (
        client.join("private-realtime:a", json!({})),
        client.join("realtime:a", json!({})),
    );
    client.refresh(claims("anon", 100));
    // Its client may have shown the token on any channel.
    private.assert_push("system", like(json!({ "status": "error" })));
    private.assert_close();
    assert!(public.is_joined());
}

#[test]
fn everything_survives_a_reload() {
    let server = server();
    let config = json!({ "broadcast": { "self": true, "ack": true }, "presence": { "key": "ann" } });
    let ann = member(&server, "private-realtime:a", "authenticated", config);
    ann.push("presence", json!({ "event": "track", "payload": {} }))
        .assert_reply("ok", any());
    server.reload::<Client>();
    ann.push("broadcast", said(1)).assert_reply("ok", json!({}));
    ann.assert_push("broadcast", said(1));
    ann.push("presence", json!({ "event": "untrack" }))
        .assert_reply("ok", any());
    ann.refute_presence("ann");
    server.advance(Duration::from_secs(101));
    ann.assert_close();
}
