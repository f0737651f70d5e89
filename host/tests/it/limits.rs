//! What clients see when a limit is reached, and when the server goes.

use bennu_tools::client::{Client, ClientError, Frame, Incoming, Message, Options, RawClient, Transport};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::http::{Connection, metric, plugin};
use crate::support::server::{Bench, Server};

const BOTH: [Transport; 2] = [Transport::WebSocket, Transport::LongPoll];

async fn connect(server: &Server, transport: Transport) -> Client {
    let options = Options::new(server.address, transport);
    Client::connect(&options).await.expect("connected")
}

async fn joined(server: &Server, transport: Transport) -> Client {
    let mut client = connect(server, transport).await;
    client.join("misbehave:t", json!({})).await.expect("joined");
    client
}

async fn raw(server: &Server, transport: Transport) -> RawClient {
    let options = Options::new(server.address, transport);
    RawClient::connect(&options).await.expect("connected")
}

/// A message of the first join.
fn frame(number: u32, event: &str, payload: &str) -> Frame {
    Frame::Text(format!(r#"["1","{number}","misbehave:t","{event}",{payload}]"#))
}

fn message(incoming: Result<Incoming, ClientError>) -> Message {
    match incoming.expect("a message") {
        Incoming::Frame(frame) => Message::decode(&frame).expect("a message"),
        Incoming::Closed { code } => panic!("closed with {code}"),
    }
}

#[tokio::test]
async fn a_silent_websocket_is_closed_with_1002() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "100");
    let server = bench.serve().await;
    let mut client = connect(&server, Transport::WebSocket).await;
    assert!(matches!(client.next().await, Err(ClientError::Closed { code: 1002 })));
}

#[tokio::test]
async fn what_a_client_is_sent_is_no_sign_of_its_life() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "300");
    let server = bench.serve().await;
    let mut silent = joined(&server, Transport::WebSocket).await;
    let mut talking = joined(&server, Transport::WebSocket).await;
    let end = tokio::spawn(async move {
        let mut sent = 0;
        loop {
            match silent.next().await {
                Ok(_) => sent += 1,
                Err(ClientError::Closed { code }) => return (code, sent),
                Err(error) => panic!("{error}"),
            }
        }
    });
    while !end.is_finished() {
        let news = json!({ "event": "news" });
        talking.push("misbehave:t", "broadcast", news).await.expect("sent");
        talking.event("misbehave:t", "news").await.expect("back");
    }
    let (code, sent) = end.await.expect("closed");
    assert_eq!(code, 1002);
    assert!(sent > 0, "it was sent to all the time");
}

#[tokio::test]
async fn a_message_that_is_too_large_closes_a_websocket_with_1009() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = raw(&server, Transport::WebSocket).await;
    let mut largest = r#"[null,"1","phoenix","heartbeat",{}]"#.to_owned();
    largest.push_str(&" ".repeat(65_536 - largest.len()));
    client.send(Frame::Text(largest)).await.expect("sent");
    assert!(
        matches!(client.next().await, Ok(Incoming::Frame(_))),
        "that was no byte too much"
    );
    client.send(Frame::Text("x".repeat(65_537))).await.expect("sent");
    assert!(matches!(client.next().await, Ok(Incoming::Closed { code: 1009 })));
}

#[tokio::test]
async fn another_size_of_messages_holds_at_once_for_websockets_that_are_open() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = raw(&server, Transport::WebSocket).await;
    let heartbeat = |bytes: usize| {
        let text = r#"[null,"1","phoenix","heartbeat",{}]"#;
        text.to_owned() + &" ".repeat(bytes - text.len())
    };
    bench.set("limits", "max_message_bytes", "100_000");
    server.log.line(&["configuration replaced"]).await;
    client.send(Frame::Text(heartbeat(100_000))).await.expect("sent");
    assert!(matches!(client.next().await, Ok(Incoming::Frame(_))));
    bench.set("limits", "max_message_bytes", "1_000");
    server.log.nth_line(1, &["configuration replaced"]).await;
    client.send(Frame::Text(heartbeat(1_000))).await.expect("sent");
    assert!(matches!(client.next().await, Ok(Incoming::Frame(_))));
    client.send(Frame::Text(heartbeat(1_001))).await.expect("sent");
    assert!(matches!(client.next().await, Ok(Incoming::Closed { code: 1009 })));
}

