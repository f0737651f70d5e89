//! Clients that do not read what they are sent: what it costs them, and nobody else.

use bennu::client::{Client, Frame, Incoming, Options, RawClient, Transport};
use serde_json::json;

use crate::support::http::metric;
use crate::support::server::{Bench, Server};
use crate::support::within;

/// More than the system keeps of a connection's unread bytes on the server's side, which it may let grow to 4 MiB.
const FLOOD: &str = r#"["1","2","misbehave:t","flood",{"count":1000,"bytes":8000}]"#;

/// A client in `misbehave:t` for which the system keeps little: what it does not read stays with the server.
async fn slow(server: &Server) -> RawClient {
    let mut options = Options::new(server.address, Transport::WebSocket);
    options.receive_buffer_bytes = Some(131_072);
    let mut client = RawClient::connect(&options).await.expect("connected");
    let join = r#"["1","1","misbehave:t","phx_join",{}]"#;
    client.send(Frame::from(join)).await.expect("sent");
    assert!(
        matches!(client.next().await, Ok(Incoming::Frame(_))),
        "the join's reply"
    );
    client
}

async fn end(mut client: RawClient) -> u16 {
    loop {
        match client.next().await.expect("what is left, and the end") {
            Incoming::Frame(_) => {}
            Incoming::Closed { code } => return code,
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_closed_with_1008_and_nobody_else_notices() {
    let bench = Bench::new();
    bench.set("limits", "max_outbound_bytes", "100_000");
    // It is silent, and reads its end, until the other has seen that all is well.
    bench.set("limits", "idle_timeout_ms", "60_000");
    bench.set("limits", "close_timeout_ms", "60_000");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut other = Client::connect(&options).await.expect("connected");
    other.join("misbehave:t", json!({})).await.expect("joined");
    let mut slow = slow(&server).await;
    slow.send(Frame::from(FLOOD)).await.expect("sent");
    let news = json!({ "event": "news" });
    other.push("misbehave:t", "broadcast", news).await.expect("sent");
    other.event("misbehave:t", "news").await.expect("the news");
    // The other may be served by another thread, ahead of the flood.
    let admin = server.admin().await;
    within("close", async {
        while metric(admin, "bennu_slow_consumers_total").await == 0 {}
    })
    .await;
    assert_eq!(end(slow).await, 1008);
    assert_eq!(other.heartbeat().await.expect("answered").status, "ok");
}
