//! TLS by the server itself: the same conversations, the same limits, and what is said of those who do not speak it.

use std::time::Duration;

use bennu_tools::client::Transport;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version;

use super::secure_address;
use crate::handshake::UPGRADE;
use crate::support::authority::{secure_bench, upgraded};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::http::{get, metric};
use crate::support::wire::frame;
use crate::support::within;

/// The entry of `/closes` about the last client that was refused for this reason.
async fn refused(admin: std::net::SocketAddr, reason: &str) -> serde_json::Value {
    let found = async {
        loop {
            let page = get(admin, &format!("/closes?reason={reason}")).await.json();
            if let Some(entry) = page["closes"].as_array().and_then(|closes| closes.first()) {
                return entry.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    within(reason, found).await
}

#[tokio::test]
async fn clients_talk_over_tls_by_either_transport() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    // In several records, and in several parts of the server's buffer.
    let large = "x".repeat(60_000);
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let options = authority.options(&bench, address, transport);
        let (mut one, mut other) = (
            Client::connect_with(&options).await,
            Client::connect_with(&options).await,
        );
        for client in [&mut one, &mut other] {
            client.join("room:1", json!({ "name": "ann" })).await;
            client.join("echo:1", json!({})).await;
        }
        for payload in [json!({ "n": 1 }), json!({ "large": large })] {
            assert_eq!(one.push("echo:1", "echo", payload.clone()).await, payload);
        }
        one.push("room:1", "new_msg", json!({ "body": "hello" })).await;
        assert_eq!(other.event("room:1", "new_msg").await["body"], "hello");
    }
}

#[tokio::test]
async fn many_messages_at_once_arrive_whole_and_in_order() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let mut client = Client::connect_with(&authority.options(&bench, address, Transport::WebSocket)).await;
    client.join("echo:1", json!({})).await;
    let mut asked = Vec::new();
    for n in 0..300 {
        let payload = json!({ "n": n, "filler": "y".repeat(n * 20) });
        asked.push((client.start("echo:1", "echo", payload.clone()).await, payload));
    }
    for (reference, payload) in asked {
        assert_eq!(client.answer(&reference).await["response"], payload);
    }
}

