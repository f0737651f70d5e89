//! `bennu why`: the answer on the command line.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::entry_of;
use crate::support::command::{check_refused, run, said};
use crate::support::server::Bench;
use crate::support::wire::Wire;

/// What `bennu why` says, and its exit code.
pub(crate) fn why(admin: SocketAddr, args: &[&str]) -> (Option<i32>, String) {
    let admin = admin.to_string();
    let (output, said, complained) = run(|command| command.arg("why").args(args).args(["--admin", &admin]));
    (output.status.code(), said + &complained)
}

#[tokio::test]
async fn it_explains_a_client_by_its_number_and_by_its_address() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut wire = Wire::open(&server).await;
    wire.send(0x81, b"{").await;
    let entry = entry_of(admin, wire.address()).await;
    let number = entry["connection"].to_string();
    let peer = wire.address().to_string();
    for client in [&number, &peer] {
        let (code, text) = why(admin, &[client]);
        assert_eq!(code, Some(0), "{text}");
        for part in [
            format!("connection {number}, from {peer}, at /socket, by websocket (vsn 2.0.0)"),
            "by server, reason undecodable_message, close code 1011".to_owned(),
            "What happened: The client sent a frame that is no message of its protocol version.".to_owned(),
            "What to do:    Make the client's serializer match the `vsn`".to_owned(),
        ] {
            assert!(text.contains(&part), "{part} is missing in\n{text}");
        }
    }
    let (_, json) = why(admin, &[&number, "--json"]);
    let found: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(found["closes"][0]["connection"], entry["connection"]);
    assert_eq!(found["connections"], json!([]));
}

#[tokio::test]
async fn it_shows_who_is_connected_and_who_came_last() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let open = Wire::open(&server).await;
    let (code, text) = why(admin, &[&open.address().to_string()]);
    assert!(code == Some(0) && text.starts_with("connected connection "), "{text}");
    for _ in 0..3 {
        let gone = Wire::open(&server).await;
        let peer = gone.address();
        gone.vanish();
        entry_of(admin, peer).await;
    }
    let (_, text) = why(admin, &["--last", "2"]);
    assert_eq!(
        text.matches("reason connection_lost, close code 1006").count(),
        2,
        "{text}"
    );
    let (code, text) = why(admin, &["user:nobody"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("knows nothing of user:nobody") && text.contains("among the 3 that it remembers"),
        "{text}"
    );
}

#[test]
fn without_a_server_or_a_client_it_says_so() {
    check_refused(
        |command| command.args(["why", "1", "--admin", "127.0.0.1:1"]),
        "no server answers at 127.0.0.1:1",
    );
    let help = said(0, |command| command.args(["why", "--help"]));
    assert!(help.contains("bennu why user:42"), "{help}");
}
