//! What the log says of connects, and what it never says.

use bennu_tools::client::{Client, Options, Transport};
use http::HeaderValue;
use serde_json::json;

use crate::handshake::UPGRADE;
use crate::support::http::request;
use crate::support::server::{Bench, Server};

/// Part of every secret here.
const MARK: &str = "hunter2";

/// A server that says all that it can.
async fn talkative() -> (Bench, Server) {
    let bench = Bench::new();
    bench.set("log", "level", "\"trace\"");
    bench.set("log", "filter_params", "[\"pin\"]");
    bench.append("[[mounts]]\npath = \"/tokens\"\nconnect = \"misbehave\"\nauth_token = true");
    let server = bench.serve().await;
    (bench, server)
}

#[tokio::test]
async fn a_connect_is_a_line_of_the_log() {
    let (_bench, server) = talkative().await;
    let path = "/tokens/websocket?vsn=2.0.0&token=open&user=ada&nested[password]=x&mypin=1";
    request(server.address, "GET", path, UPGRADE, "").await;
    let said = server.log.line(&["INFO", "endpoint::connect", "result=\"ok\""]).await;
    for part in [
        "mount=\"/tokens\"",
        "transport=\"websocket\"",
        "vsn=\"2.0.0\"",
        "duration_us=",
        r#""mypin":"[FILTERED]""#,
        r#""nested":{"password":"[FILTERED]"}"#,
        r#""token":"[FILTERED]""#,
        r#""user":"ada""#,
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    request(server.address, "GET", "/gate/longpoll?vsn=2.0.0&token=no", "", "").await;
    let refused = ["INFO", "transport=\"longpoll\"", "result=\"refused\"", "status=403"];
    server.log.line(&refused).await;
}

#[tokio::test]
async fn what_real_clients_identify_themselves_with_is_filtered_by_default() {
    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2lnbmF0dXJl";
    let bench = Bench::new();
    // Each connects from the same address.
    bench.set("log", "client_burst", "100");
    let server = bench.serve().await;
    let names = [
        "apikey",
        "api_key",
        "x-api-key",
        "apiKey",
        "jwt",
        "auth",
        "authorization",
        "access_token",
        "key",
        "client_secret",
        "pwd",
        "sid",
    ];
    for name in names {
        let path = format!("/socket/websocket?vsn=2.0.0&user=ada&{name}={MARK}");
        request(server.address, "GET", &path, UPGRADE, "").await;
        let filtered = format!("\"{name}\":\"[FILTERED]\"");
        server
            .log
            .line(&["endpoint::connect", &filtered, "\"user\":\"ada\""])
            .await;
    }
    // Whatever it is called, and where it has no name at all.
    for query in [format!("who={JWT}"), format!("nested[a][]={JWT}"), JWT.to_owned()] {
        request(
            server.address,
            "GET",
            &format!("/socket/longpoll?vsn=2.0.0&{query}"),
            "",
            "",
        )
        .await;
    }
    server.log.nth_line(2, &["transport=\"longpoll\"", "[FILTERED]"]).await;
    let text = server.log.text();
    assert!(!text.contains(MARK) && !text.contains("eyJ"), "{text}");
}

#[tokio::test]
async fn no_secret_reaches_the_log() {
    let (_bench, server) = talkative().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        for token in ["seen", "open", MARK] {
            let mut options = Options::new(server.address, transport);
            options.mount = "/tokens".into();
            options.params = vec![
                ("token".into(), token.into()),
                ("password".into(), MARK.into()),
                ("nested[csrf_token]".into(), MARK.into()),
            ];
            // `hunter2` in base64, and as it is.
            for (name, value) in [
                ("sec-websocket-protocol", "phoenix, base64url.bearer.phx.aHVudGVyMg"),
                ("x-phoenix-authtoken", MARK),
                ("authorization", MARK),
                ("cookie", MARK),
            ] {
                options.headers.insert(name, HeaderValue::from_static(value));
            }
            let Ok(mut client) = Client::connect(&options).await else {
                assert_eq!(token, MARK, "the gate takes the others");
                continue;
            };
            client
                .join("misbehave:t", json!({ "token": MARK }))
                .await
                .expect("joined");
            client
                .call("misbehave:t", "echo", json!({ "password": MARK }))
                .await
                .expect("a reply");
        }
    }
    let opened = request(server.address, "GET", "/socket/longpoll?vsn=2.0.0", "", "")
        .await
        .json();
    let session = opened["token"].as_str().expect("a token").to_owned();
    let path = format!("/socket/longpoll?vsn=2.0.0&token={session}");
    request(server.address, "GET", &path, "", "").await;
    request(server.address, "POST", &path, "", "no message").await;
    let log = server.log.clone();
    assert!(server.stop().await.success());
    let text = log.text();
    assert!(
        text.contains("result=\"ok\"") && text.contains("result=\"refused\""),
        "{text}"
    );
    for secret in [MARK, "aHVudGVyMg", &session] {
        assert!(!text.contains(secret), "{secret} stands in the log");
    }
}
