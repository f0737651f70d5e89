//! What proxies say of their clients: believed of those that are trusted, and of nobody else.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::address_of;
use crate::handshake::UPGRADE;
use crate::support::http::{get, reaches};
use crate::support::server::{Bench, Server};
use crate::support::within;

/// A bench that trusts these proxies, and has a mount whose plugin says whom it sees.
fn bench(trusted: &str, more: &str) -> Bench {
    let bench = Bench::new();
    bench.append(&format!(
        "[[mounts]]\npath = \"/see\"\nconnect = \"misbehave\"\nconnect_info = [\"peer_data\", \"uri\"]\n\n\
         [proxies]\ntrusted = [{trusted}]\n{more}"
    ));
    bench
}

/// Opens a WebSocket with these bytes before the request and these headers in it. Returns the connection as the server lists it.
async fn seen(server: &Server, address: SocketAddr, before: &[u8], headers: &str) -> (TcpStream, Value) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET /see/websocket?vsn=2.0.0&token=seen HTTP/1.1\r\nhost: a\r\n{UPGRADE}{headers}\r\n");
    stream
        .write_all(&[before, request.as_bytes()].concat())
        .await
        .expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("head", stream.read_u8()).await.expect("a byte"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let found = async {
        loop {
            let page = get(server.admin().await, "/connections").await.json();
            let connections = page["connections"].as_array().expect("a list").clone();
            if let Some(connection) = connections
                .iter()
                .max_by_key(|connection| connection["connection"].as_u64())
            {
                return connection.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let connection = within("connection", found).await;
    (stream, connection)
}

/// The `peer` and the scheme that log line and plugin have of this client.
async fn check(server: &Server, address: SocketAddr, before: &[u8], headers: &str, expected: &str) {
    let (stream, connection) = seen(server, address, before, headers).await;
    let own = stream.local_addr().expect("connected").to_string();
    let expected = if expected.is_empty() { &own } else { expected };
    assert_eq!(connection["peer"], json!(expected), "{before:?} {headers}");
    drop(stream);
    let number = connection["connection"].to_string();
    let closed = [
        "connection closed",
        &format!("connection={number} "),
        &format!("peer={expected} "),
    ];
    server.log.line(&closed).await;
}

#[tokio::test]
async fn a_trusted_proxy_names_its_client_by_header() {
    let bench = bench("\"127.0.0.1\"", "");
    bench.set("log", "client_burst", "1_000");
    let server = bench.serve().await;
    let address = server.address;
    check(
        &server,
        address,
        b"",
        "x-forwarded-for: 203.0.113.7\r\n",
        "203.0.113.7:0",
    )
    .await;
    check(
        &server,
        address,
        b"",
        "x-forwarded-for: 127.0.0.1, 2001:db8::7\r\n",
        "[2001:db8::7]:0",
    )
    .await;
    check(&server, address, b"", "", "").await;
    check(&server, address, b"", "forwarded: for=203.0.113.7\r\n", "").await;
    // A change takes effect at once.
    bench.write_config(&bench.read_config().replace("trusted = [\"127.0.0.1\"]", "trusted = []"));
    server.log.line(&["configuration replaced"]).await;
    check(&server, address, b"", "x-forwarded-for: 203.0.113.7\r\n", "").await;
}

#[tokio::test]
async fn a_trusted_proxy_may_use_the_standard_header() {
    let bench = bench("\"127.0.0.0/8\"", "header = \"forwarded\"\n");
    let server = bench.serve().await;
    let forwarded = "forwarded: for=\"[2001:db8::7]:4711\";proto=https\r\nx-forwarded-for: 1.1.1.1\r\n";
    check(&server, server.address, b"", forwarded, "[2001:db8::7]:4711").await;
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client_in_both_versions_however_it_is_cut() {
    let bench = bench("\"127.0.0.1\"", "");
    bench.append("[[listeners]]\nlisten = \"127.0.0.1:0\"\nproxy_protocol = true");
    bench.set("log", "client_burst", "1_000");
    let server = bench.serve().await;
    let address = address_of(&server, "http").await;
    let text = b"PROXY TCP4 203.0.113.7 10.0.0.1 51312 443\r\n";
    check(&server, address, text, "", "203.0.113.7:51312").await;
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x70, 1, 0xbb]);
    check(&server, address, &binary, "", "203.0.113.7:51312").await;
    check(&server, address, b"PROXY UNKNOWN\r\n", "", "").await;
    // Who comes by the proxy is not one itself.
    check(
        &server,
        address,
        text,
        "x-forwarded-for: 198.51.100.1\r\n",
        "203.0.113.7:51312",
    )
    .await;

    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    for byte in [
        &text[..],
        b"GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ]
    .concat()
    {
        stream.write_all(&[byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    within("answer", stream.read_to_string(&mut answer))
        .await
        .expect("read");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_or_says_nothing_is_refused() {
    let bench = bench("\"10.0.0.0/8\"", "");
    bench.append("[[listeners]]\nlisten = \"127.0.0.1:0\"\nproxy_protocol = true");
    let server = bench.serve().await;
    let (address, admin) = (address_of(&server, "http").await, server.admin().await);
    let ends = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        // It may be closed already.
        let _ = stream.write_all(bytes).await;
        let mut rest = Vec::new();
        let _ = within("end", stream.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    };
    ends(b"PROXY TCP4 203.0.113.7 10.0.0.1 51312 443\r\n").await;
    server
        .log
        .line(&["client refused", "reason=\"proxy\"", "is not in `[proxies] trusted`"])
        .await;
    bench.write_config(&bench.read_config().replace("10.0.0.0/8", "127.0.0.1"));
    server.log.line(&["configuration replaced"]).await;
    ends(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server
        .log
        .line(&["client refused", "does not begin with a header"])
        .await;
    ends(b"PROXY TCP4 nobody nowhere 1 2\r\n").await;
    reaches(admin, "bennu_refused_total{reason=\"proxy\"}", 3).await;
}
