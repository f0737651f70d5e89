//! `durability = "commit"`: nobody is told of anything before the state behind it is stored.

use serde_json::json;

use super::{Fault, TOPIC, bench, count, counted, killed};
use crate::support::client::Client;

#[tokio::test]
async fn what_a_client_was_told_is_there_after_a_kill() {
    let bench = bench("commit");
    for round in 0..5 {
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        for n in 1..=7 {
            assert_eq!(count(&mut client).await, round * 7 + n);
        }
        killed(server).await;
    }
}

/// Everything that leaves a topic: replies, pushes, broadcasts, messages to other topics, the answer to a join.
#[tokio::test]
async fn nothing_leaves_before_it_is_stored_and_other_topics_do_not_wait() {
    let bench = bench("commit");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let (mut ann, mut bob) = (counted(&server).await, Client::joined(&server, TOPIC).await);
    let mut cat = Client::joined(&server, "misbehave:other").await;
    let mut dan = Client::joined(&server, "echo:1").await;
    fault.set("hold");
    let counting = ann.start(TOPIC, "count", json!({})).await;
    let event = json!({ "event": "said", "payload": { "n": 1 }, "topic": "misbehave:other" });
    for what in ["broadcast", "push", "broadcast_to", "send_to"] {
        ann.start(TOPIC, what, event.clone()).await;
    }
    let mut eve = Client::connect(&server).await;
    let joining = eve.start_join(TOPIC, json!({})).await;
    // Another topic goes on, also of the same plugin, if it has nothing to store; and so does another plugin.
    assert_eq!(
        cat.push("misbehave:other", "echo", json!({ "n": 2 })).await,
        json!({ "n": 2 })
    );
    assert_eq!(dan.push("echo:1", "echo", json!({ "n": 3 })).await["n"], 3);
    for client in [&mut ann, &mut bob, &mut cat, &mut eve] {
        assert_eq!(client.rest().await, []);
    }
    fault.set("");
    assert_eq!(ann.answer(&counting).await["response"]["topic"], 6);
    assert_eq!(ann.event(TOPIC, "said").await["n"], 1);
    assert_eq!(bob.event(TOPIC, "said").await["n"], 1);
    assert_eq!(cat.event("misbehave:other", "said").await["n"], 1);
    eve.answer(&joining).await;
    assert_eq!(count(&mut eve).await, 7);
}

#[tokio::test]
async fn an_event_that_cannot_be_stored_is_refused_and_has_not_happened() {
    let bench = bench("commit");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let (mut ann, mut bob) = (counted(&server).await, Client::joined(&server, TOPIC).await);
    fault.set("full");
    let answer = ann.try_push(TOPIC, "count", json!({})).await;
    assert_eq!(
        answer,
        json!({ "status": "error", "response": { "reason": "storage unavailable" } })
    );
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.event(TOPIC, "phx_error").await["reason"], "storage unavailable");
    }
    let said = server.log.line(&["topic not stored", TOPIC]).await;
    assert!(said.contains("state/topics"), "{said}");
    fault.set("");
    ann.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut ann).await, 6, "the event that was refused does not count");
}

#[tokio::test]
async fn a_new_topic_that_cannot_be_stored_refuses_its_first_join() {
    let bench = bench("commit");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    fault.set("full");
    let mut client = Client::connect(&server).await;
    let answer = client.try_join(TOPIC, json!({})).await;
    assert_eq!(answer["response"]["reason"], "storage unavailable");
    fault.set("");
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 1);
}

/// A panic drops the effects of its event, and what the callback has changed stays: it is stored as any other state.
#[tokio::test]
async fn a_panic_ends_its_member_and_leaves_the_state_stored() {
    let bench = bench("commit");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    client.start(TOPIC, "panic", json!({})).await;
    client.event(TOPIC, "phx_error").await;
    killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn state_that_the_plugin_cannot_write_is_refused_as_what_cannot_be_stored() {
    let bench = bench("commit");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    let answer = client.try_push(TOPIC, "topic_arm", json!({ "at": "snapshot" })).await;
    assert_eq!(answer["response"]["reason"], "storage unavailable");
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn state_larger_than_the_bound_is_refused() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "max_state_bytes", "1_024");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    let answer = client
        .try_push(TOPIC, "topic_arm", json!({ "at": "x".repeat(2_000) }))
        .await;
    assert_eq!(answer["response"]["reason"], "storage unavailable");
    server
        .log
        .line(&["topic not stored", "`max_state_bytes` allows 1024"])
        .await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn a_promise_is_kept_and_a_timer_fires_after_their_event_was_stored() {
    let bench = bench("commit");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    for later in ["later", "later_thread"] {
        assert_eq!(client.push(TOPIC, later, json!({ "ms": 1 })).await["late"], true);
    }
    client
        .start(TOPIC, "topic_timer", json!({ "ms": 1, "payload": { "n": 4 } }))
        .await;
    assert_eq!(client.event(TOPIC, "tock").await["n"], 4);
    client.push(TOPIC, "track", json!({ "key": "ann" })).await;
    assert!(client.event(TOPIC, "presence_diff").await["joins"]["ann"].is_object());
}
