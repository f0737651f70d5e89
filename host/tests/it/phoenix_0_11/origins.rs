//! `origins` of a mount: which pages may connect in the dialect of Phoenix 0.11.

use bennu_tools::client::{ClientError, Options, RawClient, Transport};
use http::HeaderValue;
use http::header::ORIGIN;
use serde_json::json;

use super::{OldClient, strict};
use crate::support::http::{metric, request};
use crate::support::server::Server;

/// A client of a page at `/listed`.
fn from(server: &Server, transport: Transport, origin: &str) -> Options {
    let mut options = Options::phoenix_0_11(server.address, transport);
    options.mount = "/listed".into();
    options
        .headers
        .insert(ORIGIN, HeaderValue::from_str(origin).expect("a header"));
    options
}

#[tokio::test]
async fn an_origin_that_is_not_listed_gets_403_and_nothing_else_happens() {
    let bench = strict();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let panics = async || metric(admin, "bennu_plugin_panics_total{plugin=\"misbehave\"}").await;
    for origin in [
        "https://other.example",
        "https://example.com.other.example",
        "http://only.example:82",
        "http://only.example",
        "null",
        "file://",
        "",
    ] {
        let headers = format!("origin: {origin}\r\naccess-control-request-headers: x-a\r\n");
        for method in ["GET", "POST", "OPTIONS", "PUT"] {
            let answer = request(server.address, method, "/strict/poll?token=panic", &headers, "{").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (200, r#"{"status":403}"#),
                "{origin}"
            );
            assert!(!answer.head.contains("access-control"), "{}", answer.head);
            let answer = request(server.address, method, "/strict?token=panic", &headers, "").await;
            assert_eq!((answer.status, answer.body.as_str()), (403, ""), "{origin}");
        }
        let refused = RawClient::connect(&from(&server, Transport::WebSocket, origin)).await;
        assert!(
            matches!(refused, Err(ClientError::Refused { status: 403, .. })),
            "{origin}"
        );
    }
    assert_eq!(panics().await, 0, "no plugin was asked");
    assert_eq!(metric(admin, "bennu_sockets").await, 0);
    let headers = "origin: https://example.com\r\n";
    let asked = request(server.address, "GET", "/strict/poll?token=panic", headers, "").await;
    assert_eq!(asked.json(), json!({ "status": 403 }));
    assert!(asked.head.contains("access-control-allow-origin: *"));
    assert_eq!(panics().await, 1, "this one may ask");
}

#[tokio::test]
async fn an_origin_that_is_listed_connects_and_so_does_a_client_without_one() {
    let bench = strict();
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        for origin in ["https://example.com", "http://EXAMPLE.com:99", "http://only.example:81"] {
            let mut client = OldClient::connect_by(&from(&server, transport, origin)).await;
            assert_eq!(client.join("misbehave:t", json!({})).await, json!({}));
        }
        let mut options = from(&server, transport, "null");
        options.headers.clear();
        let mut client = OldClient::connect_by(&options).await;
        client.join("misbehave:t", json!({})).await;
        // Without a list everyone may.
        let mut options = Options::phoenix_0_11(server.address, transport);
        options.headers.insert(ORIGIN, HeaderValue::from_static("null"));
        OldClient::connect_by(&options).await;
    }
}
