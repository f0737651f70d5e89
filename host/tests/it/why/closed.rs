//! Each way in which a connection ends, over real sockets.

use bennu_tools::client::{Client as Plain, Frame, Options, RawClient, Transport};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{MANY, entry, entry_of};
use crate::support::client::Client;
use crate::support::http::{get, metric};
use crate::support::server::{Bench, Server};
use crate::support::wire::{Wire, header};

/// More than the system keeps of a connection's unread bytes.
const FLOOD: &str = r#"["1","2","misbehave:t","flood",{"count":1000,"bytes":8000}]"#;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.set("log", "client_burst", MANY);
    bench
}

/// The entry says who ended the connection, with which code, and why; so do the log and the metrics.
async fn check(server: &Server, entry: &Value, by: &str, code: Option<u16>, reason: &str) {
    assert_eq!(entry["outcome"], "closed", "{entry}");
    assert_eq!(entry["by"], by, "{entry}");
    assert_eq!(entry["code"], json!(code), "{entry}");
    assert_eq!(entry["reason"], reason, "{entry}");
    let connection = entry["connection"].as_u64().expect("a number");
    let mut parts = vec![
        "connection closed".to_owned(),
        format!("connection={connection} "),
        format!("peer={} ", entry["peer"].as_str().expect("an address")),
        format!("by=\"{by}\""),
        format!("reason=\"{reason}\""),
    ];
    parts.extend(code.map(|code| format!("code={code} ")));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    server.log.line(&parts).await;
    let code = code.map_or("none".to_owned(), |code| code.to_string());
    let counter = format!("bennu_closes_total{{code=\"{code}\",reason=\"{reason}\"}}");
    assert!(metric(server.admin().await, &counter).await > 0, "{counter}");
}

/// A client in `misbehave:t` of which the system keeps little.
async fn slow(server: &Server) -> RawClient {
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.receive_buffer_bytes = Some(131_072);
    let mut client = RawClient::connect(&options).await.expect("connected");
    let join = r#"["1","1","misbehave:t","phx_join",{}]"#;
    client.send(Frame::from(join)).await.expect("sent");
    client.next().await.expect("the join's reply");
    client
}

#[tokio::test]
async fn what_a_client_does_on_the_wire() {
    let server = bench().serve().await;
    let admin = server.admin().await;
    for (first, payload, by, code, reason, detail) in [
        (
            0x81,
            &b"\xff"[..],
            "server",
            1007,
            "invalid_text",
            Some("text is not UTF-8"),
        ),
        (0x81, b"{", "server", 1011, "undecodable_message", Some("")),
        (
            0xc1,
            b"[]",
            "server",
            1002,
            "protocol_error",
            Some("a reserved bit is set"),
        ),
        (0x88, &1000_u16.to_be_bytes(), "client", 1000, "client_closed", None),
        (0x88, &1001_u16.to_be_bytes(), "client", 1001, "client_closed", None),
        (0x88, b"", "client", 1005, "client_closed", None),
    ] {
        let mut wire = Wire::open(&server).await;
        wire.send(first, payload).await;
        let entry = entry_of(admin, wire.address()).await;
        check(&server, &entry, by, Some(code), reason).await;
        match detail {
            None => assert_eq!(entry["detail"], Value::Null),
            Some(detail) => assert!(
                entry["detail"].as_str().is_some_and(|said| said.contains(detail)),
                "{entry}"
            ),
        }
        assert_eq!(
            (&entry["mount"], &entry["transport"], &entry["vsn"]),
            (&json!("/socket"), &json!("websocket"), &json!("2.0.0"))
        );
    }
    let mut own = Wire::open(&server).await;
    own.send(0x88, &4321_u16.to_be_bytes()).await;
    let entry = entry_of(admin, own.address()).await;
    assert_eq!(
        (&entry["reason"], &entry["code"]),
        (&json!("client_closed"), &json!(4321))
    );
    let counter = "bennu_closes_total{code=\"4xxx\",reason=\"client_closed\"}";
    assert_eq!(metric(admin, counter).await, 1, "clients make up no labels");
    let mut large = Wire::open(&server).await;
    large.write(&header(0x81, 70_000)).await;
    let entry = entry_of(admin, large.address()).await;
    check(&server, &entry, "server", Some(1009), "message_too_large").await;
    let gone = Wire::open(&server).await;
    let peer = gone.address();
    gone.vanish();
    check(
        &server,
        &entry_of(admin, peer).await,
        "network",
        Some(1006),
        "connection_lost",
    )
    .await;
}

