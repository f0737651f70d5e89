//! What the dashboard of the admin listener asks for and does, without a browser. `host/tests/js` has one.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{Answer, get, get_with, plugin, request};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};
use crate::support::wire::Wire;
use crate::support::within;

const SECRET: &str = "for the operator's eyes";

async fn served_with_secret(bench: &Bench) -> (Server, SocketAddr) {
    let server = bench
        .serve_with(|command| command.env("BENNU_ADMIN_SECRET", SECRET))
        .await;
    let admin = server.admin().await;
    (server, admin)
}

fn bearer() -> String {
    format!("authorization: Bearer {SECRET}\r\n")
}

async fn log_in(admin: SocketAddr) -> String {
    let answer = request(admin, "PUT", "/session", &bearer(), "").await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    let cookie = answer.header("set-cookie").expect("a cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().expect("its value").to_owned();
    format!("cookie: {cookie}\r\n")
}

async fn status(admin: SocketAddr, headers: &str) -> u16 {
    get_with(admin, "/overview", headers).await.status
}

/// The number of the connection from this address, once its thread has taken it over.
async fn number_of(admin: SocketAddr, peer: SocketAddr) -> u64 {
    let number = async {
        loop {
            let found = get(admin, &format!("/connections?peer={peer}")).await.json();
            if let Some(number) = found["connections"][0]["connection"].as_u64() {
                return number;
            }
            tokio::task::yield_now().await;
        }
    };
    within("the connection in the list", number).await
}

async fn disconnect(admin: SocketAddr, query: &str) -> Answer {
    request(admin, "DELETE", &format!("/connections?{query}"), "", "").await
}

/// Waits until `/history` has an entry like this.
async fn listed(admin: SocketAddr, list: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let entry = async {
        loop {
            let history = get(admin, "/history").await.json();
            let entries = history[list].as_array().expect("a list");
            if let Some(entry) = entries.iter().find(|entry| is_it(entry)) {
                return entry.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    within(list, entry).await
}

/// Waits for a change: the word for its kind, and what its text begins with.
async fn changed(admin: SocketAddr, kind: &str, text: &str) {
    listed(admin, "changes", |change| {
        change["kind"] == kind && change["text"].as_str().is_some_and(|shown| shown.starts_with(text))
    })
    .await;
}

#[tokio::test]
async fn a_session_opens_what_the_secret_opens_until_it_is_closed() {
    let bench = Bench::new();
    let (server, admin) = served_with_secret(&bench).await;
    assert_eq!(status(admin, "").await, 401);
    assert_eq!(request(admin, "PUT", "/session", "", "").await.status, 401);
    let cookie = log_in(admin).await;
    let session = get_with(admin, "/session", &cookie).await.json();
    assert_eq!(
        session,
        json!({ "needs_secret": true, "is_open": true, "operator": "somebody, 127.0.0.1" })
    );
    assert_eq!(status(admin, &cookie).await, 200);
    assert_eq!(request(admin, "DELETE", "/session", &cookie, "").await.status, 204);
    assert_eq!(status(admin, &cookie).await, 401);
    server
        .log
        .line(&["operator logged in", "by=\"somebody, 127.0.0.1\""])
        .await;
    assert!(!server.log.text().contains(SECRET));
}

#[tokio::test]
async fn there_are_as_many_sessions_as_the_configuration_allows() {
    let bench = Bench::new();
    bench.set("admin", "max_sessions", "1");
    let (_server, admin) = served_with_secret(&bench).await;
    let first = log_in(admin).await;
    let second = log_in(admin).await;
    assert_eq!((status(admin, &first).await, status(admin, &second).await), (401, 200));
}

#[tokio::test]
async fn wrong_secrets_are_bounded_and_a_session_goes_on() {
    let bench = Bench::new();
    bench.set("admin", "max_wrong_secrets", "3");
    let (server, admin) = served_with_secret(&bench).await;
    let cookie = log_in(admin).await;
    for _ in 0..3 {
        assert_eq!(status(admin, "authorization: Bearer a wrong secret\r\n").await, 401);
    }
    assert_eq!(status(admin, &bearer()).await, 429);
    assert_eq!(request(admin, "PUT", "/session", &bearer(), "").await.status, 429);
    assert_eq!(status(admin, &cookie).await, 200);
    server.log.line(&["wrong secret at the admin listener"]).await;
}

#[tokio::test]
async fn pages_of_other_origins_get_nothing() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    for (origin, expected) in [
        (format!("http://{admin}"), 202),
        (format!("http://{}", server.address), 403),
        ("http://evil.example".to_owned(), 403),
        ("null".to_owned(), 403),
    ] {
        let headers = format!("origin: {origin}\r\n");
        let answer = request(admin, "PUT", "/plugins/echo/reload", &headers, "").await;
        assert_eq!(answer.status, expected, "{origin}: {}", answer.body);
    }
    let page = get_with(admin, "/", "accept: text/html,*/*\r\n").await;
    assert_eq!((page.status, page.header("location")), (303, Some("dashboard/")));
    let page = get(admin, "/dashboard/").await;
    assert_eq!(
        (page.status, page.header("x-content-type-options")),
        (200, Some("nosniff"))
    );
    assert!(
        page.header("content-security-policy")
            .expect("a policy")
            .starts_with("default-src 'none'")
    );
    assert_eq!(
        get(server.address, "/dashboard/").await.status,
        404,
        "not where clients connect"
    );
}

#[tokio::test]
async fn an_operator_disconnects_clients_by_their_number_address_or_socket_id() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut stays = Client::joined(&server, "echo:1").await;
    let wire = Wire::open(&server).await;
    let number = number_of(admin, wire.address()).await;
    for mistake in [
        "",
        "refuse_ms=1",
        "reason=idle",
        &format!("connection={number}&refuse_ms=1"),
    ] {
        assert_eq!(disconnect(admin, mistake).await.status, 400, "{mistake}");
    }
    let done = disconnect(admin, &format!("connection={number}")).await;
    assert_eq!(done.json(), json!({ "disconnected": 1 }), "{}", done.body);
    let said = ["clients disconnected by an operator", "by=\"127.0.0.1\"", "count=1"];
    server.log.line(&said).await;
    let why = get(admin, &format!("/why?client={number}")).await.json();
    let close = &why["closes"][0];
    assert_eq!(
        (&close["reason"], &close["by"], &close["code"]),
        (&json!("disconnected_by_operator"), &json!("operator"), &json!(1001))
    );
    changed(
        admin,
        "operator",
        &format!("1 client disconnected (connection {number})"),
    )
    .await;

    let refused = disconnect(admin, "socket_id=user%3Aann&refuse_ms=60000").await;
    assert_eq!(refused.json(), json!({ "disconnected": 0 }), "{}", refused.body);
    let gate = "/gate/websocket?vsn=2.0.0&token=open&user=ann";
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(get_with(server.address, gate, headers).await.status, 403);

    stays.push("echo:1", "echo", json!({})).await;
    assert_eq!(
        disconnect(admin, "peer=127.0.0.1").await.json(),
        json!({ "disconnected": 1 })
    );
}

#[tokio::test]
async fn an_operator_rolls_back_to_the_last_good_library_and_lifts_its_quarantine() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "0");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let roll_back = async || {
        request(admin, "PUT", "/plugins/misbehave/rollback", "", "")
            .await
            .status
    };
    assert_eq!(roll_back().await, 202);
    let nothing = "no earlier good library is stored";
    server.log.line(&["not rolled back", nothing, &of("misbehave")]).await;
    changed(admin, "rejection", &format!("not rolled back: {nothing}")).await;

    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "count", json!({})).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    assert_eq!(roll_back().await, 202);
    server
        .log
        .line(&["rolled back to generation 3", "an operator's request"])
        .await;
    assert_eq!(
        client.push("misbehave:1", "count", json!({})).await["topic"],
        2,
        "its state stays"
    );
    let shown = plugin(admin, "misbehave").await;
    let quarantined = &shown["quarantined"][0];
    assert_eq!(quarantined["code"], "operator", "{shown}");
    let hash = quarantined["hash"].as_str().expect("a hash");
    assert_eq!(
        request(admin, "DELETE", &format!("/quarantine/{hash}"), "", "")
            .await
            .status,
        204
    );
    server.in_service("misbehave", 4).await;
    assert_eq!(
        request(admin, "PUT", "/plugins/nothing/rollback", "", "").await.status,
        404
    );
}

