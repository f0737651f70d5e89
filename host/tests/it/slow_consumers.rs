//! Clients that do not read what they are sent: what it costs them, and nobody else.

use std::time::Duration;

use bennu_tools::client::{Client, Frame, Incoming, Options, Payload, RawClient, Transport};
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::http::{metric, reaches};
use crate::support::server::{Bench, Server};

/// More than the system keeps of a connection's unread bytes on the server's side, which it may let grow to 4 MiB.
const FLOOD: &str = r#"["1","2","misbehave:t","flood",{"count":1000,"bytes":8000}]"#;

/// A client in `misbehave:t` for which the system keeps little: what it does not read stays with the server.
async fn slow(server: &Server) -> RawClient {
    slow_over(server, Transport::WebSocket).await
}

async fn slow_over(server: &Server, transport: Transport) -> RawClient {
    let mut options = Options::new(server.address, transport);
    options.receive_buffer_bytes = Some(131_072);
    let mut client = RawClient::connect(&options).await.expect("connected");
    let join = r#"["1","1","misbehave:t","phx_join",{}]"#;
    client.send(Frame::from(join)).await.expect("sent");
    assert!(
        matches!(client.next().await, Ok(Incoming::Frame(_))),
        "the join's reply"
    );
    client
}

async fn end(mut client: RawClient) -> u16 {
    loop {
        match client.next().await.expect("what is left, and the end") {
            Incoming::Frame(_) => {}
            Incoming::Closed { code } => return code,
        }
    }
}

/// The `n` of a message of a flood; none of other messages.
fn number(frame: &Frame) -> Option<u64> {
    let Frame::Text(text) = frame else { return None };
    let message: Value = serde_json::from_str(text).expect("JSON");
    (message[3] == "flood").then(|| message[4]["n"].as_u64().expect("a number"))
}

