//! `/ready` says whether clients can be sent to a server: not while it starts, and not while it stops.

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::get;
use crate::support::server::{Bench, Server};
use crate::support::within;

#[tokio::test]
async fn a_server_whose_plugin_still_starts_is_not_ready_and_can_be_stopped() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "settings", "{ init = \"hang\" }");
    let mut server = Server::starting(bench.command());
    let admin = server.early_admin().await;
    let (ready, health) = (get(admin, "/ready").await, get(admin, "/health").await);
    assert_eq!((ready.status, &*ready.body), (503, "starting\n"));
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    assert_eq!(get(admin, "/plugins").await.status, 503);
    server.signal(Signal::TERM);
    assert!(within("end", server.ended()).await.success());
}

#[tokio::test]
async fn a_server_that_is_full_is_not_ready() {
    let bench = Bench::new();
    bench.set("limits", "max_connections", "1");
    let server = bench.serve().await;
    let admin = server.admin().await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    let client = Client::joined(&server, "echo:1").await;
    let ready = get(admin, "/ready").await;
    assert_eq!((ready.status, &*ready.body), (503, "full\n"));
    drop(client);
    within("a place", async { while get(admin, "/ready").await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_server_that_lets_its_clients_go_is_not_ready_any_more() {
    let bench = Bench::new();
    bench.set("server", "shutdown_timeout_ms", "30_000");
    bench.set("plugins.misbehave", "deadline_ms", "60_000");
    let mut server = bench.serve().await;
    let admin = server.admin().await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "unruly", json!({ "at": "hang" })).await;
    server.log.line(&["slow handler"]).await;
    server.signal(Signal::TERM);
    server.log.line(&["for this handler to return"]).await;
    let (ready, health) = (get(admin, "/ready").await, get(admin, "/health").await);
    assert_eq!((ready.status, &*ready.body), (503, "stopping\n"));
    assert_eq!(health.status, 200);
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}
