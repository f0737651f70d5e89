//! Limits of requests, and that none of them delays a channel.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Backend, bench, reason, refused, shown};
use crate::support::client::Client;
use crate::support::http::{metric, request};
use crate::support::within;

#[tokio::test]
async fn bodies_lists_and_heads_have_a_limit() {
    let bench = bench();
    bench.set("api", "max_body_bytes", "4_096");
    bench.set("api", "max_list", "3");
    bench.set("api", "max_header_bytes", "8_192");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let body = |bytes: usize| json!({ "topic": "echo:1", "event": "a", "payload": "x".repeat(bytes) });
    assert_eq!(backend.post("/api/broadcast", body(4_000)).await.0, 200);
    assert_eq!(
        reason(backend.post("/api/broadcast", body(4_096)).await),
        refused(413, "too_large")
    );
    let list = |count: usize| json!(vec![json!({ "topic": "echo:1", "event": "a" }); count]);
    assert_eq!(backend.post("/api/broadcast", list(3)).await.0, 200);
    assert_eq!(
        reason(backend.post("/api/broadcast", list(4)).await),
        refused(413, "too_many")
    );
    // In pieces, without a length.
    let chunk = format!("{:x}\r\n{}\r\n", 5_000, " ".repeat(5_000));
    let mut stream = TcpStream::connect(backend.address).await.expect("connected");
    let head = format!(
        "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n{}\r\n",
        backend.header()
    );
    stream.write_all((head + &chunk).as_bytes()).await.expect("sent");
    assert!(begins(&mut stream).await.starts_with("HTTP/1.1 413"));
    let long = format!("{}x-long: {}\r\n", backend.header(), "x".repeat(9_000));
    assert_eq!(
        request(backend.address, "GET", "/api/topics", &long, "").await.status,
        431
    );
    let two = format!("{}transfer-encoding: chunked\r\n", backend.header());
    assert_eq!(
        request(backend.address, "POST", "/api/broadcast", &two, "")
            .await
            .status,
        400
    );
}

/// What an answer begins with.
async fn begins(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 64];
    let read = within("an answer", stream.read(&mut bytes)).await.expect("an answer");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_json() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    for path in ["/", "/api", "/api/broadcast/", "/metrics"] {
        assert_eq!(reason(backend.get(path).await), refused(404, "not_found"), "{path}");
    }
    let wrong = request(backend.address, "DELETE", "/api/broadcast", &backend.header(), "").await;
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(reason(shown(wrong)), refused(405, "method_not_allowed"));
}

