//! Limits by address, by client and by route: who is beyond one is told so, and nobody else notices.

use std::net::SocketAddr;

use bennu_tools::client::{Client as Plain, ClientError, Options, Transport};
use serde_json::{Value, json};

use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::{Answer, Connection, get, get_with, metric, request};
use crate::support::server::{Bench, Server};
use crate::support::wire::Wire;
use crate::support::within;
use crate::why::entry;

const SOCKET: &str = "/socket/websocket?vsn=2.0.0";
const SESSION: &str = "/socket/longpoll?vsn=2.0.0";

/// A server that limits this machine, too, with these tables.
fn bench(tables: &str) -> Bench {
    let bench = Bench::new();
    bench.set("log", "client_burst", "1_000");
    bench.set("limits", "exempt", "[]");
    bench.append(tables);
    bench
}

/// Asks for a WebSocket, and hangs up once there is an answer.
async fn websocket(address: SocketAddr, headers: &str) -> Answer {
    request(address, "GET", SOCKET, &format!("{UPGRADE}{headers}"), "").await
}

/// Waits until this is so.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    within(what, async { while !is_so().await {} }).await;
}

/// A refusal for this reason: in the answer, in `/closes`, in the log and in the metrics.
async fn check_refused(server: &Server, answer: &Answer, reason: &str, detail: &str, limit: &str) {
    assert_eq!((answer.status, &*answer.body), (429, ""), "{}", answer.head);
    let wait = answer.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| (1..=5).contains(&wait)), "{}", answer.head);
    let admin = server.admin().await;
    let entry = entry(admin, &format!("reason={reason}")).await;
    assert_eq!(
        (&entry["status"], &entry["detail"]),
        (&json!(429), &json!(detail)),
        "{entry}"
    );
    server
        .log
        .line(&["client refused", &format!("reason=\"{reason}\"")])
        .await;
    for counter in [
        format!("bennu_refused_total{{reason=\"{reason}\"}}"),
        format!("bennu_rate_limited_total{{limit=\"{limit}\"}}"),
    ] {
        assert!(metric(admin, &counter).await > 0, "{counter}");
    }
}

fn is_limited(reply: &Value) -> bool {
    let limited = reply["status"] == "error" && reply["response"]["reason"] == "rate limited";
    let wait = reply["response"]["retry_after_ms"].as_u64();
    assert!(
        !limited || wait.is_some_and(|wait| (1..=60_000).contains(&wait)),
        "{reply}"
    );
    limited
}

/// Pushes so many echoes at once, and returns how many of them were refused.
async fn refused_of(client: &mut Client, topic: &str, count: usize) -> usize {
    let mut refs = Vec::new();
    for n in 0..count {
        refs.push(client.start(topic, "echo", json!({ "n": n })).await);
    }
    let mut refused = 0;
    for reference in refs {
        let reply = client.answer(&reference).await;
        assert!(is_limited(&reply) || reply["status"] == "ok", "{reply}");
        refused += usize::from(is_limited(&reply));
    }
    refused
}

#[tokio::test]
async fn an_address_may_connect_so_often() {
    let bench = bench("[limits.address]\nconnects_per_s = 1\nburst_s = 2");
    let server = bench.serve().await;
    for _ in 0..2 {
        Wire::open(&server).await;
    }
    let refused = websocket(server.address, "").await;
    let setting = "[limits.address] connects_per_s";
    check_refused(
        &server,
        &refused,
        "too_many_connects",
        setting,
        "address_connects_per_s",
    )
    .await;
    let session = get(server.address, SESSION).await;
    assert_eq!(
        (session.status, session.header("access-control-allow-origin")),
        (429, Some("*"))
    );
    until("second chance", async || {
        websocket(server.address, "").await.status == 101
    })
    .await;
}

#[tokio::test]
async fn an_address_may_have_so_many_clients() {
    let bench = bench("[limits.address]\nmax_sessions = 2");
    let server = bench.serve().await;
    let wire = Wire::open(&server).await;
    assert_eq!(get(server.address, SESSION).await.json()["status"], 410);
    let refused = websocket(server.address, "").await;
    let setting = "[limits.address] max_sessions";
    check_refused(&server, &refused, "address_full", setting, "address_max_sessions").await;
    assert_eq!(get(server.address, SESSION).await.status, 429);
    let old = get(server.address, "/ws/poll").await;
    assert_eq!((old.status, &*old.body), (429, ""), "clients of Phoenix 0.11, too");
    wire.vanish();
    until("place that is free again", async || {
        websocket(server.address, "").await.status == 101
    })
    .await;
}