#[tokio::test]
async fn an_entry_says_how_long_and_how_much() {
    let server = bench().serve().await;
    let admin = server.admin().await;
    let mut wire = Wire::open(&server).await;
    let beat = br#"[null,"1","phoenix","heartbeat",{}]"#;
    let mut answers = 0;
    for _ in 0..3 {
        wire.send(0x81, beat).await;
        answers += 2 + wire.next().await.1.len();
    }
    wire.send(0x88, b"").await;
    let entry = entry_of(admin, wire.address()).await;
    assert_eq!((&entry["messages_in"], &entry["messages_out"]), (&json!(3), &json!(3)));
    assert_eq!(
        (&entry["bytes_in"], &entry["bytes_out"]),
        (&json!(3 * beat.len()), &json!(answers))
    );
    assert!(entry["lasted_ms"].as_u64() >= entry["silent_ms"].as_u64(), "{entry}");
    assert_eq!(metric(admin, "bennu_bytes_in_total").await, 3 * beat.len() as u64);
    assert_eq!(metric(admin, "bennu_bytes_out_total").await, answers as u64);
}

#[tokio::test]
async fn silence_and_a_message_without_an_end() {
    let bench = bench();
    bench.set("limits", "message_timeout_ms", "300");
    let server = bench.serve().await;
    let mut wire = Wire::open(&server).await;
    wire.write(&[0x81, 0xfe]).await;
    let entry = entry_of(server.admin().await, wire.address()).await;
    check(&server, &entry, "server", Some(1002), "unfinished_message").await;
    drop(server);
    bench.set("limits", "idle_timeout_ms", "300");
    let server = bench.serve().await;
    let wire = Wire::open(&server).await;
    let entry = entry_of(server.admin().await, wire.address()).await;
    check(&server, &entry, "server", Some(1002), "idle").await;
    assert!(entry["silent_ms"].as_u64() >= Some(300), "{entry}");
}

#[tokio::test]
async fn unfinished_messages_that_are_too_much_together() {
    let bench = bench();
    bench.set("server", "io_threads", "1");
    bench.set("limits", "max_inbound_total_bytes", "1_048_576");
    let server = bench.serve().await;
    let part = [header(0x82, 65_000), vec![0; 60_000]].concat();
    let mut wires = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::open(&server).await;
        wire.write(&part).await;
        wires.push(wire);
    }
    let entry = entry(server.admin().await, "reason=unfinished_total").await;
    check(&server, &entry, "server", Some(1013), "unfinished_total").await;
}

