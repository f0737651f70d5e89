//! The auth token that comes in a header, and the subprotocols beside which it travels.

use bennu_tools::client::{Client, ClientError, Options, Transport};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::handshake::UPGRADE;
use crate::support::http::{Answer, request};
use crate::support::server::{Bench, Server};

/// `s3cret?~` in base64 as phoenix.js writes it.
const ENCODED: &str = "base64url.bearer.phx.czNjcmV0P34";

async fn serve() -> (Bench, Server) {
    let bench = Bench::new();
    bench.append(
        r#"
        [[mounts]]
        path = "/tokens"
        connect = "misbehave"
        auth_token = true
        connect_info = ["sec_websocket_headers", "x_headers"]

        [[mounts]]
        path = "/chat"
        subprotocols = ["chat.2", "chat.1"]
        "#,
    );
    let server = bench.serve().await;
    (bench, server)
}

/// What the connect handler saw of a client that sends this header.
async fn seen(
    server: &Server,
    mount: &str,
    transport: Transport,
    name: &'static str,
    value: &str,
) -> Result<Value, u16> {
    let mut options = Options::new(server.address, transport);
    options.mount = mount.to_owned();
    options.params = vec![("token".into(), "seen".into())];
    let value = HeaderValue::from_str(value).expect("a header");
    options.headers.insert(HeaderName::from_static(name), value);
    let mut client = match Client::connect(&options).await {
        Ok(client) => client,
        Err(ClientError::Refused { status, .. }) => return Err(status),
        Err(error) => panic!("{error}"),
    };
    client.join("misbehave:t", json!({})).await.expect("joined");
    let reply = client.call("misbehave:t", "whoami", json!({})).await.expect("a reply");
    let reply: &Value = reply.json().expect("JSON");
    Ok(reply["socket"].clone())
}

/// The answer to a handshake that offers these subprotocols; of a WebSocket it is the head.
async fn offer(server: &Server, path: &str, offered: &str) -> Answer {
    let headers = match offered {
        "" => UPGRADE.to_owned(),
        offered => format!("{UPGRADE}sec-websocket-protocol: {offered}\r\n"),
    };
    request(server.address, "GET", path, &headers, "").await
}

#[tokio::test]
async fn the_connect_handler_gets_the_token_of_either_transport() {
    let (_bench, server) = serve().await;
    let protocol = "sec-websocket-protocol";
    let both = format!("phoenix, {ENCODED}");
    let by_websocket = seen(&server, "/tokens", Transport::WebSocket, protocol, &both).await;
    let by_websocket = by_websocket.expect("connected");
    assert_eq!(by_websocket["auth_token"], "s3cret?~");
    assert!(
        !by_websocket["headers"].to_string().contains("bearer"),
        "{by_websocket}"
    );
    let header = "x-phoenix-authtoken";
    let by_longpoll = seen(&server, "/tokens", Transport::LongPoll, header, "s3cret?~").await;
    assert_eq!(by_longpoll.expect("connected")["auth_token"], "s3cret?~");
}

#[tokio::test]
async fn without_being_asked_for_no_token_is_handed_on() {
    let (_bench, server) = serve().await;
    let header = "x-phoenix-authtoken";
    let seen = seen(&server, "/gate", Transport::LongPoll, header, "s3cret?~").await;
    assert_eq!(seen.expect("connected")["auth_token"], Value::Null);
    let path = "/gate/websocket?vsn=2.0.0&token=open";
    let answer = offer(&server, path, &format!("phoenix, {ENCODED}")).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
}

#[tokio::test]
async fn beside_a_token_phoenix_is_agreed_upon() {
    let (_bench, server) = serve().await;
    let check = async |offered: &str, status: u16, agreed: Option<&str>| {
        let answer = offer(&server, "/tokens/websocket?vsn=2.0.0&token=open", offered).await;
        let found = (answer.status, answer.header("sec-websocket-protocol"), &*answer.body);
        assert_eq!(found, (status, agreed, ""), "{offered}");
    };
    check("", 101, None).await;
    check("phoenix", 101, Some("phoenix")).await;
    check(&format!("phoenix, {ENCODED}"), 101, Some("phoenix")).await;
    check(&format!("{ENCODED}, phoenix"), 101, Some("phoenix")).await;
    // Two tokens are none, and none is fine.
    check(&format!("phoenix, {ENCODED}, {ENCODED}"), 101, Some("phoenix")).await;
    check(ENCODED, 101, None).await;
    check("other", 403, None).await;
}

#[tokio::test]
async fn a_token_that_is_no_base64_of_text_is_refused() {
    let (_bench, server) = serve().await;
    for token in ["!", "czNjc", "_w"] {
        let path = "/tokens/websocket?vsn=2.0.0&token=open";
        let answer = offer(&server, path, &format!("phoenix, base64url.bearer.phx.{token}")).await;
        assert_eq!((answer.status, &*answer.body), (403, ""), "{token}");
    }
}

#[tokio::test]
async fn the_first_subprotocol_of_the_configuration_that_a_client_offers_is_echoed() {
    let (_bench, server) = serve().await;
    let check = async |path: &str, offered: &str, status: u16, agreed: Option<&str>| {
        let answer = offer(&server, path, offered).await;
        let found = (answer.status, answer.header("sec-websocket-protocol"));
        assert_eq!(found, (status, agreed), "{offered}");
    };
    let chat = "/chat/websocket?vsn=2.0.0";
    check(chat, "", 101, None).await;
    check(chat, "chat.1", 101, Some("chat.1")).await;
    check(chat, "other, chat.1, chat.2", 101, Some("chat.2")).await;
    check(chat, "other", 403, None).await;
    check("/socket/websocket?vsn=2.0.0", "other", 101, None).await;
}
