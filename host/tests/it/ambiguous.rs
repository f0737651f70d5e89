//! Requests that a proxy and the server could read in two ways are refused.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::handshake::UPGRADE;
use crate::support::server::Bench;
use crate::support::within;

const POLL: &str = "GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\n";
const POST: &str = "POST /socket/longpoll?vsn=2.0.0&token=none HTTP/1.1\r\nhost: a\r\n";

/// All that comes back until the server closes the connection.
async fn answers(address: SocketAddr, request: &str) -> String {
    let mut stream = within("connection", TcpStream::connect(address))
        .await
        .expect("a connection");
    within("request", stream.write_all(request.as_bytes()))
        .await
        .expect("sent");
    let mut answers = Vec::new();
    within("answers", stream.read_to_end(&mut answers))
        .await
        .expect("an end");
    String::from_utf8(answers).expect("text")
}

/// The status of the answer and the last line of its body, to a request whose last header is `connection: close`.
async fn answer(address: SocketAddr, head: &str) -> (String, String) {
    let text = answers(address, &format!("{head}connection: close\r\n\r\n")).await;
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, text.lines().last().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_request_of_http_1_1_has_one_host() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let check = async |head: &str, expected: &str| {
        let (status, body) = answer(server.address, head).await;
        assert_eq!((&*status, &*body), ("400", expected), "{head}");
    };
    check(POLL, "the request has no Host header").await;
    let twice = "the request has more than one host header";
    check(&format!("{POLL}host: a\r\nhost: a\r\n"), twice).await;
    check(&format!("{POLL}host: a\r\nHost: b\r\n"), twice).await;
    check(&format!("{POLL}host: a, b\r\n"), "the Host header is not a host").await;
    check("GET /elsewhere HTTP/1.1\r\n", "the request has no Host header").await;
    check(&POLL.replace("HTTP/1.1", "HTTP/1.0\r\nhost: a\r\nhost: b"), twice).await;
    for head in [&format!("{POLL}host: a\r\n"), &POLL.replace("1.1", "1.0")] {
        assert_eq!(answer(server.address, head).await.0, "200", "{head}");
    }
    for head in [
        "GET /plugins HTTP/1.1\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n",
    ] {
        assert_eq!(answer(admin, head).await.0, "400", "{head}");
    }
    assert_eq!(
        answer(admin, "GET /health HTTP/1.1\r\nhost: localhost\r\n").await.0,
        "200"
    );
}

#[tokio::test]
async fn a_request_with_two_origins_is_refused_whichever_comes_first() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let (good, evil) = ("origin: http://localhost:9\r\n", "origin: http://evil.example\r\n");
    let upgrade = UPGRADE.replace("connection: upgrade\r\n", "");
    for head in [
        format!("{POLL}host: a\r\n"),
        format!("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n{upgrade}"),
        "OPTIONS /socket/longpoll HTTP/1.1\r\nhost: a\r\n".to_owned(),
        "GET /ws HTTP/1.1\r\nhost: a\r\n".to_owned(),
    ] {
        for origins in [[good, evil], [evil, good], [good, good]] {
            let head = format!("{head}{}", origins.concat());
            let (status, body) = answer(server.address, &head).await;
            assert_eq!(
                (&*status, &*body),
                ("400", "the request has more than one origin header"),
                "{head}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_the_next_one_on_its_connection_not_read() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let smuggled = "GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    for lengths in [
        format!("content-length: 5\r\n{chunked}"),
        format!("{chunked}content-length: 5\r\n"),
        format!("{chunked}accept: */*\r\nContent-LENGTH:5\r\n"),
        "content-length: 5\r\ncontent-length: 6\r\n".to_owned(),
        "transfer-encoding: gzip\r\n".to_owned(),
    ] {
        let text = answers(server.address, &format!("{POST}{lengths}\r\n0\r\n\r\n{smuggled}")).await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{lengths}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{lengths}: {text}");
    }
}

#[tokio::test]
async fn a_body_in_chunks_is_taken_also_after_one_with_a_length() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut stream = within("connection", TcpStream::connect(server.address))
        .await
        .expect("a connection");
    let bodies = [
        "content-length: 20\r\n\r\nx\ncontent-length: 1\n",
        "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ];
    for body in [bodies[0], bodies[1], bodies[1], bodies[0], bodies[1]] {
        within("request", stream.write_all(format!("{POST}{body}").as_bytes()))
            .await
            .expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            within("answer", stream.read_buf(&mut answer)).await.expect("an answer");
        }
        let text = String::from_utf8(answer).expect("text");
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with(r#"{"status":410}"#),
            "{body}: {text}"
        );
    }
}