#[tokio::test]
async fn an_address_may_have_so_many_connections_and_is_answered_up_to_a_second_bound() {
    let bench = bench("[limits.address]\nmax_connections = 2");
    let server = bench.serve().await;
    // A WebSocket keeps the place of its connection.
    let wire = Wire::open(&server).await;
    let mut kept = Connection::open(server.address).await;
    kept.send("GET", "/nothing", "", "").await;
    assert_eq!(kept.answer().await.status, 404);
    let refused = websocket(server.address, "").await;
    let setting = "[limits.address] max_connections";
    check_refused(&server, &refused, "address_full", setting, "address_max_connections").await;
    assert_eq!(refused.header("connection"), Some("close"));
    kept.send("GET", SESSION, "", "").await;
    assert_eq!(kept.answer().await.json()["status"], 410, "who was there stays");
    let mut more = Vec::new();
    for _ in 0..17 {
        more.push(Wire::connect(&server).await);
    }
    within("end without an answer", async {
        let mut last = Wire::connect(&server).await;
        last.ended().await;
    })
    .await;
    until("record", async || {
        entry(server.admin().await, "reason=address_full").await["status"] == Value::Null
    })
    .await;
    drop((wire, more));
    until("place that is free again", async || {
        websocket(server.address, "").await.status == 101
    })
    .await;
}

#[tokio::test]
async fn an_address_may_send_so_many_requests() {
    let bench = bench("[limits.address]\nrequests_per_s = 1\nburst_s = 3");
    let server = bench.serve().await;
    let mut connection = Connection::open(server.address).await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        connection.send("GET", SESSION, "", "").await;
        answers.push(connection.answer().await);
    }
    assert!(answers[..3].iter().all(|answer| answer.status == 200));
    let setting = "[limits.address] requests_per_s";
    check_refused(
        &server,
        &answers[4],
        "too_many_requests",
        setting,
        "address_requests_per_s",
    )
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_counts_and_the_proxy_does_not() {
    let bench = bench("[limits.address]\nmax_sessions = 1\nmax_connections = 1\n[proxies]\ntrusted = [\"127.0.0.1\"]");
    let server = bench.serve().await;
    let from = |client: &str| format!("x-forwarded-for: {client}\r\n");
    let mut open = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        open.push(Wire::open_with(&server, &from(client)).await);
    }
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::2"] {
        assert_eq!(websocket(server.address, &from(client)).await.status, 429, "{client}");
        assert_eq!(
            get_with(server.address, SESSION, &from(client)).await.status,
            429,
            "{client}"
        );
    }
    for _ in 0..3 {
        open.push(Wire::open_with(&server, "").await);
    }
    assert_eq!(
        entry(server.admin().await, "peer=192.0.2.2").await["reason"],
        "address_full"
    );
}

#[tokio::test]
async fn this_machine_is_exempt_unless_somebody_says_otherwise() {
    let bench = Bench::new();
    let strict = "[limits.address]\nmax_sessions = 1\nconnects_per_s = 1\nburst_s = 1\nrequests_per_s = 1\n[limits.client]\nevents_per_s = 1\nburst_s = 1";
    bench.append(strict);
    let server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Client::joined(&server, "echo:1").await;
        assert_eq!(refused_of(&mut client, "echo:1", 20).await, 0);
        clients.push(client);
    }
}

#[tokio::test]
async fn a_client_may_send_so_many_events_and_is_told_when_to_go_on() {
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let bench = bench("[limits.client]\nevents_per_s = 1\nburst_s = 4");
        let server = bench.serve().await;
        let mut fast = Client::connect_by(&server, transport).await;
        fast.join("echo:1", json!({})).await;
        let refused = refused_of(&mut fast, "echo:1", 20).await;
        assert!((1..=16).contains(&refused), "{refused} by {transport:?}");
        fast.rest().await;
        let mut other = Client::connect_by(&server, transport).await;
        other.join("echo:1", json!({})).await;
        other.push("echo:1", "echo", json!({})).await;
        let admin = server.admin().await;
        let counter = "bennu_rate_limited_total{limit=\"client_events_per_s\"}";
        assert!(metric(admin, counter).await >= refused as u64);
        server
            .log
            .line(&["message refused: beyond a limit", "[limits.client] events_per_s"])
            .await;
        let used = async || metric(admin, "bennu_limit_used{limit=\"client_events_per_s\"}").await == 4;
        until("use of the limit", used).await;
        assert_eq!(metric(admin, "bennu_limit{limit=\"client_events_per_s\"}").await, 4);
    }
}

#[tokio::test]
async fn joins_and_bytes_have_limits_of_their_own() {
    let bench = bench("[limits.client]\njoins_per_s = 1\nbytes_per_s = 2_000\nburst_s = 1\nevents_per_s = 0");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    let mut refs = Vec::new();
    for n in 0..5 {
        refs.push(client.start_join(&format!("echo:{n}"), json!({})).await);
    }
    let mut refused = 0;
    for reference in refs {
        refused += usize::from(is_limited(&client.answer(&reference).await));
    }
    assert!((1..5).contains(&refused), "{refused}");
    let large = json!({ "filler": "x".repeat(1_500) });
    let mut refs = Vec::new();
    for _ in 0..4 {
        refs.push(client.start("echo:0", "echo", large.clone()).await);
    }
    let mut passed = 0;
    for reference in refs {
        passed += usize::from(!is_limited(&client.answer(&reference).await));
    }
    assert!(passed < 4, "{passed}");
    until("larger message than what may come at once", async || {
        let mut own = Client::joined(&server, "echo:9").await;
        let huge = json!({ "filler": "x".repeat(5_000) });
        let reply = own.try_push("echo:9", "echo", huge).await;
        // The join took a little of it.
        reply["status"] == "ok" || is_limited(&reply)
    })
    .await;
    let metrics = server.admin().await;
    for limit in ["client_joins_per_s", "client_bytes_per_s"] {
        let counter = format!("bennu_rate_limited_total{{limit=\"{limit}\"}}");
        assert!(metric(metrics, &counter).await > 0, "{limit}");
    }
}