#[tokio::test]
async fn a_body_that_comes_slowly_is_answered_with_408_and_counts_as_a_request_until_then() {
    let bench = bench();
    bench.set("api", "body_timeout_ms", "700");
    bench.set("api", "max_concurrent", "2");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let slow = async || {
        let mut stream = TcpStream::connect(backend.address).await.expect("connected");
        let head = format!(
            "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n{}\r\n{{",
            backend.header()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    };
    let mut slow = [slow().await, slow().await];
    let admin = server.admin().await;
    while metric(admin, "bennu_api_running").await != 2 {}
    assert_eq!(metric(admin, "bennu_api_running_limit").await, 2);
    let third = request(backend.address, "GET", "/api/topics", &backend.header(), "").await;
    assert_eq!(third.header("retry-after"), Some("1"));
    assert_eq!(reason(shown(third)), refused(503, "overloaded"));
    for stream in &mut slow {
        assert!(begins(stream).await.starts_with("HTTP/1.1 408"));
    }
    assert_eq!(backend.get("/api/topics").await.0, 200);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_requests_that_have_not_come() {
    let bench = bench();
    bench.set("server", "shutdown_timeout_ms", "60_000");
    for key in [
        "body_timeout_ms",
        "header_timeout_ms",
        "idle_timeout_ms",
        "response_timeout_ms",
    ] {
        bench.set("api", key, "60_000");
    }
    let mut server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut sent = Vec::new();
    let half_a_body = format!("content-length: 100\r\n{}\r\n{{", backend.header());
    for rest in ["", "host: loc", &half_a_body] {
        let mut stream = TcpStream::connect(backend.address).await.expect("connected");
        let head = format!("POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\n{rest}");
        stream.write_all(head.as_bytes()).await.expect("sent");
        sent.push(stream);
    }
    // Nothing was asked on this one.
    sent.push(TcpStream::connect(backend.address).await.expect("connected"));
    let admin = server.admin().await;
    while metric(admin, "bennu_api_running").await != 1 || metric(admin, "bennu_api_connections").await != 4 {}
    server.signal(rustix::process::Signal::TERM);
    assert!(begins(&mut sent[2]).await.starts_with("HTTP/1.1 503"));
    assert!(within("end", server.ended()).await.success());
}

#[tokio::test]
async fn connections_have_a_limit() {
    let bench = bench();
    bench.set("api", "max_connections", "2");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let held = [backend.connection().await, backend.connection().await];
    let admin = server.admin().await;
    while metric(admin, "bennu_api_connections").await != 2 {}
    let mut third = TcpStream::connect(backend.address).await.expect("connected");
    let read = within("its end", third.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    drop(held);
    while metric(admin, "bennu_api_connections").await != 0 {}
    assert_eq!(backend.get("/api/topics").await.0, 200);
    assert_eq!(
        metric(admin, "bennu_api_refused_total{reason=\"connections\"}").await,
        1
    );
}

#[tokio::test]
async fn huge_and_slow_requests_do_not_delay_a_channel() {
    let bench = bench();
    bench.set("api", "body_timeout_ms", "60_000");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(backend.address).await.expect("connected");
        let head = format!(
            "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n{}\r\n[",
            backend.header()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    let deep = r#"{"deep":[[[["x"]]]]},"#.repeat(200_000);
    let huge = format!(r#"{{"topic":"echo:nobody","event":"a","payload":[{deep}0]}}"#);
    let mut asking = Vec::new();
    for _ in 0..4 {
        let (mut connection, header, huge) = (backend.connection().await, backend.header(), huge.clone());
        asking.push(tokio::spawn(async move {
            connection.send("POST", "/api/broadcast", &header, &huge).await;
            connection.answer().await.status
        }));
    }
    let mut client = Client::joined(&server, "echo:1").await;
    // Where an echo waits for a request, there are as many of them as requests.
    let mut echoes = 0;
    while asking.iter().any(|asking| !asking.is_finished()) {
        client.push("echo:1", "echo", json!({ "n": echoes })).await;
        echoes += 1;
    }
    assert!(echoes > 20, "{echoes} only");
    for asking in asking {
        // Larger than a payload may be: refused after all of it was read.
        assert_eq!(asking.await.expect("no panic"), 413);
    }
    drop(slow);
}

#[tokio::test]
async fn a_refusal_that_comes_before_a_small_body_keeps_the_connection() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut stream = TcpStream::connect(backend.address).await.expect("connected");
    for _ in 0..3 {
        let head = "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("sent");
        tokio::task::yield_now().await;
        stream.write_all(b"0123456789").await.expect("sent");
        let mut answer = String::new();
        while !answer.ends_with('}') {
            answer += &begins(&mut stream).await;
        }
        assert!(
            answer.starts_with("HTTP/1.1 401") && !answer.contains("connection: close"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_huge_body_reads_why_it_is_refused() {
    let bench = bench();
    bench.set("api", "max_body_bytes", "4_096");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut connection = backend.connection().await;
    let huge = "x".repeat(20 << 20);
    connection
        .send("POST", "/api/broadcast", &backend.header(), &huge)
        .await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    assert_eq!(answer.json()["reason"], "too_large");
}

#[tokio::test]
async fn the_head_of_the_first_request_has_its_own_time() {
    let bench = bench();
    bench.set("api", "header_timeout_ms", "300");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    for half in ["", "GET /api/topics HTTP/1.1\r\nho"] {
        let mut stream = TcpStream::connect(backend.address).await.expect("connected");
        stream.write_all(half.as_bytes()).await.expect("sent");
        let read = within("its end", stream.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{half}");
    }
    // Between two requests there is more time: until the slow client is gone.
    let mut idle = backend.connection().await;
    idle.send("GET", "/api/topics", &backend.header(), "").await;
    assert_eq!(idle.answer().await.header("keep-alive"), Some("timeout=75"));
    let mut slow = TcpStream::connect(backend.address).await.expect("connected");
    let read = within("its end", slow.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    idle.send("GET", "/api/topics", &backend.header(), "").await;
    assert_eq!(idle.answer().await.status, 200);
}
