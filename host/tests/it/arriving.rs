//! A `disconnect` that comes while its client is on the way in.

use bennu_tools::client::{Client, ClientError, Frame, Incoming, Options, RawClient, Transport};
use serde_json::json;

use crate::support::server::{Bench, Server};

/// Has the one shard of the plugin sleep, and lets a connect and a disconnect of its socket id wait for it: the shard takes
/// up the connect first. Returns whether the client, which has been let in, is sent away again.
async fn is_sent_away(server: &Server, transport: Transport, sleep_ms: u32) -> bool {
    let mut sleeper = Client::connect(&Options::new(server.address, Transport::WebSocket))
        .await
        .expect("connected");
    sleeper.join("misbehave:t", json!({})).await.expect("joined");
    let half_way = json!({ "topic": "user:ann", "ms": sleep_ms / 2 });
    sleeper
        .call("misbehave:t", "disconnect_after", half_way)
        .await
        .expect("an answer");
    sleeper
        .push("misbehave:t", "sleep", json!({ "ms": sleep_ms }))
        .await
        .expect("sent");
    sleeper.heartbeat().await.expect("it has arrived");
    let mut options = Options::new(server.address, transport);
    options.mount = "/gate".into();
    options.params = vec![("token".into(), "open".into()), ("user".into(), "ann".into())];
    let mut arriving = RawClient::connect(&options).await.expect("let in");
    let behind_all = sleeper.call("misbehave:t", "echo", json!({})).await;
    behind_all.expect("the disconnect is done by now");
    let beat = r#"[null,"1","phoenix","heartbeat",{}]"#.to_owned();
    match arriving.send(Frame::Text(beat)).await {
        Ok(()) => {}
        Err(ClientError::NotTaken { status: 410 }) => return true,
        // The goodbye goes before what is sent into a closed connection.
        Err(_) if transport == Transport::WebSocket => {}
        Err(error) => panic!("{error}"),
    }
    match (transport, arriving.next().await.expect("an answer or an end")) {
        (Transport::WebSocket, Incoming::Closed { code: 1001 }) | (_, Incoming::Closed { code: 410 }) => true,
        (_, Incoming::Frame(_)) => false,
        (_, other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_disconnect_reaches_a_client_that_is_on_the_way_in() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("limits", "connect_timeout_ms", "10_000");
    let server = bench.serve().await;
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        // Where the sleep began too late, or the connect came after it, nothing is shown: then there is a longer one.
        let mut sent_away = false;
        for sleep_ms in [300, 1_000, 3_000] {
            if !sent_away {
                sent_away = is_sent_away(&server, transport, sleep_ms).await;
            }
        }
        assert!(sent_away, "by {}", transport.name());
    }
}