#[tokio::test]
async fn a_full_mailbox_refuses_events_and_nothing_else() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for transport in BOTH {
        let mut client = raw(&server, transport).await;
        client.send(frame(1, "phx_join", "{}")).await.expect("sent");
        let mut frames = vec![frame(2, "sleep", r#"{"ms":1500}"#)];
        frames.extend((3..100).map(|n| frame(n, "echo", "{}")));
        // What the host owes a channel always has room.
        frames.push(frame(100, "phx_leave", "{}"));
        client.send_all(frames).await.expect("sent");
        let (mut ok, mut overloaded) = (0, 0);
        loop {
            let message = message(client.next().await);
            match (message.event.as_str(), message.status.as_deref()) {
                ("phx_close", _) => break,
                (_, Some("ok")) => ok += 1,
                _ => {
                    assert_eq!(message.payload, json!({ "reason": "overloaded" }).into());
                    overloaded += 1;
                }
            }
        }
        assert_eq!(ok + overloaded, 100, "each is answered");
        // Fifty may wait, join and sleep among them or not: how many the plugin has in its hands depends on the threads.
        assert!(ok >= 51 && overloaded > 0, "{ok} were taken, {overloaded} refused");
    }
}

#[tokio::test]
async fn topics_that_nobody_got_into_are_closed_once() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "linger_ms", "20");
    let server = bench.serve().await;
    let mut client = connect(&server, Transport::WebSocket).await;
    // Each refusal leaves the topic empty, and looks whether it still is a moment later: many looks at one time.
    for topic in 0..20 {
        for _ in 0..5 {
            let topic = format!("misbehave:{topic}");
            let refused = client.join(&topic, json!({ "do": "refuse" })).await.expect("answered");
            assert_eq!(refused.status, "error");
        }
    }
    let admin = server.admin().await;
    let gone = async {
        while plugin(admin, "misbehave").await["topics"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("no topic is left");
    let events = metric(admin, "bennu_plugin_events_total{plugin=\"misbehave\"}").await;
    assert!(events <= 200, "a hundred joins, and at most as many closes: {events}");
}

#[tokio::test]
async fn what_waits_for_all_topics_of_a_plugin_together_is_bounded() {
    const TOPICS: [&str; 2] = ["misbehave:1", "misbehave:2"];
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_mailbox_total_bytes", "1_048_576");
    let server = bench.serve().await;
    let mut client = raw(&server, Transport::WebSocket).await;
    let to = |topic: &str, number: u32, event: &str, payload: &str| {
        Frame::Text(format!(r#"["1","{number}","{topic}","{event}",{payload}]"#))
    };
    let large = format!(r#""{}""#, "x".repeat(60_000));
    for topic in TOPICS {
        client.send(to(topic, 1, "phx_join", "{}")).await.expect("sent");
        assert_eq!(message(client.next().await).status.as_deref(), Some("ok"));
    }
    // Either has room for all that is sent to it, but not both. What was refused or has been handled takes none: the second time
    // it is as the first.
    for (topics, all_fit) in [(&TOPICS[..], false), (&TOPICS[..1], true), (&TOPICS[..], false)] {
        for topic in topics {
            client
                .send(to(topic, 2, "sleep", r#"{"ms":1000}"#))
                .await
                .expect("sent");
        }
        for number in 3..20 {
            for topic in topics {
                client.send(to(topic, number, "echo", &large)).await.expect("sent");
            }
        }
        let mut refused = 0;
        for _ in 0..18 * topics.len() {
            refused += usize::from(message(client.next().await).status.as_deref() != Some("ok"));
        }
        assert_eq!(refused == 0, all_fit, "{refused} were refused");
    }
}

#[tokio::test]
async fn a_topic_waits_for_its_end_once_however_often_it_is_left() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = connect(&server, Transport::WebSocket).await;
    for _ in 0..20 {
        client.join("misbehave:t", json!({})).await.expect("joined");
        client.leave("misbehave:t").await.expect("left");
    }
    assert_eq!(metric(server.admin().await, "bennu_timers").await, 1);
}

#[tokio::test]
async fn a_rejoin_right_behind_a_leave_gets_all_answers() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for transport in BOTH {
        let mut client = raw(&server, transport).await;
        let frames = [
            r#"["1","1","misbehave:t","phx_join",{}]"#,
            r#"["1","2","misbehave:t","phx_leave",{}]"#,
            r#"["3","3","misbehave:t","phx_join",{}]"#,
        ];
        client.send_all(frames.map(Frame::from).into()).await.expect("sent");
        let mut got = Vec::new();
        for _ in 0..4 {
            match client.next().await {
                Ok(Incoming::Frame(Frame::Text(text))) => got.push(text),
                other => panic!("{other:?} after {got:?}"),
            }
        }
        got.sort();
        assert_eq!(
            got,
            [
                r#"["1","1","misbehave:t","phx_close",{}]"#,
                r#"["1","1","misbehave:t","phx_reply",{"response":{},"status":"ok"}]"#,
                r#"["1","2","misbehave:t","phx_reply",{"response":{},"status":"ok"}]"#,
                r#"["3","3","misbehave:t","phx_reply",{"response":{},"status":"ok"}]"#,
            ]
        );
    }
}

#[tokio::test]
async fn a_client_of_version_1_without_join_refs_can_tell_which_of_its_joins_has_ended() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for transport in BOTH {
        let mut options = Options::new(server.address, transport);
        options.vsn = Some("1.0.0".to_owned());
        let mut client = RawClient::connect(&options).await.expect("connected");
        let frames = [("phx_join", 1), ("phx_leave", 2), ("phx_join", 3)].map(|(event, number)| {
            let message = json!({"topic": "misbehave:t", "event": event, "payload": {}, "ref": number.to_string()});
            Frame::from(&*message.to_string())
        });
        client.send_all(frames.into()).await.expect("sent");
        let mut got = Vec::new();
        for _ in 0..4 {
            let message = match client.next().await {
                Ok(Incoming::Frame(Frame::Text(text))) => serde_json::from_str::<Value>(&text).expect("JSON"),
                other => panic!("{other:?} after {got:?}"),
            };
            got.push(format!("{} {}", message["event"], message["ref"]));
        }
        got.sort();
        let replies = [1, 2, 3].map(|number| format!(r#""phx_reply" "{number}""#));
        assert_eq!(got[0], r#""phx_close" "1""#);
        assert_eq!(got[1..], replies);
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_closes_everyone_with_1012() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(joined(&server, Transport::WebSocket).await);
    }
    let mut polling = joined(&server, Transport::LongPoll).await;
    server.signal(Signal::TERM);
    for mut client in clients {
        let end = client.next().await.expect_err("nothing else is said");
        assert!(matches!(end, ClientError::Closed { code: 1012 }), "{end}");
    }
    let end = polling.next().await.expect_err("nothing else is said");
    assert!(matches!(end, ClientError::Closed { code: 1006 }), "{end}");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_server_that_stops_opens_no_session_for_a_client_that_polls_on() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut connection = Connection::open(server.address).await;
    connection.send("GET", "/socket/longpoll?vsn=2.0.0", "", "").await;
    let opened = connection.answer().await.json();
    let token = opened["token"].as_str().expect("a token");
    connection
        .send("GET", &format!("/socket/longpoll?vsn=2.0.0&token={token}"), "", "")
        .await;
    server.signal(Signal::TERM);
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (503, ""));
    assert!(server.ended().await.success());
}