#[tokio::test]
async fn the_request_is_known_to_be_secure() {
    let (bench, authority) = secure_bench();
    bench.append(
        "[[mounts]]\npath = \"/see\"\nconnect = \"misbehave\"\nconnect_info = [\"uri\", \"peer_data\"]\ncheck_origin = \"conn\"",
    );
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let mut options = authority.options(&bench, address, Transport::WebSocket);
    options.mount = "/see".into();
    options.params = vec![("token".into(), "seen".into())];
    let origin = format!("https://{address}").parse().expect("a value");
    options.headers.insert("origin", origin);
    let mut client = Client::connect_with(&options).await;
    client.join("misbehave:t", json!({})).await;
    let seen = client.push("misbehave:t", "whoami", json!({})).await;
    assert_eq!(seen["socket"]["uri"], "https://127.0.0.1/see/websocket", "{seen}");
    assert_eq!(seen["socket"]["port"], address.port());
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so_and_noted() {
    let (bench, _authority) = secure_bench();
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let answer = get(address, "/socket/websocket").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("this port speaks TLS"), "{}", answer.body);
    let entry = refused(admin, "tls").await;
    assert_eq!(
        (&entry["detail"], &entry["status"]),
        (&json!("HTTP without TLS"), &json!(400))
    );

    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await.expect("sent");
    let mut rest = Vec::new();
    // An alert, and the end.
    let _ = within("end", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest.first(), Some(&21), "{rest:?}");
    assert_eq!(metric(admin, "bennu_refused_total{reason=\"tls\"}").await, 2);
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends_by_the_deadline_of_a_head() {
    let (bench, _authority) = secure_bench();
    bench.set("limits", "header_timeout_ms", "200");
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("sent");
    let mut rest = Vec::new();
    let _ = within("end", stream.read_to_end(&mut rest)).await;
    refused(admin, "request_timeout").await;
}

#[tokio::test]
async fn an_old_version_of_tls_is_refused_where_it_is_not_allowed() {
    let (bench, authority) = secure_bench();
    bench.write_config(&bench.read_config().replace(
        "[[tls.certificates]]",
        "[tls]\nmin_version = \"1.3\"\n\n[[tls.certificates]]",
    ));
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let old = authority.connect(address, "localhost", &[&version::TLS12]).await;
    old.expect_err("refused");
    let entry = refused(admin, "tls").await;
    let detail = entry["detail"].as_str().expect("a detail");
    assert!(detail.contains("Tls12NotOffered"), "{detail}");
    let new = authority.connect(address, "localhost", &[&version::TLS13]).await;
    new.expect("it is allowed");
}

/// A WebSocket over TLS, byte by byte.
async fn open(authority: &crate::support::authority::Authority, address: std::net::SocketAddr) -> Raw {
    upgraded(authority.connected(address, "localhost").await).await
}

type Raw = tokio_rustls::client::TlsStream<TcpStream>;

#[tokio::test]
async fn a_record_that_is_not_finished_has_the_deadline_of_a_message() {
    let (bench, authority) = secure_bench();
    bench.set("limits", "message_timeout_ms", "200");
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let mut stream = open(&authority, address).await;
    // Half of a record that would carry application data, below TLS.
    let (tcp, _) = stream.get_mut();
    tcp.write_all(&[0x17, 3, 3, 0x10, 0, 1, 2, 3]).await.expect("sent");
    let mut rest = Vec::new();
    let _ = within("end", stream.read_to_end(&mut rest)).await;
    let entry = refused(admin, "unfinished_message").await;
    assert_eq!(entry["code"], 1002);
}

#[tokio::test]
async fn what_was_changed_on_its_way_ends_the_connection() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let mut stream = open(&authority, address).await;
    let (tcp, _) = stream.get_mut();
    let record = [&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat();
    tcp.write_all(&record).await.expect("sent");
    let mut rest = Vec::new();
    let _ = within("end", stream.read_to_end(&mut rest)).await;
    refused(admin, "connection_lost").await;
    // Others notice nothing.
    let mut other = Client::connect_with(&authority.options(&bench, address, Transport::WebSocket)).await;
    other.join("echo:1", json!({})).await;
}

#[tokio::test]
async fn the_request_and_the_first_frames_may_come_in_one_record() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let mut stream = authority.connected(address, "localhost").await;
    let request = format!("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\n{UPGRADE}\r\n");
    let join = frame(0x81, br#"["1","1","echo:1","phx_join",{}]"#);
    let pings: Vec<u8> = (0..2_000).flat_map(|_| frame(0x89, b"1234567890")).collect();
    let all = [request.as_bytes(), &join, &pings].concat();
    stream.write_all(&all).await.expect("sent");
    // The answer to the request, that to the join, and a pong for each ping.
    let mut heard = Vec::new();
    let is_whole = |heard: &[u8]| {
        let pongs = heard.windows(12).filter(|at| at.starts_with(&[0x8a, 10])).count();
        pongs == 2_000 && String::from_utf8_lossy(heard).contains("\"phx_reply\"")
    };
    while !is_whole(&heard) {
        let mut piece = [0; 16_384];
        let read = within("answers", stream.read(&mut piece)).await.expect("read");
        assert!(read > 0, "it ended after {} bytes", heard.len());
        heard.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_and_others_get_everything() {
    let (bench, authority) = secure_bench();
    bench.set("limits", "max_outbound_bytes", "200_000");
    let server = bench.serve().await;
    let (address, admin) = (secure_address(&server).await, server.admin().await);
    let mut lazy = open(&authority, address).await;
    lazy.write_all(&frame(0x81, br#"["1","1","misbehave:1","phx_join",{}]"#))
        .await
        .expect("sent");
    let mut one = Client::connect_with(&authority.options(&bench, address, Transport::WebSocket)).await;
    one.join("misbehave:1", json!({})).await;
    let message = json!({ "event": "much", "payload": { "text": "z".repeat(30_000) } });
    let closed = async {
        let mut sent = 0;
        loop {
            one.start("misbehave:1", "broadcast", message.clone()).await;
            one.event("misbehave:1", "much").await;
            sent += 1;
            let page = get(admin, "/closes?reason=too_slow").await.json();
            if page["closes"].as_array().is_some_and(|closes| !closes.is_empty()) {
                return sent;
            }
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .expect("closed");
    assert!(sent > 5, "after {sent} messages");
}

#[tokio::test]
async fn a_stop_says_goodbye_by_tls() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let mut client = Client::connect_with(&authority.options(&bench, address, Transport::WebSocket)).await;
    client.join("echo:1", json!({})).await;
    let mut raw = open(&authority, address).await;
    let stopped = tokio::spawn(server.stop());
    assert_eq!(client.close_code().await, 1012);
    let mut rest = Vec::new();
    // rustls returns an error where TLS was cut off without a goodbye.
    within("end", raw.read_to_end(&mut rest)).await.expect("a proper end");
    assert_eq!(&rest[..4], [0x88, rest[1], 0x03, 0xf4], "{rest:?}");
    assert!(stopped.await.expect("stopped").success());
}

#[tokio::test]
async fn bennu_call_reaches_it() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let url = format!("wss://localhost:{}", secure_address(&server).await.port());
    let ca = bench.path("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("written");
    let call = move || {
        run(|command| {
            let args = ["call", &url, "echo:1", "echo", "{\"n\": 1}", "--ca"];
            command.args(args).arg(ca)
        })
    };
    let (_, said, complained) = tokio::task::spawn_blocking(call).await.expect("it runs");
    assert_eq!(said, "{\"n\":1}\n", "{complained}");
}
