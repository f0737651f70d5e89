//! Which pages may connect: what a plugin decides, what the request itself says, and every refusal by long polling.

use serde_json::{Value, json};

use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::request;
use crate::support::server::{Bench, Server};

async fn serve() -> (Bench, Server) {
    let bench = Bench::new();
    bench.append(
        r#"
        [[mounts]]
        path = "/asked"
        check_origin = { plugin = "misbehave" }

        [[mounts]]
        path = "/pages/asked"
        check_origin = { plugin = "misbehave" }

        [[mounts]]
        path = "/conn"
        check_origin = "conn"

        [[mounts]]
        path = "/open"
        check_origin = false
        "#,
    );
    let server = bench.serve().await;
    (bench, server)
}

/// Whether a page may connect, by both transports alike.
async fn check(server: &Server, mount: &str, origin: &str, allowed: bool) {
    let origin = format!("origin: {origin}\r\n");
    let (path, headers) = (format!("{mount}/websocket?vsn=2.0.0"), format!("{UPGRADE}{origin}"));
    let answer = request(server.address, "GET", &path, &headers, "").await;
    let expected = if allowed { 101 } else { 403 };
    assert_eq!((answer.status, &*answer.body), (expected, ""), "{mount} {origin}");
    for method in ["GET", "POST", "OPTIONS"] {
        let path = format!("{mount}/longpoll?vsn=2.0.0");
        let answer = request(server.address, method, &path, &origin, "").await;
        assert_eq!(answer.status, 200);
        let status = if method == "OPTIONS" && allowed {
            Value::Null
        } else {
            answer.json()["status"].clone()
        };
        let expected = match (method, allowed) {
            (_, false) => json!(403),
            // No session yet.
            ("GET" | "POST", true) => json!(410),
            _ => Value::Null,
        };
        assert_eq!(status, expected, "{method} {mount} {origin}");
    }
}

#[tokio::test]
async fn a_plugin_decides_about_origins_those_without_a_host_too() {
    let (_bench, server) = serve().await;
    check(&server, "/asked", "https://open.example", true).await;
    check(&server, "/asked", "HTTPS://Open.example:443", true).await;
    check(&server, "/asked", "http://open.example", false).await;
    check(&server, "/asked", "https://other.example", false).await;
    check(&server, "/asked", "file://", false).await;
    check(&server, "/pages/asked", "file://", true).await;
    check(&server, "/asked", "null", false).await;
    check(&server, "/asked", "", false).await;
    let answer = request(server.address, "GET", "/asked/websocket?vsn=2.0.0", UPGRADE, "").await;
    assert_eq!(answer.status, 101, "without an origin nobody is asked");
}

#[tokio::test]
async fn a_plugin_that_panics_at_an_origin_refuses_it_and_goes_on() {
    let (_bench, server) = serve().await;
    check(&server, "/asked", "https://panic.example", false).await;
    server.log.line(&["plugin panicked", "callback=\"check_origin\""]).await;
    check(&server, "/asked", "https://open.example", true).await;
}

#[tokio::test]
async fn while_the_plugin_that_decides_is_out_of_service_pages_are_told_to_come_back() {
    let bench = Bench::new();
    bench.append("[[mounts]]\npath = \"/asked\"\ncheck_origin = { plugin = \"misbehave\" }");
    for (key, value) in [("on_panics", "\"out_of_service\""), ("max_panics", "1")] {
        bench.set("plugins.misbehave", key, value);
    }
    let server = bench.serve().await;
    check(&server, "/asked", "https://open.example", true).await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "panic", json!({})).await;
    server.log.line(&["plugin taken out of service"]).await;
    let page = "origin: https://open.example\r\n";
    for (path, headers) in [
        ("/asked/websocket?vsn=2.0.0", format!("{UPGRADE}{page}")),
        ("/asked/longpoll?vsn=2.0.0", page.to_owned()),
    ] {
        let answer = request(server.address, "GET", path, &headers, "").await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("1")),
            "{path}"
        );
    }
    let refused = ["client refused", "reason=\"plugin_unavailable\"", "plugin misbehave"];
    server.log.nth_line(1, &refused).await;
    assert_eq!(server.log.count(&["reason=\"origin\""]), 0);
}

#[tokio::test]
async fn a_plugin_that_does_not_say_anything_about_origins_refuses_all() {
    let bench = Bench::new();
    bench.append("[[mounts]]\npath = \"/asked\"\ncheck_origin = { plugin = \"echo\" }");
    let server = bench.serve().await;
    check(&server, "/asked", "https://open.example", false).await;
}

#[tokio::test]
async fn conn_takes_pages_of_the_address_that_the_request_went_to() {
    let (_bench, server) = serve().await;
    let port = server.address.port();
    check(&server, "/conn", &format!("http://127.0.0.1:{port}"), true).await;
    check(&server, "/conn", &format!("https://127.0.0.1:{port}"), false).await;
    check(&server, "/conn", &format!("http://localhost:{port}"), false).await;
    check(&server, "/conn", "http://127.0.0.1", false).await;
    check(&server, "/conn", "null", false).await;
}

#[tokio::test]
async fn without_a_check_every_origin_may_connect() {
    let (_bench, server) = serve().await;
    for origin in ["https://evil.example", "null", "file://", ""] {
        check(&server, "/open", origin, true).await;
    }
}

#[tokio::test]
async fn by_long_polling_every_refusal_is_status_403() {
    let (_bench, server) = serve().await;
    let check = async |path: &str| {
        let answer = request(server.address, "GET", path, "", "").await;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"status":403}"#), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    };
    for query in [
        "vsn=2.1.0",
        "vsn=3.0.0",
        "vsn=2.0",
        "vsn=123.1.1",
        "vsn=",
        "vsn[]=2.0.0",
    ] {
        check(&format!("/socket/longpoll?{query}")).await;
    }
    for token in ["closed", "teapot", "busy", "panic", "list", "hang"] {
        check(&format!("/gate/longpoll?vsn=2.0.0&token={token}")).await;
    }
}