#[tokio::test]
async fn on_probation_an_operator_rolls_back_without_a_new_load() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    let server = bench.serve().await;
    let admin = server.admin().await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    request(admin, "PUT", "/plugins/misbehave/rollback", "", "").await;
    server
        .log
        .line(&["rolled back to generation 1", "no state is lost"])
        .await;
    changed(admin, "rollback", "generation 2 to 1 after an operator's request").await;
}

#[tokio::test]
async fn the_overview_and_the_history_say_what_goes_on() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, "echo:busy").await;
    client.push("echo:busy", "echo", json!({})).await;
    let overview = get(admin, "/overview").await.json();
    let node = &overview["node"];
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&node["not_ready"], &node["connections"]), (&Value::Null, &json!(1)));
    let topic = &overview["topics"][0];
    assert_eq!(
        (&topic["topic"], &topic["plugin"], &topic["members"]),
        (&json!("echo:busy"), &json!("echo"), &json!(1))
    );
    let limits = overview["limits"].as_array().expect("a list");
    let limit = |name: &str| {
        limits
            .iter()
            .find(|limit| limit["setting"] == name)
            .cloned()
            .expect(name)
    };
    assert_eq!(limit("[limits] max_connections")["used"], 1);
    assert_eq!(limit("[plugins.echo] max_topics")["used"], 1);
    for part in ["plugins", "routes", "mounts"] {
        assert!(!overview[part].as_array().expect(part).is_empty(), "{part}");
    }
    drop(client);
    let closed = listed(admin, "series", |series| series["kind"] == "closed").await;
    assert_eq!(closed["counts"], json!([1]));
    changed(admin, "start", "server started").await;

    bench.append("\nunheard_of = 1\n");
    server.log.line(&["configuration rejected"]).await;
    changed(admin, "rejection", "configuration rejected: error: ").await;
}
