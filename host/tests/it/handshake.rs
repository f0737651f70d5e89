//! Who may open a WebSocket, and what the others are answered.

use bennu_tools::client::{ClientError, Frame, Incoming, Options, RawClient, Transport};
use http::HeaderValue;

use crate::support::http::{Answer, request};
use crate::support::server::{Bench, Server};

/// What a browser sends besides its origin.
pub(crate) const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn refused(server: &Server, path: &str, headers: &str) -> Answer {
    request(server.address, "GET", path, &format!("{UPGRADE}{headers}"), "").await
}

#[tokio::test]
async fn what_asks_for_no_websocket_is_told_what_is_missing() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let path = "/socket/websocket?vsn=2.0.0";
    let answer = request(server.address, "GET", path, "", "").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("connection: upgrade"), "{}", answer.body);
    for method in ["POST", "PUT", "OPTIONS"] {
        let answer = request(server.address, method, path, UPGRADE, "").await;
        assert_eq!((answer.status, &*answer.body), (400, ""), "{method}");
    }
    let other = UPGRADE.replace("13", "8");
    let answer = request(server.address, "GET", path, &other, "").await;
    assert_eq!(
        (answer.status, answer.header("sec-websocket-version")),
        (426, Some("13"))
    );
    for path in ["/other/websocket?vsn=2.0.0", "/socket/other", "/socket", "/"] {
        assert_eq!(refused(&server, path, "").await.status, 404, "{path}");
    }
}

/// `new Socket("/socket/")` asks for the first of these.
#[tokio::test]
async fn empty_segments_of_a_path_are_ignored() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for path in ["/socket//websocket", "//socket/websocket", "/socket/websocket/"] {
        let path = format!("{path}?vsn=2.0.0");
        let answer = request(server.address, "GET", &path, "", "").await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains("connection: upgrade"), "{path}: {}", answer.body);
    }
    for path in ["/socket//longpoll", "/socket/longpoll/", "/ws//poll", "/ws/poll/"] {
        let answer = request(server.address, "GET", &format!("{path}?vsn=2.0.0"), "", "").await;
        assert_eq!(answer.json()["status"], 410, "{path}");
    }
    for path in ["/soc//ket/websocket", "/socket/web/socket", "/socketwebsocket"] {
        assert_eq!(refused(&server, path, "").await.status, 404, "{path}");
    }
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.mount = "/socket/".to_owned();
    RawClient::connect(&options).await.expect("connected");
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_gets_403() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let check = async |mount: &str, origin: &str, allowed: bool| {
        let mut options = Options::new(server.address, Transport::WebSocket);
        options.mount = mount.to_owned();
        let origin = HeaderValue::from_str(origin).expect("a header");
        options.headers.insert(http::header::ORIGIN, origin.clone());
        match RawClient::connect(&options).await {
            Ok(_) => assert!(allowed, "{mount} {origin:?}"),
            Err(ClientError::Refused { status: 403, body }) => {
                assert!(!allowed && body.is_empty(), "{mount} {origin:?}")
            }
            Err(error) => panic!("{error}"),
        }
    };
    check("/socket", "http://localhost:9", true).await;
    check("/socket", "http://evil.example", false).await;
    check("/socket", "http://localhost.evil.example", false).await;
    check("/socket", "null", false).await;
    check("/socket", "file://", false).await;
    check("/gate", "https://example.com", true).await;
    check("/gate", "https://example.com:444", false).await;
    check("/gate", "https://a.example.com", false).await;
    check("/gate", "http://example.org", true).await;
    check("/gate", "http://a.b.example.org", true).await;
    check("/gate", "http://prefix-example.org", false).await;
}

#[tokio::test]
async fn a_version_that_is_not_spoken_gets_403() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for query in ["vsn=2.1.0", "vsn=3.0.0", "vsn=2.0", "vsn=", "vsn[]=2.0.0"] {
        let answer = refused(&server, &format!("/socket/websocket?{query}"), "").await;
        assert_eq!((answer.status, &*answer.body), (403, ""), "{query}");
    }
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.vsn = Some("2.0.7".into());
    RawClient::connect(&options).await.expect("a patch changes nothing");
}

