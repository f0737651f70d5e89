//! `bennu load publish` against a real server.

use serde_json::{Value, json};

use super::{Backend, bench};
use crate::support::command::said;

#[tokio::test]
async fn every_published_message_is_heard_by_the_members_and_counted() {
    let bench = bench();
    let server = bench.serve().await;
    let api = Backend::of(&server).await.address.to_string();
    let (address, pid, key) = (
        server.address.to_string(),
        server.pid().to_string(),
        bench.path("api_key"),
    );
    for (list, members) in [("1", 2), ("20", 1)] {
        let report = said(0, |command| {
            command
                .args(["load", "publish", "--json", "--publishers", "3", "--topics", "2"])
                .args([
                    "--duration-s",
                    "0.3",
                    "--warmup-s",
                    "0.1",
                    "--list",
                    list,
                    "--members",
                    &members.to_string(),
                ])
                .args(["--api", &api, "--server", &address, "--pid", &pid, "--key-file"])
                .arg(&key)
        });
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(
            (&report["failed"], &report["received"]),
            (&json!(0), &report["heard"]),
            "{report}"
        );
        assert!(report["heard"].as_u64() > Some(0), "{report}");
        assert!(report["measured"]["server_us_each"].as_f64() > Some(0.0), "{report}");
    }
}
