//! Connections that wait for their next request: for longer than load balancers keep them, and announced.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::{Connection, get};
use crate::support::server::Bench;
use crate::support::within;

#[tokio::test]
async fn an_idle_connection_outlives_the_deadline_of_a_head_and_says_for_how_long() {
    let bench = Bench::new();
    bench.set("limits", "header_timeout_ms", "200");
    let server = bench.serve().await;
    let mut connection = Connection::open(server.address).await;
    connection.send("GET", "/nothing", "", "").await;
    let answer = connection.answer().await;
    assert_eq!(answer.header("keep-alive"), Some("timeout=75"));
    assert_eq!(answer.header("connection"), Some("keep-alive"));
    // A connection that has sent nothing ends by the deadline of a head: after that one, the other would have, too.
    let mut other = TcpStream::connect(server.address).await.expect("connected");
    assert_eq!(within("end", other.read(&mut [0])).await.ok(), Some(0));
    let mut third = TcpStream::connect(server.address).await.expect("connected");
    assert_eq!(within("end", third.read(&mut [0])).await.ok(), Some(0));
    connection.send("GET", "/nothing", "", "").await;
    assert_eq!(connection.answer().await.status, 404);
}

#[tokio::test]
async fn an_idle_connection_ends_after_its_own_time() {
    let bench = Bench::new();
    bench.set("limits", "keep_alive_timeout_ms", "100");
    bench.set("limits", "header_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut connection = TcpStream::connect(server.address).await.expect("connected");
    let request = "GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n";
    connection.write_all(request.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    within("end", connection.read_to_end(&mut all)).await.expect("closed");
    let text = String::from_utf8(all).expect("text");
    assert!(text.contains("keep-alive: timeout=0\r\n"), "{text}");
}

#[tokio::test]
async fn the_head_of_a_later_request_has_its_deadline() {
    let bench = Bench::new();
    bench.set("limits", "header_timeout_ms", "200");
    let server = bench.serve().await;
    let mut connection = TcpStream::connect(server.address).await.expect("connected");
    let request = b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n";
    connection.write_all(request).await.expect("sent");
    within("answer", connection.read(&mut [0; 1_000]))
        .await
        .expect("answered");
    connection.write_all(&request[..10]).await.expect("sent");
    let mut rest = Vec::new();
    within("end", connection.read_to_end(&mut rest)).await.expect("closed");
}

#[tokio::test]
async fn a_connection_that_ends_with_its_answer_announces_nothing() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let answer = get(server.address, "/nothing").await;
    assert_eq!(
        (answer.header("connection"), answer.header("keep-alive")),
        (Some("close"), None)
    );
}