#[tokio::test]
async fn the_version_decides_how_messages_are_written() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let objects = [None, Some("1.0.0"), Some("1.0.7")].map(|vsn| (vsn, true));
    let arrays = [Some("2.0.0"), Some("2.0.5")].map(|vsn| (vsn, false));
    for (vsn, objects) in objects.into_iter().chain(arrays) {
        for transport in [Transport::WebSocket, Transport::LongPoll] {
            let mut options = Options::new(server.address, transport);
            options.vsn = vsn.map(str::to_owned);
            let mut client = RawClient::connect(&options).await.expect("connected");
            let (heartbeat, answer) = if objects {
                (
                    r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#,
                    r#"{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":"1","topic":"phoenix"}"#,
                )
            } else {
                (
                    r#"[null,"1","phoenix","heartbeat",{}]"#,
                    r#"[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]"#,
                )
            };
            client.send(Frame::from(heartbeat)).await.expect("sent");
            let got = client.next().await.expect("an answer");
            assert!(
                matches!(&got, Incoming::Frame(Frame::Text(text)) if text == answer),
                "{vsn:?} {got:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_connect_handler_says_how_a_client_is_refused() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for (token, status, body) in [
        ("closed", 403, r#"{"reason":"closed"}"#),
        ("teapot", 418, ""),
        ("busy", 429, r#"{"retry_after":7}"#),
        ("panic", 403, ""),
        ("list", 403, ""),
        // One that does not answer in time.
        ("hang", 503, ""),
    ] {
        let path = format!("/gate/websocket?vsn=2.0.0&token={token}");
        let answer = refused(&server, &path, "origin: https://example.com\r\n").await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{token}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_its_body_is() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let check = async |token: &str, content_type: Option<&str>| {
        let answer = refused(&server, &format!("/gate/websocket?vsn=2.0.0&token={token}"), "").await;
        assert_eq!(answer.header("content-type"), content_type, "{token}");
    };
    check("busy", Some("application/json; charset=utf-8")).await;
    check("binary", Some("application/octet-stream")).await;
    check("teapot", None).await;
}

/// Each of these is wrong in all that comes after it as well, so the answers tell in which order is asked.
#[tokio::test]
async fn origin_comes_before_token_before_subprotocol_before_version_before_connect_before_upgrade() {
    let bench = Bench::new();
    bench.append(
        r#"
        [[mounts]]
        path = "/order"
        connect = "misbehave"
        auth_token = true
        check_origin = ["https://example.com"]
        "#,
    );
    let server = bench.serve().await;
    let check = async |query: &str, headers: &str, status: u16, said: &[&str]| {
        let path = format!("/order/websocket?{query}");
        let answer = request(server.address, "GET", &path, headers, "").await;
        assert_eq!(answer.status, status, "{query} {headers}");
        server.log.line(said).await;
    };
    let query = "vsn=3.0.0&token=teapot";
    let bad_token = "sec-websocket-protocol: other, base64url.bearer.phx.!\r\n";
    let headers = format!("origin: https://evil.example\r\n{bad_token}");
    check(query, &headers, 403, &["origin refused", "evil.example"]).await;
    check(query, bad_token, 403, &["the auth token is not base64-encoded UTF-8"]).await;
    let other = "sec-websocket-protocol: other\r\n";
    check(
        query,
        other,
        403,
        &["the mount supports none of the requested subprotocols"],
    )
    .await;
    check(query, "", 403, &["client refused", "3.0.0"]).await;
    check("vsn=2.0.0&token=teapot", "", 418, &["result=\"refused\"", "status=418"]).await;
    check("vsn=2.0.0&token=open", "", 400, &["result=\"ok\""]).await;
}
