//! Each way in which a client is not let in, over real sockets.

use bennu_tools::client::{Options, RawClient, Transport};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{MANY, entry};
use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::{Connection, get, metric, request};
use crate::support::server::{Bench, Server};
use crate::support::within;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.set("log", "client_burst", MANY);
    bench
}

/// The newest refusal for this reason has this status and detail; the log and the metrics say the same.
async fn check(server: &Server, reason: &str, status: Option<u16>, detail: &str) -> Value {
    let admin = server.admin().await;
    let entry = entry(admin, &format!("reason={reason}")).await;
    assert_eq!(
        (&entry["outcome"], &entry["by"]),
        (&json!("refused"), &json!("server")),
        "{entry}"
    );
    assert_eq!(entry["status"], json!(status), "{entry}");
    let said = entry["detail"].as_str().unwrap_or_default();
    assert!(said.contains(detail) && said.is_empty() == detail.is_empty(), "{entry}");
    let connection = format!("connection={} ", entry["connection"]);
    server
        .log
        .line(&["client refused", &connection, &format!("reason=\"{reason}\"")])
        .await;
    assert!(metric(admin, &format!("bennu_refused_total{{reason=\"{reason}\"}}")).await > 0);
    entry
}

/// Asks for a WebSocket. Returns the status of the answer.
async fn websocket(server: &Server, path: &str, headers: &str) -> u16 {
    request(server.address, "GET", path, &format!("{UPGRADE}{headers}"), "")
        .await
        .status
}

#[tokio::test]
async fn what_a_request_can_have_wrong() {
    let bench = bench();
    bench.append("[[mounts]]\npath = \"/tokens\"\nauth_token = true\nsubprotocols = [\"chat\"]");
    let server = bench.serve().await;
    let path = "/socket/websocket?vsn=2.0.0";
    assert_eq!(websocket(&server, "/nowhere/websocket?vsn=2.0.0", "").await, 404);
    let entry = check(&server, "no_mount", Some(404), "/nowhere/websocket").await;
    assert_eq!(
        (&entry["mount"], &entry["transport"]),
        (&Value::Null, &json!("websocket"))
    );
    assert_eq!(get(server.address, "/favicon.ico").await.status, 404);
    assert_eq!(
        metric(server.admin().await, "bennu_refused_total{reason=\"no_mount\"}").await,
        1,
        "no client"
    );

    assert_eq!(request(server.address, "POST", path, UPGRADE, "").await.status, 400);
    let entry = check(&server, "method", Some(400), "").await;
    assert_eq!(entry["mount"], "/socket");
    assert_eq!(get(server.address, path).await.status, 400);
    check(&server, "not_websocket", Some(400), "connection: upgrade").await;
    let other = UPGRADE.replace("13", "8");
    assert_eq!(request(server.address, "GET", path, &other, "").await.status, 426);
    check(&server, "websocket_version", Some(426), "13").await;
    assert_eq!(websocket(&server, "/socket/websocket?vsn=2.0.0&a=%ff", "").await, 400);
    check(&server, "query", Some(400), "").await;
    assert_eq!(websocket(&server, "/socket/websocket?vsn=9.0.0", "").await, 403);
    check(&server, "vsn", Some(403), "9.0.0").await;
    assert_eq!(websocket(&server, path, "origin: https://evil.example\r\n").await, 403);
    check(&server, "origin", Some(403), "https://evil.example").await;
    assert_eq!(
        websocket(
            &server,
            path,
            "origin: https://a.example\r\norigin: https://b.example\r\n"
        )
        .await,
        400
    );
    check(&server, "ambiguous_request", Some(400), "more than one origin header").await;
    let tokens = "/tokens/websocket?vsn=2.0.0";
    assert_eq!(
        websocket(&server, tokens, "sec-websocket-protocol: other\r\n").await,
        403
    );
    check(&server, "subprotocol", Some(403), "subprotocols").await;
    let bad = "sec-websocket-protocol: phoenix, base64url.bearer.phx.!!!\r\n";
    assert_eq!(websocket(&server, tokens, bad).await, 403);
    check(&server, "auth_token", Some(403), "base64").await;
}

