//! Closing connections, and refusing whoever would come back.

use bennu_tools::client::{self, ClientError, Transport};
use serde_json::json;

use super::{Backend, as_user, bench, reason, refused};
use crate::support::client::Client;
use crate::support::http::metric;

const BOTH: [Transport; 2] = [Transport::WebSocket, Transport::LongPoll];

#[tokio::test]
async fn every_connection_of_the_socket_id_is_closed_and_counted() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut connected = Vec::new();
    for name in ["ann", "ann", "ann", "bob"] {
        let mut client = Client::connect_with(&as_user(&server, Transport::WebSocket, name)).await;
        client.join("misbehave:t", json!({})).await;
        connected.push(client);
    }
    let disconnect = async |id: &str| backend.post("/api/disconnect", json!({ "socket_id": id })).await;
    assert_eq!(disconnect("user:ann").await, (200, json!({ "disconnected": 3 })));
    assert_eq!(disconnect("user:ann").await, (200, json!({ "disconnected": 0 })));
    for client in connected.iter_mut().take(3) {
        assert_eq!(client.close_code().await, 1001);
    }
    connected[3].push("misbehave:t", "echo", json!({})).await;
    assert_eq!(metric(server.admin().await, "bennu_api_disconnected_total").await, 3);
    server
        .log
        .line(&[
            "disconnected by a backend",
            "key=\"web\"",
            "socket_id=\"user:ann\"",
            "disconnected=3",
        ])
        .await;
}

#[tokio::test]
async fn a_refused_socket_id_may_not_connect_until_that_is_over() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut ann = Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await;
    ann.join("misbehave:t", json!({})).await;
    let refuse = async |refuse_ms: u64| {
        let asked = json!({ "socket_id": "user:ann", "refuse_ms": refuse_ms });
        backend.post("/api/disconnect", asked).await
    };
    assert_eq!(refuse(3_600_000).await, (200, json!({ "disconnected": 1 })));
    assert_eq!(ann.close_code().await, 1001);
    for transport in BOTH {
        let again = client::Client::connect(&as_user(&server, transport, "ann")).await;
        assert!(
            matches!(again, Err(ClientError::Refused { status: 403, .. })),
            "{}",
            transport.name()
        );
        drop(Client::connect_with(&as_user(&server, transport, "bob")).await);
    }
    assert_eq!(metric(server.admin().await, "bennu_api_refused_ids").await, 1);
    // Zero lets it in again, and so does time.
    assert_eq!(refuse(0).await.0, 200);
    drop(Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await);
    assert_eq!(refuse(200).await.0, 200);
    while client::Client::connect(&as_user(&server, Transport::WebSocket, "ann"))
        .await
        .is_err()
    {}
}

#[tokio::test]
async fn whoever_is_on_the_way_in_is_sent_away_too() {
    let bench = bench();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("limits", "connect_timeout_ms", "10_000");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let mut sleeper = Client::joined(&server, "misbehave:t").await;
    sleeper.start("misbehave:t", "sleep", json!({ "ms": 500 })).await;
    let options = as_user(&server, Transport::WebSocket, "ann");
    let arriving = tokio::spawn(async move { client::Client::connect(&options).await });
    // The connect handler waits behind the sleep: whether it has answered by now or answers later, ann does not get in.
    let asked = json!({ "socket_id": "user:ann", "refuse_ms": 60_000 });
    assert_eq!(backend.post("/api/disconnect", asked).await.0, 200);
    match arriving.await.expect("no panic") {
        Err(ClientError::Refused { status: 403, .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(mut client) => assert!(matches!(client.next().await, Err(ClientError::Closed { code: 1001 }))),
    }
}

#[tokio::test]
async fn as_many_ids_are_refused_as_the_configuration_allows() {
    let bench = bench();
    bench.set("api", "max_refused_ids", "2");
    bench.set("api", "max_refuse_ms", "60_000");
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    let refuse = async |id: &str, refuse_ms: u64| {
        let asked = json!({ "socket_id": id, "refuse_ms": refuse_ms });
        backend.post("/api/disconnect", asked).await
    };
    assert_eq!((refuse("a", 60_000).await.0, refuse("b", 60_000).await.0), (200, 200));
    let mut ann = Client::connect_with(&as_user(&server, Transport::WebSocket, "ann")).await;
    ann.join("misbehave:t", json!({})).await;
    assert_eq!(reason(refuse("user:ann", 60_000).await), refused(503, "full"));
    ann.push("misbehave:t", "echo", json!({})).await;
    assert_eq!(refuse("a", 0).await.0, 200);
    assert_eq!(refuse("user:ann", 60_000).await, (200, json!({ "disconnected": 1 })));
    assert_eq!(reason(refuse("c", 60_001).await), refused(400, "invalid"));
    for asked in [
        json!({}),
        json!({ "socket_id": "" }),
        json!({ "socket_id": "a", "refuse_ms": -1 }),
        json!([]),
    ] {
        assert_eq!(
            reason(backend.post("/api/disconnect", asked).await),
            refused(400, "invalid")
        );
    }
}
