//! How long a connection lasts: until its token expires, or the next one takes its place.

use super::*;

#[tokio::test]
async fn a_connection_ends_with_its_token_and_comes_back_with_a_new_one() {
    let (_bench, server) = serve().await;
    let mut clients = Vec::new();
    for transport in BOTH {
        let short = token(json!({ "sub": "ann", "exp": now_s() + 2 }), SECRET);
        let mut client = connect(&server, transport, &short).await;
        client.join(TOPIC, json!({})).await;
        // Another one of the same user has more time.
        let mut longer = connect(&server, transport, &token_of("ann")).await;
        longer.join(TOPIC, json!({})).await;
        clients.push((transport, client, longer, short));
    }
    for (transport, mut client, mut longer, short) in clients {
        match transport {
            Transport::WebSocket => assert_eq!(client.close_code().await, 3000),
            Transport::LongPoll => client.ended().await,
        }
        assert_eq!(claims(&mut longer, TOPIC).await["sub"], "ann");
        assert_eq!(refused(&options(&server, transport, &short)).await, Some(403));
        let mut back = connect(&server, transport, &token_of("ann")).await;
        back.join(TOPIC, json!({})).await;
    }
    let admin = server.admin().await;
    // The poll that waited has asked for a new session, with the old token.
    assert_eq!(metric(admin, "bennu_auth_expired_total").await, 2);
    assert_eq!(metric(admin, "bennu_auth_refused_total{reason=\"expired\"}").await, 3);
}

