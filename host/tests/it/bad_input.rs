//! What ends a process of Phoenix, or is answered there with 500: here it ends one connection at most, and nobody else
//! notices.

use bennu_tools::client::{Frame, Incoming, Options, RawClient, Transport};
use serde_json::{Value, json};

use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::request;
use crate::support::server::{Bench, Server};

/// Somebody else on the same topic, who is to notice nothing.
struct Watcher {
    client: Client,
    counted: u64,
}

impl Watcher {
    async fn new(server: &Server) -> Self {
        let client = Client::joined(server, "misbehave:t").await;
        Self { client, counted: 0 }
    }

    /// Has got nothing, and is answered by the same channel as before.
    async fn notices_nothing(&mut self, of: &str) {
        self.counted += 1;
        let count = self.client.push("misbehave:t", "count", json!({})).await;
        assert_eq!(count["member"], self.counted, "after {of}");
        assert_eq!(self.client.rest().await, [], "after {of}");
    }
}

async fn raw(server: &Server, transport: Transport, vsn: Option<&str>) -> RawClient {
    let mut options = Options::new(server.address, transport);
    options.vsn = vsn.map(str::to_owned);
    RawClient::connect(&options).await.expect("connected")
}

async fn text(client: &mut RawClient) -> Value {
    match client.next().await.expect("an answer") {
        Incoming::Frame(Frame::Text(text)) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_message_ends_its_own_connection_and_nobody_elses() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut watcher = Watcher::new(&server).await;
    let deep = "[".repeat(60_000);
    for (vsn, frame) in [
        (Some("2.0.0"), Frame::from("nonsense")),
        (Some("2.0.0"), Frame::from("")),
        (Some("2.0.0"), Frame::from("{}")),
        (Some("2.0.0"), Frame::from(r#"["1","1","misbehave:t","count"]"#)),
        (Some("2.0.0"), Frame::from(&*deep)),
        (Some("2.0.0"), Frame::Binary(vec![9].into())),
        (Some("2.0.0"), Frame::Binary(vec![0, 255, 255, 255, 255].into())),
        (Some("2.0.0"), Frame::Binary(vec![0, 0, 0, 1, 0, 255].into())),
        (None, Frame::from("nonsense")),
        (None, Frame::from("[]")),
        (
            None,
            Frame::from(r#"{"topic":"misbehave:t","event":"count","payload":{}}"#),
        ),
        (None, Frame::Binary(vec![0xff].into())),
    ] {
        let of = format!("{vsn:?} {frame:.60?}");
        let mut client = raw(&server, Transport::WebSocket, vsn).await;
        client.send(frame).await.expect("sent");
        let end = client.next().await.expect("an end");
        assert!(matches!(end, Incoming::Closed { code: 1011 }), "{of}: {end:?}");
        watcher.notices_nothing(&of).await;
    }
}

#[tokio::test]
async fn what_ends_a_channel_or_a_session_of_phoenix_is_answered_and_the_connection_goes_on() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut watcher = Watcher::new(&server).await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut client = raw(&server, transport, Some("2.0.0")).await;
        for (sent, status) in [
            (r#"["1","1","misbehave:u","phx_join",{"do":"panic"}]"#, "error"),
            (r#"["2","2","misbehave:u","phx_join",{"do":"invalid"}]"#, "error"),
            (r#"["3","3","misbehave:u","phx_join",{"do":7}]"#, "error"),
            (r#"["4","4","misbehave:u","phx_join",{}]"#, "ok"),
            (r#"["4","5","misbehave:u",{"no":"event"},{}]"#, "error"),
            (r#"["4","6","misbehave:u",null,null]"#, "error"),
            (r#"["4","7","misbehave:u","phx_close",{}]"#, "error"),
            (r#"["4","8","misbehave:u","phx_reply",{}]"#, "error"),
            (r#"["4","9","misbehave:u","nobody knows",{}]"#, "error"),
            (r#"["4","10","misbehave:u","push",7]"#, "error"),
            (r#"["4","11",["no","topic"],"push",{}]"#, "error"),
            (r#"["4","12","misbehave:u","count",{}]"#, "ok"),
        ] {
            client.send(Frame::from(sent)).await.expect("sent");
            let answer = text(&mut client).await;
            assert_eq!(answer[4]["status"], status, "{sent} {answer}");
            watcher.notices_nothing(sent).await;
        }
    }
}

/// What crashes a session of Phoenix, or its HTTP handler.
#[tokio::test]
async fn no_request_is_answered_with_500() {
    let bench = Bench::new();
    bench.append("[[mounts]]\npath = \"/tokens\"\nconnect = \"misbehave\"\nauth_token = true");
    let server = bench.serve().await;
    let mut watcher = Watcher::new(&server).await;
    let opened = request(server.address, "GET", "/socket/longpoll?vsn=2.0.0", "", "").await;
    let opened = opened.json();
    let token = opened["token"].as_str().expect("a token");
    let live = format!("/socket/longpoll?vsn=2.0.0&token={token}");
    let ndjson = "content-type: application/x-ndjson\r\n";
    let bearer = format!("{UPGRADE}sec-websocket-protocol: phoenix, base64url.bearer.phx.%%%\r\n");
    for (method, path, headers, body, status) in [
        ("POST", &*live, "", "", 200),
        ("POST", &live, "", "{\"topic\":", 200),
        ("POST", &live, ndjson, "A===", 200),
        ("POST", &live, ndjson, "\n", 200),
        ("POST", &live, ndjson, "\u{0}", 200),
        ("GET", "/socket/longpoll?vsn[]=2.0.0", "", "", 200),
        ("GET", "/socket/websocket?vsn[]=2.0.0", UPGRADE, "", 403),
        ("GET", "/socket/websocket?vsn=%ff", UPGRADE, "", 400),
        ("GET", "/socket/longpoll?token=%", "", "", 200),
        ("GET", "/tokens/websocket?vsn=2.0.0&token=open", &bearer, "", 403),
        ("GET", "/tokens/websocket?vsn=2.0.0&token=panic", UPGRADE, "", 403),
        ("PUT", &live, "", "", 400),
    ] {
        let answer = request(server.address, method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body:?}: {}", answer.body);
        watcher.notices_nothing(path).await;
    }
    let posted = request(
        server.address,
        "POST",
        &live,
        "",
        r#"[null,"1","phoenix","heartbeat",{}]"#,
    )
    .await;
    assert_eq!(posted.json()["status"], 200, "the session goes on");
    let polled = request(server.address, "GET", &live, "", "").await;
    assert_eq!(polled.json()["status"], 200, "and is heard");
}

#[tokio::test]
async fn a_header_field_that_a_binary_message_has_no_room_for_is_refused_to_the_plugin_by_its_name() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:t").await;
    client.start("misbehave:t", "invalid_field", json!({})).await;
    for field in ["its event has 256 bytes", "its status has 256 bytes"] {
        server.log.line(&[field, "room for 255", "misbehave:t"]).await;
    }
    assert_eq!(client.push("misbehave:t", "count", json!({})).await["member"], 1);
    assert_eq!(client.rest().await, []);
    let long = format!("misbehave:{}", "t".repeat(250));
    let mut other = Client::joined(&server, &long).await;
    other.start(&long, "push_binary", json!({})).await;
    server.log.line(&["its topic has 260 bytes", "room for 255"]).await;
    assert_eq!(other.push(&long, "count", json!({})).await["member"], 1);
}