#[tokio::test]
async fn long_polls_are_refused_with_the_status_of_their_body() {
    let server = bench().serve().await;
    let admin = server.admin().await;
    let polled = crate::support::http::get_with(
        server.address,
        "/socket/longpoll?vsn=2.0.0",
        "origin: https://evil.example\r\n",
    );
    assert_eq!(polled.await.json()["status"], 403);
    let refused = entry(admin, "reason=origin").await;
    assert_eq!(
        (&refused["transport"], &refused["status"]),
        (&json!("longpoll"), &json!(403))
    );
    assert_eq!(
        get(server.address, "/socket/longpoll?vsn=9.0.0").await.json()["status"],
        403
    );
    assert_eq!(entry(admin, "reason=vsn").await["transport"], "longpoll");
    assert_eq!(
        get(server.address, "/gate/longpoll?vsn=2.0.0&token=bad").await.json()["status"],
        403
    );
    assert_eq!(entry(admin, "reason=plugin").await["transport"], "longpoll");
    let origin = "origin: https://evil.example\r\n";
    let old = crate::support::http::get_with(server.address, "/ws/poll", origin).await;
    assert_eq!(old.json()["status"], 410, "its mount has no `origins`");
}

#[tokio::test]
async fn what_is_no_http_and_what_never_comes() {
    let bench = bench();
    bench.set("limits", "header_timeout_ms", "300");
    let server = bench.serve().await;
    let mut tls = TcpStream::connect(server.address).await.expect("connected");
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n";
    tls.write_all(hello).await.expect("sent");
    let peer = tls.local_addr().expect("an address");
    let entry = check(&server, "bad_http", Some(400), "HTTP").await;
    assert_eq!(entry["peer"], json!(peer));
    let mut mute = TcpStream::connect(server.address).await.expect("connected");
    mute.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    check(&server, "request_timeout", None, "").await;
    within("end", mute.read_to_end(&mut Vec::new())).await.expect("closed");
}

/// What the connect handler of `/gate` makes of this token.
async fn gate(server: &Server, token: &str) -> Option<u16> {
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/gate".into();
    options.params = vec![("token".into(), token.into())];
    match RawClient::connect(&options).await {
        Ok(_) => None,
        Err(bennu_tools::client::ClientError::Refused { status, .. }) => Some(status),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_the_connect_handler_does() {
    let bench = bench();
    bench.set("limits", "connect_timeout_ms", "300");
    let server = bench.serve().await;
    assert_eq!(gate(&server, "teapot").await, Some(418));
    let entry = check(&server, "plugin", Some(418), "misbehave").await;
    assert_eq!(entry["mount"], "/gate");
    assert_eq!(gate(&server, "panic").await, Some(403));
    check(&server, "plugin_crashed", Some(403), "misbehave").await;
    assert_eq!(gate(&server, "hang").await, Some(503));
    check(&server, "plugin_timeout", Some(503), "misbehave").await;
    assert!(
        !get(server.admin().await, "/closes").await.body.contains("teapot"),
        "params are shown nowhere"
    );
}

#[tokio::test]
async fn a_plugin_that_is_not_there() {
    let bench = bench();
    bench.put_bytes("misbehave", b"not a library\n");
    let server = bench.dev().await;
    assert_eq!(gate(&server, "open").await, Some(503));
    let entry = entry(server.admin().await, "reason=plugin_unavailable").await;
    assert_eq!((&entry["status"], &entry["mount"]), (&json!(503), &json!("/gate")));
}

#[tokio::test]
async fn a_server_that_is_full_and_one_that_stops() {
    let bench = bench();
    bench.set("limits", "max_connections", "1");
    let server = bench.serve().await;
    let client = Client::connect(&server).await;
    assert_eq!(websocket(&server, "/socket/websocket?vsn=2.0.0", "").await, 503);
    check(&server, "full", Some(503), "").await;
    assert_eq!(get(server.address, "/socket/longpoll?vsn=2.0.0").await.status, 503);
    let longpoll = async { while entry(server.admin().await, "reason=full").await["transport"] != "longpoll" {} };
    within("the refusal of a session", longpoll).await;
    drop((client, server));

    let bench = self::bench();
    let mut server = bench.serve().await;
    let mut connection = Connection::open(server.address).await;
    connection.send("GET", "/socket/longpoll?vsn=2.0.0", "", "").await;
    assert_eq!(connection.answer().await.json()["status"], 410);
    let mut client = Client::joined(&server, "misbehave:t").await;
    // The server waits for this handler, and an open connection may still send requests.
    client.start("misbehave:t", "sleep", json!({ "ms": 1_500 })).await;
    client.rest().await;
    server.signal(Signal::TERM);
    assert_eq!(client.close_code().await, 1012);
    connection.send("GET", "/socket/websocket?vsn=2.0.0", UPGRADE, "").await;
    assert_eq!(connection.answer().await.status, 503);
    server
        .log
        .line(&["client refused", "reason=\"stopping\"", "status=503 "])
        .await;
    assert!(server.ended().await.success());
}