#[tokio::test]
async fn a_client_that_goes_on_is_closed_with_1008() {
    let bench = bench("[limits.client]\nevents_per_s = 1\nburst_s = 1\nmax_refusals = 5");
    let server = bench.serve().await;
    let admin = server.admin().await;
    for (transport, code) in [(Transport::WebSocket, json!(1008)), (Transport::LongPoll, Value::Null)] {
        let options = Options::new(server.address, transport);
        let mut client = Plain::connect(&options).await.expect("connected");
        client.join("echo:1", json!({})).await.expect("joined");
        let ended = loop {
            // Heartbeats count, and are answered until then.
            if let Err(error) = client.heartbeat().await {
                break error;
            }
        };
        if transport == Transport::WebSocket {
            assert!(matches!(ended, ClientError::Closed { code: 1008 }), "{ended}");
        }
        let query = format!("reason=rate_limited&limit=1&connection={}", newest(admin).await);
        let entry = entry(admin, &query).await;
        assert_eq!((&entry["code"], &entry["by"]), (&code, &json!("server")), "{entry}");
        assert_eq!(entry["detail"], "[limits.client] events_per_s");
        assert_eq!(entry["transport"], transport.name());
    }
    let (code, text) = crate::why::asked::why(admin, &["--last", "1"]);
    assert!(code == Some(0) && text.contains("max_refusals"), "{text}");
    let counter = "bennu_closes_total{code=\"1008\",reason=\"rate_limited\"}";
    assert_eq!(metric(admin, counter).await, 1);
}

/// The number of the connection that was closed last.
async fn newest(admin: SocketAddr) -> u64 {
    entry(admin, "reason=rate_limited").await["connection"]
        .as_u64()
        .expect("a number")
}

#[tokio::test]
async fn a_route_takes_so_much_of_all_clients_together() {
    let bench = Bench::new();
    bench.set("routes", "limits", "{ events_per_s = 1, burst_s = 4 }");
    let server = bench.serve().await;
    let (mut ann, mut bob) = (
        Client::joined(&server, "echo:1").await,
        Client::joined(&server, "echo:2").await,
    );
    let refused = refused_of(&mut ann, "echo:1", 10).await + refused_of(&mut bob, "echo:2", 10).await;
    assert!((1..=16).contains(&refused), "{refused}");
    bob.join("misbehave:1", json!({})).await;
    for _ in 0..10 {
        bob.push("misbehave:1", "echo", json!({})).await;
    }
    let admin = server.admin().await;
    let label = "{limit=\"route_events_per_s\",route=\"echo:*\"}";
    assert_eq!(metric(admin, &format!("bennu_limit{label}")).await, 4);
    let counter = "bennu_rate_limited_total{limit=\"route_events_per_s\"}";
    assert_eq!(metric(admin, counter).await, refused as u64);
    let overview = get(admin, "/overview").await.json();
    let settings: Vec<&str> = overview["limits"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|limit| limit["setting"].as_str())
        .collect();
    for setting in [
        "[routes.limits] events_per_s of echo:*",
        "[limits.address] connects_per_s",
        "[limits.client] bytes_per_s",
    ] {
        assert!(settings.contains(&setting), "{setting} is not in {settings:?}");
    }
}

#[tokio::test]
async fn other_limits_hold_at_once_for_clients_that_are_there() {
    let bench = bench("[limits.client]\nevents_per_s = 1000");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "echo:1").await;
    assert_eq!(refused_of(&mut client, "echo:1", 50).await, 0);
    bench.set("limits.client", "events_per_s", "1");
    server.log.line(&["configuration replaced"]).await;
    assert!(refused_of(&mut client, "echo:1", 50).await > 0);
    bench.set("limits.client", "events_per_s", "0");
    server.log.nth_line(1, &["configuration replaced"]).await;
    assert_eq!(refused_of(&mut client, "echo:1", 50).await, 0);
    bench.set("limits.client", "events_per_s", "1");
    bench.set("limits", "exempt", "[\"127.0.0.1\"]");
    server.log.nth_line(2, &["configuration replaced"]).await;
    assert_eq!(refused_of(&mut client, "echo:1", 50).await, 0);
    assert_eq!(server.log.count(&["restart the server to apply this change"]), 0);
}