#[tokio::test]
async fn on_expiry_keep_keeps_a_connection() {
    let (_bench, server) = serve_with(&format!("{JWT}\non_expiry = \"keep\""), "").await;
    let short = token(json!({ "sub": "ann", "exp": now_s() + 1 }), SECRET);
    let mut kept = connect(&server, Transport::WebSocket, &short).await;
    kept.join(TOPIC, json!({})).await;
    // The token is over for sure when it lets nobody in any more.
    within("end of the token", async {
        while refused(&options(&server, Transport::WebSocket, &short)).await.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(claims(&mut kept, TOPIC).await["sub"], "ann");
}

#[tokio::test]
async fn a_new_token_of_the_same_user_takes_the_place_of_the_old_one() {
    let (_bench, server) = serve().await;
    for transport in BOTH {
        let first = token(json!({ "sub": "ann", "role": "guest", "exp": now_s() + 2 }), SECRET);
        let mut ann = connect(&server, transport, &first).await;
        let mut other = connect(
            &server,
            transport,
            &token(json!({ "sub": "ann", "role": "guest", "exp": now_s() + 60 }), SECRET),
        )
        .await;
        for topic in [TOPIC, "misbehave:second"] {
            ann.join(topic, json!({})).await;
        }
        other.join(TOPIC, json!({})).await;
        let next = token(json!({ "sub": "ann", "role": "host", "exp": now_s() + 60 }), SECRET);
        // The plugin gets the event too, with the new claims already.
        let told = ann.push(TOPIC, "access_token", json!({ "access_token": next })).await;
        assert_eq!(told["role"], "host");
        assert_eq!(claims(&mut ann, "misbehave:second").await["role"], "host");
        ann.join("misbehave:third", json!({})).await;
        assert_eq!(claims(&mut ann, "misbehave:third").await["role"], "host");
        assert_eq!(claims(&mut other, TOPIC).await["role"], "guest");
        // supabase-js tells every channel.
        let told = ann
            .push("misbehave:second", "access_token", json!({ "access_token": next }))
            .await;
        assert_eq!(told["role"], "host");
        // The first token is over by now, and the connection is not.
        within("end of the first token", async {
            while refused(&options(&server, transport, &first)).await.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        ann.rest().await;
        assert_eq!(claims(&mut ann, TOPIC).await["role"], "host");
    }
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_auth_expired_total").await, 0);
}

#[tokio::test]
async fn a_new_token_that_is_not_good_changes_nothing_and_does_not_reach_the_plugin() {
    let (_bench, server) = serve().await;
    for transport in BOTH {
        let mut ann = connect(&server, transport, &token_of("ann")).await;
        ann.join(TOPIC, json!({})).await;
        for (payload, reason) in [
            (json!({ "access_token": token_of("bob") }), "token of another client"),
            (
                json!({ "access_token": token(json!({ "sub": "ann", "exp": 1 }), SECRET) }),
                "token expired",
            ),
            (
                json!({ "access_token": token(json!({ "sub": "ann", "exp": now_s() + 60 }), OTHER) }),
                "invalid token",
            ),
            (json!({ "access_token": "x".repeat(20_000) }), "invalid token"),
            (json!({ "access_token": null }), "invalid token"),
            (json!({}), "invalid token"),
            // A list is no object, whatever would be in its first place.
            (json!([token_of("ann")]), "invalid token"),
        ] {
            let reply = ann.try_push(TOPIC, "access_token", payload).await;
            assert_eq!(reply, json!({ "status": "error", "response": { "reason": reason } }));
        }
        assert_eq!(claims(&mut ann, TOPIC).await["sub"], "ann");
    }
    let log = server.log.text();
    assert!(log.contains("new token refused"), "the log does not say so");
}

#[tokio::test]
async fn a_client_may_show_another_token_only_so_often() {
    let settings = JWT.replace("refresh_interval_ms = 0", "refresh_interval_ms = 3_600_000");
    let (_bench, server) = serve_with(&settings, "").await;
    let mut ann = connect(&server, Transport::WebSocket, &token_of("ann")).await;
    ann.join(TOPIC, json!({})).await;
    let fresh = |n: u64| json!({ "access_token": token(json!({ "sub": "ann", "n": n, "exp": now_s() + 60 }), SECRET) });
    let first = fresh(1);
    assert_eq!(ann.push(TOPIC, "access_token", first.clone()).await["n"], 1);
    let early = ann.try_push(TOPIC, "access_token", fresh(2)).await;
    assert_eq!(early["response"], json!({ "reason": "overloaded" }));
    // The same one is no other.
    assert_eq!(ann.push(TOPIC, "access_token", first).await["n"], 1);
}

#[tokio::test]
async fn a_join_may_bring_a_token_which_counts_like_one_that_is_shown_later() {
    let (_bench, server) = serve_with(&format!("{JWT}\nfrom = [\"auth_token\", \"join.jwt\"]"), "").await;
    for transport in BOTH {
        let mut ann = connect(&server, transport, &token_of("ann")).await;
        ann.join(TOPIC, json!({})).await;
        let host = token(json!({ "sub": "ann", "role": "host", "exp": now_s() + 60 }), SECRET);
        ann.join("misbehave:second", json!({ "jwt": host })).await;
        for topic in ["misbehave:second", TOPIC] {
            assert_eq!(claims(&mut ann, topic).await["role"], "host");
        }
        for (bad, reason) in [
            (json!(token_of("bob")), "token of another client"),
            (json!(token(json!({ "sub": "ann", "exp": 1 }), SECRET)), "token expired"),
            (
                json!(token(json!({ "sub": "ann", "exp": now_s() + 60 }), OTHER)),
                "invalid token",
            ),
            (json!(7), "invalid token"),
        ] {
            let reply = ann.try_join("misbehave:third", json!({ "jwt": bad })).await;
            assert_eq!(reply, json!({ "status": "error", "response": { "reason": reason } }));
        }
        // Another key is no token, and without one the claims stay.
        for none in [
            json!({ "jwt": null }),
            json!({ "jwt": "" }),
            json!({ "access_token": "x" }),
        ] {
            ann.join("misbehave:third", none).await;
        }
        assert_eq!(claims(&mut ann, "misbehave:third").await["role"], "host");
    }
}

#[tokio::test]
async fn a_join_brings_no_token_unless_the_mount_names_a_place_for_it() {
    let (_bench, server) = serve().await;
    let mut ann = connect(&server, Transport::WebSocket, &token_of("ann")).await;
    ann.join(TOPIC, json!({ "access_token": "no token" })).await;
    assert_eq!(claims(&mut ann, TOPIC).await["sub"], "ann");
}

#[tokio::test]
async fn a_connection_may_become_that_of_another_client_if_the_mount_allows_it() {
    let settings = JWT.replace("socket_id = \"user:{sub}\"", "same_client = false");
    let (_bench, server) = serve_with(&settings, "").await;
    let mut client = connect(&server, Transport::WebSocket, &token_of("ann")).await;
    client.join(TOPIC, json!({})).await;
    let nobody = token(json!({ "exp": now_s() + 60 }), SECRET);
    for (next, sub) in [
        (token_of("bob"), json!("bob")),
        (nobody, Value::Null),
        (token_of("ann"), json!("ann")),
    ] {
        let told = client
            .push(TOPIC, "access_token", json!({ "access_token": next }))
            .await;
        assert_eq!(told["sub"], sub);
    }
    let forged = token(json!({ "sub": "eve", "exp": now_s() + 60 }), OTHER);
    let reply = client
        .try_push(TOPIC, "access_token", json!({ "access_token": forged }))
        .await;
    assert_eq!(reply["response"], json!({ "reason": "invalid token" }));
}

#[tokio::test]
async fn a_client_without_a_token_may_show_one_later() {
    let (_bench, server) = serve_with(&format!("{JWT}\nrequired = false"), "").await;
    let mut ann = Options::new(server.address, Transport::WebSocket);
    ann.mount = "/auth".to_owned();
    let mut ann = Client::connect_with(&ann).await;
    ann.join(TOPIC, json!({})).await;
    let told = ann
        .push(TOPIC, "access_token", json!({ "access_token": token_of("ann") }))
        .await;
    assert_eq!(told["sub"], "ann");
    assert_eq!(ann.push(TOPIC, "whoami", json!({})).await["socket_id"], "user:ann");
    let mut bob = connect(&server, Transport::WebSocket, &token_of("bob")).await;
    bob.join(TOPIC, json!({})).await;
    bob.start(TOPIC, "disconnect", json!({ "topic": "user:ann" })).await;
    assert_eq!(ann.close_code().await, 1001);
}

#[tokio::test]
async fn without_auth_the_event_is_the_plugins_own() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let told = client
        .push(TOPIC, "access_token", json!({ "access_token": "anything" }))
        .await;
    assert_eq!(told, json!({}));
}

#[tokio::test]
async fn a_late_join_and_a_reload_have_the_newest_claims() {
    let (bench, server) = serve().await;
    let claimed = |role: &str| token(json!({ "sub": "ann", "role": role, "exp": now_s() + 60 }), SECRET);
    let mut ann = connect(&server, Transport::WebSocket, &claimed("guest")).await;
    ann.join(TOPIC, json!({})).await;
    let late = ann
        .start_join("misbehave:late", json!({ "do": "later", "ms": 300 }))
        .await;
    ann.push(TOPIC, "access_token", json!({ "access_token": claimed("host") }))
        .await;
    assert_eq!(ann.answer(&late).await["status"], "ok");
    assert_eq!(claims(&mut ann, "misbehave:late").await["role"], "host");
    bench.put_numbered("misbehave", crate::support::plugins::Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    assert_eq!(claims(&mut ann, TOPIC).await["role"], "host");
}