#[tokio::test]
async fn clients_that_do_not_read() {
    let bench = bench();
    bench.set("limits", "max_outbound_bytes", "100_000");
    let server = bench.serve().await;
    let mut client = slow(&server).await;
    client.send(Frame::from(FLOOD)).await.expect("sent");
    let slow_entry = entry(server.admin().await, "reason=too_slow").await;
    check(&server, &slow_entry, "server", Some(1013), "too_slow").await;
    assert_eq!(slow_entry["topics"], 1);
    assert!(slow_entry["unsent_bytes"].as_u64() > Some(0), "{slow_entry}");
    drop((client, server));

    bench.set("server", "io_threads", "1");
    bench.set("limits", "max_outbound_bytes", "8_000_000");
    bench.set("limits", "max_outbound_total_bytes", "2_000_000");
    let server = bench.serve().await;
    let mut client = slow(&server).await;
    client.send(Frame::from(FLOOD)).await.expect("sent");
    let entry_of_all = entry(server.admin().await, "reason=unsent_total").await;
    check(&server, &entry_of_all, "server", Some(1006), "unsent_total").await;
    drop((client, server));

    bench.set("limits", "max_outbound_total_bytes", "64_000_000");
    bench.set("limits", "idle_timeout_ms", "500");
    let server = bench.serve().await;
    let mut client = slow(&server).await;
    client.send(Frame::from(FLOOD)).await.expect("sent");
    // It sends all the while, so it is not silent.
    let beats = async {
        loop {
            let beat = r#"[null,"1","phoenix","heartbeat",{}]"#;
            if client.send(Frame::from(beat)).await.is_err() {
                return std::future::pending::<()>().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let admin = server.admin().await;
    let stuck = tokio::select! {
        () = beats => unreachable!("it goes on"),
        stuck = entry(admin, "reason=not_reading") => stuck,
    };
    check(&server, &stuck, "server", Some(1006), "not_reading").await;
}

#[tokio::test]
async fn a_disconnect_names_the_client() {
    let server = bench().serve().await;
    let admin = server.admin().await;
    let mut by = Client::joined(&server, "misbehave:t").await;
    for (transport, code) in [(Transport::WebSocket, Some(1001)), (Transport::LongPoll, None)] {
        let mut options = Options::new(server.address, transport);
        options.mount = "/gate".into();
        let user = transport.name();
        options.params = vec![("token".into(), "open".into()), ("user".into(), user.into())];
        let ann = Plain::connect(&options).await.expect("connected");
        by.start("misbehave:t", "disconnect", json!({ "topic": format!("user:{user}") }))
            .await;
        let entry = entry(admin, &format!("socket_id=user%3A{user}")).await;
        check(&server, &entry, "plugin", code, "disconnected").await;
        assert_eq!(
            (&entry["socket_id"], &entry["mount"]),
            (&json!(format!("user:{user}")), &json!("/gate"))
        );
        drop(ann);
    }
}

#[tokio::test]
async fn sessions_of_long_polling() {
    let bench = bench();
    bench.set(
        "mounts",
        "longpoll",
        "{ window_ms = 300, max_buffer_messages = 200, max_buffer_bytes = 262_144 }",
    );
    let server = bench.serve().await;
    let admin = server.admin().await;
    let opened = get(server.address, "/socket/longpoll?vsn=2.0.0").await.json();
    assert_eq!(opened["status"], 410);
    let unpolled = entry(admin, "reason=not_polled").await;
    check(&server, &unpolled, "network", None, "not_polled").await;
    assert_eq!(unpolled["transport"], "longpoll");
    let mut lagging = Client::connect_by(&server, Transport::LongPoll).await;
    lagging.join("misbehave:t", json!({})).await;
    lagging.start("misbehave:t", "flood", json!({ "count": 500 })).await;
    let lagging = entry(admin, "reason=too_slow").await;
    check(&server, &lagging, "server", None, "too_slow").await;
}

#[tokio::test]
async fn a_server_that_stops_says_that_an_operator_did_it() {
    let bench = bench();
    let mut server = bench.serve().await;
    let _client = Client::joined(&server, "echo:1").await;
    let _session = get(server.address, "/socket/longpoll?vsn=2.0.0").await;
    server.signal(Signal::TERM);
    let of = ["connection closed", "by=\"operator\"", "reason=\"server_restarts\""];
    server
        .log
        .line(&[&of[..], &["transport=\"websocket\"", "code=1012 "]].concat())
        .await;
    let session = server.log.line(&[&of[..], &["transport=\"longpoll\""]].concat()).await;
    assert!(!session.contains("code="), "{session}");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_client_cannot_flood_the_log_by_connecting() {
    let bench = Bench::new();
    bench.set("log", "client_burst", "2");
    bench.set("log", "client_pause_ms", "60_000");
    let server = bench.serve().await;
    let admin = server.admin().await;
    for _ in 0..5 {
        let mut wire = Wire::open(&server).await;
        wire.send(0x88, b"").await;
        entry_of(admin, wire.address()).await;
    }
    assert_eq!(server.log.count(&["connection closed"]), 2);
    assert_eq!(
        metric(admin, "bennu_log_lines_left_out_total{kind=\"closed\"}").await,
        3
    );
    assert_eq!(
        metric(admin, "bennu_closes_total{code=\"1005\",reason=\"client_closed\"}").await,
        5
    );
}