fn json(payload: Payload) -> Value {
    match payload {
        Payload::Json(value) => value,
        Payload::Binary(bytes) => panic!("{bytes:?} are no JSON"),
    }
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_closed_with_1013_and_nobody_else_notices() {
    let bench = Bench::new();
    bench.set("limits", "max_outbound_bytes", "100_000");
    // It is silent, and reads its end, until the other has seen that all is well.
    bench.set("limits", "idle_timeout_ms", "60_000");
    bench.set("limits", "close_timeout_ms", "60_000");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut other = Client::connect(&options).await.expect("connected");
    other.join("misbehave:t", json!({})).await.expect("joined");
    let mut slow = slow(&server).await;
    slow.send(Frame::from(FLOOD)).await.expect("sent");
    let news = json!({ "event": "news" });
    other.push("misbehave:t", "broadcast", news).await.expect("sent");
    other.event("misbehave:t", "news").await.expect("the news");
    // The other may be served by another thread, ahead of the flood.
    reaches(server.admin().await, "bennu_slow_consumers_total", 1).await;
    assert_eq!(end(slow).await, 1013);
    assert_eq!(other.heartbeat().await.expect("answered").status, "ok");
}

#[tokio::test]
async fn what_the_system_may_not_keep_for_a_client_waits_with_the_server() {
    let bench = Bench::new();
    bench.set("server", "notsent_lowat_bytes", "16_384");
    bench.set("limits", "max_outbound_bytes", "100_000");
    let server = bench.serve().await;
    let mut slow = slow(&server).await;
    // The system itself would have room for all of it.
    let flood = r#"["1","2","misbehave:t","flood",{"count":75,"bytes":8000}]"#;
    slow.send(Frame::from(flood)).await.expect("sent");
    reaches(server.admin().await, "bennu_slow_consumers_total", 1).await;
}

/// Of a flood of replaceable broadcasts a client that does not read gets the first ones and the last one, in order.
async fn newest(transport: Transport) {
    let bench = Bench::new();
    bench.set("limits", "max_outbound_bytes", "100_000");
    bench.set(
        "mounts",
        "longpoll",
        "{ window_ms = 2_000, max_buffer_bytes = 100_000 }",
    );
    let config = bench.read_config();
    let topic = r#"topic = "misbehave:*""#;
    bench.write_config(&config.replacen(topic, &format!("{topic}\nreplaceable = [\"flood\"]"), 1));
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut other = Client::connect(&options).await.expect("connected");
    other.join("misbehave:t", json!({})).await.expect("joined");
    let mut slow = slow_over(&server, transport).await;
    let flood = json!({ "count": 1000, "bytes": 8000 });
    other.push("misbehave:t", "flood_broadcast", flood).await.expect("sent");
    // Who reads is told the last one, too, and may be a little behind in a flood.
    while json(other.event("misbehave:t", "flood").await.expect("the flood"))["n"] != 999 {}
    let admin = server.admin().await;
    reaches(admin, "bennu_replaced_messages_total", 1).await;
    assert_eq!(metric(admin, "bennu_slow_consumers_total").await, 0);
    let mut numbers = Vec::new();
    while numbers.last() != Some(&999) {
        let Incoming::Frame(frame) = slow.next().await.expect("more of the flood") else {
            panic!("closed after {numbers:?}")
        };
        numbers.extend(number(&frame));
    }
    assert!(numbers.is_sorted() && numbers.len() < 1000, "{numbers:?}");
}

#[tokio::test]
async fn a_slow_client_gets_the_newest_of_replaceable_events_over_websocket() {
    newest(Transport::WebSocket).await;
}

#[tokio::test]
async fn a_slow_client_gets_the_newest_of_replaceable_events_over_long_polling() {
    newest(Transport::LongPoll).await;
}

#[tokio::test]
async fn what_waits_for_all_stuck_clients_together_is_bounded_and_who_reads_stays() {
    const STUCK: u64 = 40;
    const TOTAL: u64 = 16 * 1024 * 1024;
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    bench.set("limits", "max_outbound_bytes", "8_000_000");
    // The stuck ones are silent, too.
    bench.set("limits", "idle_timeout_ms", "60_000");
    bench.set("limits", "max_outbound_total_bytes", &TOTAL.to_string());
    let server = bench.serve().await;
    let admin = server.admin().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut reads = Client::connect(&options).await.expect("connected");
    reads.join("misbehave:t", json!({})).await.expect("joined");
    let before = server.memory();
    let mut stuck = Vec::new();
    let mut most = before;
    for count in 1..=STUCK {
        let mut client = slow(&server).await;
        let sent = metric(admin, "bennu_messages_out_total").await;
        client.send(Frame::from(FLOOD)).await.expect("sent");
        // One flood at a time, or those that wait for the I/O thread are counted, too.
        reaches(admin, "bennu_messages_out_total", sent + 1000).await;
        stuck.push(client);
        most = most.max(server.memory());
        assert_eq!(
            reads.heartbeat().await.expect("answered").status,
            "ok",
            "beside {count}"
        );
    }
    // Each is owed some 4 MB that the system does not take.
    let there = metric(admin, "bennu_sockets").await;
    let let_go = metric(admin, "bennu_slow_consumers_total").await;
    assert!(let_go > 0 && let_go < STUCK, "{let_go}");
    assert!(there >= STUCK + 1 - let_go, "{there} beside {let_go}");
    // Without a bound it would be some 200 MB. Besides what waits, a flood is on its way from the plugin.
    let grown = most - before;
    assert!(grown < 6 * TOTAL, "{grown} bytes more than at the start");
}

#[tokio::test]
async fn a_client_that_reads_slower_than_its_topic_speaks_changes_nothing_for_the_others() {
    const OTHERS: usize = 20;
    // Of 8 kB each: more than the system keeps for the slow one, so that the server has to.
    const NEWS: u64 = 1000;
    // Less than `max_outbound_bytes`.
    const AT_ONCE: u64 = 50;
    let bench = Bench::new();
    bench.set("limits", "max_outbound_bytes", "1_000_000");
    // Those who listen are silent themselves.
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        let mut other = Client::connect(&options).await.expect("connected");
        other.join("misbehave:t", json!({})).await.expect("joined");
        others.push(other);
    }
    let mut slow = slow(&server).await;
    let reads = tokio::spawn(async move {
        // Some 10 kB a second.
        let mut pace = tokio::time::interval(Duration::from_millis(800));
        while let Ok(Incoming::Frame(_)) = slow.next().await {
            pace.tick().await;
        }
    });
    let mut readers = Vec::new();
    let (heard, mut has_heard) = tokio::sync::mpsc::unbounded_channel();
    // It reads nothing either, and so is in a topic of its own.
    let mut sender = Client::connect(&options).await.expect("connected");
    sender.join("misbehave:from", json!({})).await.expect("joined");
    for mut other in others {
        let heard = heard.clone();
        readers.push(tokio::spawn(async move {
            for n in 0..NEWS {
                let news = other.event("misbehave:t", "news").await.expect("each of the news");
                assert_eq!(json(news)["n"], n);
                if n % AT_ONCE == AT_ONCE - 1 {
                    heard.send(()).expect("the sender waits");
                }
            }
            other.heartbeat().await.expect("answered").status
        }));
    }
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let fill = "x".repeat(8000);
    for n in 0..NEWS {
        pace.tick().await;
        let news = json!({ "topic": "misbehave:t", "event": "news", "payload": { "n": n, "fill": fill } });
        sender.push("misbehave:from", "broadcast_to", news).await.expect("sent");
        if n % AT_ONCE == AT_ONCE - 1 {
            // However busy the machine is, they keep up.
            for _ in 0..OTHERS {
                tokio::time::timeout(DEADLINE, has_heard.recv())
                    .await
                    .expect("all have heard it");
            }
        }
    }
    for reader in readers {
        assert_eq!(reader.await.expect("all of them"), "ok");
    }
    // It was behind indeed.
    reaches(server.admin().await, "bennu_slow_consumers_total", 1).await;
    reads.abort();
}
