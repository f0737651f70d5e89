//! A process that was stopped, or whose machine was paused, holds nobody to account for that time.

use std::time::Duration;

use bennu_tools::client::Transport;
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{Connection, get, metric};
use crate::support::server::Bench;

const TOPIC: &str = "misbehave:1";

#[tokio::test]
async fn clients_that_spoke_during_a_standstill_stay() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "1_000");
    let server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::joined(&server, TOPIC).await);
    }
    let mut refs = Vec::new();
    let speak = async {
        for client in &mut clients {
            refs.push(client.start(TOPIC, "count", json!({})).await);
        }
    };
    server.stand_still(Duration::from_secs(3), speak).await;
    for (client, reference) in clients.iter_mut().zip(refs) {
        assert_eq!(client.answer(&reference).await["status"], "ok");
    }
    // Whoever is silent while the server runs is closed as ever.
    for client in &mut clients {
        assert_eq!(client.close_code().await, 1002);
    }
}

#[tokio::test]
async fn clients_that_could_not_speak_during_a_standstill_have_their_time_afterwards() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "1_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    // By then an I/O thread has looked after its clients.
    Client::joined(&server, TOPIC).await;
    assert_eq!(client.rest().await, [], "it answers");
}

#[tokio::test]
async fn long_poll_sessions_survive_a_standstill() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let path = "/ws/longpoll?vsn=2.0.0";
    let opened = get(server.address, path).await.json();
    let token = opened["token"].as_str().expect("a token").to_owned();
    let mut connection = Connection::open(server.address).await;
    // The window is 200 ms: a session that is not polled lives for three of them at most.
    let path = format!("{path}&token={token}");
    let poll = connection.send("GET", &path, "", "");
    server.stand_still(Duration::from_secs(3), poll).await;
    let polled = connection.answer().await.json();
    assert_eq!(polled["status"], 204, "{polled}");
}

#[tokio::test]
async fn a_client_that_polls_stays_in_its_topics_over_a_standstill() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect_by(&server, Transport::LongPoll).await;
    client.join(TOPIC, json!({})).await;
    server.stand_still(Duration::from_secs(8), async {}).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["member"], 1);
}

#[tokio::test]
async fn a_handler_is_not_taken_for_one_that_hangs_because_the_process_stood_still() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("plugins.misbehave", "deadline_ms", "1_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    // It computes while the process runs: when that goes on, the handler has not returned.
    let busy = client.start(TOPIC, "spin", json!({ "ms": 3_300 })).await;
    server.log.line(&["handler takes long"]).await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    assert_eq!(client.answer(&busy).await["status"], "ok");
    assert_eq!(
        client.push(TOPIC, "count", json!({})).await["member"],
        2,
        "its state is there"
    );
    let hangs = metric(server.admin().await, "bennu_plugin_hangs_total{plugin=\"misbehave\"}").await;
    assert_eq!(hangs, 0);
}

#[tokio::test]
async fn a_join_that_is_answered_later_is_not_given_up_because_the_process_stood_still() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    // Its deadline is 1.5 s; the thread that answers sleeps for as long as the standstill lasts, and a moment more.
    let joining = client.start_join(TOPIC, json!({ "do": "later", "ms": 3_100 })).await;
    server.log.line(&["connect"]).await;
    client.rest().await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    assert_eq!(client.answer(&joining).await["response"], json!({ "late": true }));
}
