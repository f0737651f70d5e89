//! A `disconnect` that comes while its client is on the way in.

use bennu::client::{Client, ClientError, Frame, Incoming, Options, RawClient, Transport};
use serde_json::json;

use crate::support::server::{Bench, Server};

/// Has the one shard of the plugin sleep, and lets a connect and then a disconnect of its socket id wait for it. Returns
/// whether the client, which has been let in, is sent away again.
async fn is_sent_away(server: &Server, transport: Transport, sleep_ms: u32) -> bool {
    let mut sleeper = Client::connect(&Options::new(server.address, Transport::WebSocket))
        .await
        .expect("connected");
    sleeper.join("misbehave:t", json!({})).await.expect("joined");
    for (event, payload) in [
        ("sleep", json!({ "ms": sleep_ms })),
        ("disconnect", json!({ "topic": "user:ann" })),
    ] {
        sleeper.push("misbehave:t", event, payload).await.expect("sent");
    }
    sleeper.heartbeat().await.expect("both have arrived");
    let mut options = Options::new(server.address, transport);
    options.mount = "/gate".into();
    options.params = vec![("token".into(), "open".into()), ("user".into(), "ann".into())];
    let mut arriving = RawClient::connect(&options).await.expect("let in");
    let beat = r#"[null,"1","phoenix","heartbeat",{}]"#.to_owned();
    let closed = match arriving.send(Frame::Text(beat)).await {
        Ok(()) => arriving.next().await,
        Err(ClientError::NotTaken { status: 410 }) => return true,
        Err(error) => panic!("{error}"),
    };
    let gone = if transport == Transport::WebSocket { 1001 } else { 410 };
    match closed.expect("an answer or an end") {
        Incoming::Closed { code } => code == gone,
        Incoming::Frame(_) => false,
    }
}

#[tokio::test]
async fn a_disconnect_reaches_a_client_that_is_on_the_way_in() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("limits", "connect_timeout_ms", "10_000");
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        // A connect that comes after the sleep shows nothing: then there is a longer one.
        let mut sent_away = false;
        for sleep_ms in [300, 1_000, 3_000] {
            if !sent_away {
                sent_away = is_sent_away(&server, transport, sleep_ms).await;
            }
        }
        assert!(sent_away, "by {}", transport.name());
    }
}
