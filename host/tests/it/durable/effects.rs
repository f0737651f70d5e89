//! `durability = "commit"`: what becomes of each kind of effect. The table in `host/docs/durability.md` names these tests.

use serde_json::{Value, json};

use super::{Fault, TOPIC, bench, count, counted, killed};
use crate::api::{self, Backend};
use crate::support::client::Client;
use crate::support::server::Server;

#[tokio::test]
async fn intercepted_broadcasts_promises_timers_presence_and_answers_to_backends_wait_too() {
    let bench = api::bench();
    bench.set("plugins.misbehave", "durability", "\"commit\"");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let (mut ann, mut bob) = (counted(&server).await, Client::joined(&server, TOPIC).await);
    let backend = Backend::of(&server).await;
    fault.set("hold");
    // This one has something to store itself: its timer.
    let tock = json!({ "ms": 1, "payload": { "n": 4 } });
    ann.start(TOPIC, "topic_timer", tock).await;
    // What other connections send might come before it otherwise.
    fault.held().await;
    let body = json!({ "topic": TOPIC, "event": "add", "payload": {} }).to_string();
    let call = tokio::spawn(async move { backend.post_text("/api/call", "", &body).await });
    ann.start(TOPIC, "secret", json!({ "payload": { "n": 1 } })).await;
    let later = ann.start(TOPIC, "later_thread", json!({ "ms": 1 })).await;
    let track = ann.start(TOPIC, "track", json!({ "key": "ann" })).await;
    let leaving = bob.start(TOPIC, "phx_leave", json!({})).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.rest().await, []);
    }
    assert!(!call.is_finished());
    fault.set("");
    assert_eq!(ann.event(TOPIC, "tock").await["n"], 4);
    assert_eq!(ann.event(TOPIC, "secret").await["secret"]["n"], 1);
    assert_eq!(ann.answer(&later).await["response"]["late"], true);
    assert_eq!(ann.answer(&track).await["response"]["done"], true);
    assert!(ann.event(TOPIC, "presence_diff").await["joins"]["ann"].is_object());
    assert_eq!(bob.answer(&leaving).await["status"], "ok");
    let called = call.await.expect("no panic").json();
    assert_eq!(called["response"]["topic"], 6, "{called}");
}

/// Who is told so finds nothing of the topic, whatever happens to the server.
#[tokio::test]
async fn nobody_hears_that_a_topic_is_forgotten_before_it_is() {
    let bench = bench("commit");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let mut client = counted(&server).await;
    fault.set("hold");
    let forgetting = client.start(TOPIC, "forget", json!({})).await;
    fault.held().await;
    assert_eq!(client.rest().await, []);
    fault.set("");
    assert_eq!(client.answer(&forgetting).await["status"], "ok");
    killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 1);
}

/// The connections of a socket id are closed by an effect, too.
#[tokio::test]
async fn nobody_is_disconnected_before_that_is_stored() {
    let bench = bench("commit");
    let fault = Fault::of(&bench);
    let server = fault.serve(&bench).await;
    let mut ann = counted(&server).await;
    let mut eve = Client::connect_with(&api::as_user(&server, bennu_tools::client::Transport::WebSocket, "eve")).await;
    fault.set("hold");
    ann.start(TOPIC, "count", json!({})).await;
    ann.start(TOPIC, "disconnect", json!({ "topic": "user:eve" })).await;
    assert_eq!(ann.rest().await, []);
    assert_eq!(eve.rest().await, []);
    fault.set("");
    eve.ended().await;
}

#[tokio::test]
async fn a_panic_that_ends_all_members_leaves_the_state_stored() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "on_panic", "\"topic\"");
    let server = bench.serve().await;
    let (mut ann, mut bob) = (counted(&server).await, Client::joined(&server, TOPIC).await);
    ann.start(TOPIC, "panic", json!({})).await;
    for client in [&mut ann, &mut bob] {
        client.event(TOPIC, "phx_error").await;
    }
    killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn a_topic_whose_thread_is_abandoned_comes_back_as_it_was_stored() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "deadline_ms", "300");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 6);
}

/// What clients are told of a join of a sleeping topic whose thread hangs in another topic.
async fn join_beside_a_hanging_topic(server: &Server) -> Value {
    let mut other = Client::joined(server, "misbehave:other").await;
    other.start("misbehave:other", "unruly", json!({ "at": "hang" })).await;
    let mut client = Client::connect(server).await;
    client.try_join(TOPIC, json!({})).await
}

#[tokio::test]
async fn a_join_of_a_sleeping_topic_whose_thread_hangs_is_answered() {
    let bench = bench("commit");
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("plugins.misbehave", "deadline_ms", "300");
    bench.set("plugins.misbehave", "linger_ms", "1");
    let server = bench.serve().await;
    drop(counted(&server).await);
    super::reaches(server.admin().await, super::HIBERNATED, 1).await;
    let answer = join_beside_a_hanging_topic(&server).await;
    let mut client = match &answer["status"] {
        status if status == "ok" => return,
        _ => Client::connect(&server).await,
    };
    assert!(answer["response"]["reason"].is_string(), "{answer}");
    // On the thread that takes its place, it is as it was.
    client.join(TOPIC, json!({})).await;
    assert_eq!(count(&mut client).await, 6);
}
