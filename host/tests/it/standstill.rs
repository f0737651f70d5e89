//! A process that was stopped, or whose machine was paused, holds nobody to account for that time.

use std::fs;
use std::time::Duration;

use bennu_tools::client::Transport;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::http::{Connection, get, metric};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};
use crate::support::wire::Wire;
use crate::support::within;

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
async fn a_message_whose_end_came_during_a_standstill_is_taken() {
    let bench = Bench::new();
    bench.set("limits", "message_timeout_ms", "1_000");
    // Each may look at its clock before it reads.
    bench.set("server", "io_threads", "8");
    let server = bench.serve().await;
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::open(&server).await;
        wire.send(0x01, br#"[null,"1","phoenix","#).await;
        // A pong says that the beginning was read.
        wire.send(0x89, b"p").await;
        assert_eq!(wire.next().await, (0x8a, b"p".to_vec()));
        wires.push(wire);
    }
    let end = async {
        for wire in &mut wires {
            wire.send(0x80, br#""heartbeat",{}]"#).await;
        }
    };
    server.stand_still(Duration::from_secs(3), end).await;
    for wire in &mut wires {
        assert_eq!(wire.next().await.0, 0x81);
        // A message that does not end while the server runs is closed as ever.
        wire.send(0x01, b"[").await;
    }
    for wire in &mut wires {
        assert_eq!(wire.closed().await, 1002);
    }
}

#[tokio::test]
async fn a_request_whose_end_came_during_a_standstill_is_answered() {
    let bench = Bench::new();
    bench.set("limits", "header_timeout_ms", "1_000");
    let server = bench.serve().await;
    let opened = get(server.address, "/socket/longpoll?vsn=2.0.0").await.json();
    let token = opened["token"].as_str().expect("a token");
    let body = r#"[null,"1","phoenix","heartbeat",{}]"#;
    let head = format!(
        "POST /socket/longpoll?vsn=2.0.0&token={token} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request = format!("{head}{body}");
    // In the head of one request, and in the body of the other.
    for sent in [20, head.len() + 5] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let (before, rest) = request.split_at(sent);
        stream.write_all(before.as_bytes()).await.expect("sent");
        // Whoever connects later is accepted later: the server has read the beginning.
        for _ in 0..2 {
            get(server.address, "/nothing").await;
        }
        let end = async { stream.write_all(rest.as_bytes()).await.expect("sent") };
        server.stand_still(Duration::from_secs(3), end).await;
        let mut answer = String::new();
        within("answer", stream.read_to_string(&mut answer))
            .await
            .expect("text");
        assert!(answer.ends_with(r#"{"status":200}"#), "{answer}");
    }
}

#[tokio::test]
async fn a_handler_is_not_taken_for_one_that_hangs_because_the_process_stood_still() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("plugins.misbehave", "deadline_ms", "2_000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    // It computes for so long by the system's clock: when the process goes on, the handler has not returned.
    let busy = client.start(TOPIC, "spin", json!({ "ms": 4_500 })).await;
    server.log.line(&["slow handler"]).await;
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
async fn a_plugin_that_starts_during_a_standstill_is_not_refused() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "settings", "{ init = \"wait\" }");
    bench.set("plugins.misbehave", "deadline_ms", "2_000");
    let gate = bench.path("gate");
    fs::write(&gate, "").expect("written");
    let mut command = bench.command();
    command.env("MISBEHAVE_WAITS_FOR", &gate);
    let mut server = Server::starting(command);
    within("thread that starts the plugin", async {
        while !server.thread_names().iter().any(|name| name == "misbehave.1.0") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    // By then the clock of the system says that `init` takes too long.
    fs::remove_file(&gate).expect("it is there");
    server.listens().await;
    Client::joined(&server, TOPIC).await;
}

#[tokio::test]
async fn a_join_that_is_answered_later_is_not_given_up_because_the_process_stood_still() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    // Its deadline is 1.5 s; the thread that answers sleeps for as long as the standstill lasts, and a moment more.
    let joining = client.start_join(TOPIC, json!({ "do": "later", "ms": 3_100 })).await;
    // The one shard has handled the first join by then.
    client.join("misbehave:2", json!({})).await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    assert_eq!(client.answer(&joining).await["response"], json!({ "late": true }));
}

#[tokio::test]
async fn code_is_on_probation_for_time_in_which_it_could_have_failed() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "1_500");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    server.stand_still(Duration::from_secs(3), async {}).await;
    for _ in 0..2 {
        client.start(TOPIC, "panic", json!({})).await;
        client.event(TOPIC, "phx_error").await;
        client.join(TOPIC, json!({})).await;
    }
    server.log.line(&["rolled back to generation 1"]).await;
}
