//! Contents that did harm are not loaded again before somebody says so.

use std::fs;

use bennu_tools::client::{Options, Transport};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::client::Client;
use crate::support::command::{check_refused, said};
use crate::support::http::{metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

const TOPIC: &str = "misbehave:1";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server whose plugin may be replaced by one that crashes while it is loaded.
async fn crashing(bench: &Bench) -> Server {
    bench
        .serve_with(|command| command.env("MISBEHAVE_AT_LOAD", "crash"))
        .await
}

async fn refused(server: &Server, before: usize, step: &str, code: &str) -> String {
    let (step, code) = (format!("step=\"{step}\""), format!("code=\"{code}\""));
    let parts = ["library rejected", &of("misbehave"), &step, &code];
    server.log.nth_line(before, &parts).await
}

#[tokio::test]
async fn what_crashed_in_the_probe_is_not_tried_again_until_its_entry_is_removed() {
    let bench = Bench::new();
    let server = crashing(&bench).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    refused(&server, 0, "probe", "probe_crashed").await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    let said = refused(&server, 0, "quarantine", "quarantined").await;
    assert!(said.contains("SIGSEGV"), "it says why: {said}");
    let admin = server.admin().await;
    assert_eq!(plugin(admin, "misbehave").await["generation"], 2);
    let refusals =
        |step, code| format!("bennu_plugin_refusals_total{{plugin=\"misbehave\",step=\"{step}\",code=\"{code}\"}}");
    assert_eq!(metric(admin, &refusals("probe", "probe_crashed")).await, 1);
    assert_eq!(metric(admin, &refusals("quarantine", "quarantined")).await, 1);

    let entry = format!("state/quarantine/{}.json", sha256(&Build::MisbehaveAtLoad.bytes()));
    fs::remove_file(bench.path(&entry)).expect("the entry is there");
    bench.put("misbehave", Build::Misbehave);
    server.in_service("misbehave", 3).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    refused(&server, 1, "probe", "probe_crashed").await;
}

#[tokio::test]
async fn a_start_on_a_library_in_quarantine_goes_back_to_the_last_good_one() {
    let bench = Bench::new();
    let server = crashing(&bench).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    refused(&server, 0, "probe", "probe_crashed").await;
    server.stop().await;

    let server = crashing(&bench).await;
    let said = refused(&server, 0, "quarantine", "quarantined").await;
    assert!(said.contains("loads the last good one instead"), "{said}");
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
    let shown = plugin(server.admin().await, "misbehave").await;
    assert_eq!(
        shown["last_refusal"]["code"], "quarantined",
        "the operator is still told"
    );
    assert_eq!(shown["hash"], sha256(&Build::Misbehave.bytes())[..12]);
}

#[tokio::test]
async fn without_a_last_good_library_the_others_are_served() {
    let bench = Bench::new();
    let bytes = Build::Misbehave.bytes();
    fs::create_dir_all(bench.path("state/quarantine")).expect("made");
    fs::write(bench.path(&format!("state/quarantine/{}.json", sha256(&bytes))), "").expect("written");
    let server = bench.serve().await;
    let said = server
        .log
        .line(&["plugin not loaded", &of("misbehave"), "code=\"quarantined\""])
        .await;
    let lift = format!("`bennu plugins --config {} --lift ", bench.config().display());
    assert!(said.contains(&lift), "it says what to do: {said}");
    let options = Options::new(server.address, Transport::WebSocket);
    let mut client = bennu_tools::client::Client::connect(&options).await.expect("connected");
    let refused = client.join(TOPIC, json!({})).await.expect("answered");
    assert_eq!(refused.response, json!({ "reason": "plugin unavailable" }).into());
    let joined = client.join("echo:1", json!({})).await.expect("answered");
    assert_eq!(joined.status, "ok");
}

#[tokio::test]
async fn what_is_not_on_the_list_is_refused_before_it_runs() {
    let bench = Bench::new();
    let allowed = [Build::Misbehave, Build::MisbehaveV2].map(|build| sha256(&build.bytes()));
    bench.set("plugins.misbehave", "allow", &format!("{allowed:?}"));
    let server = crashing(&bench).await;
    // It would crash the probe.
    bench.put("misbehave", Build::MisbehaveAtLoad);
    let said = refused(&server, 0, "quarantine", "not_allowed").await;
    assert!(
        said.contains(&sha256(&Build::MisbehaveAtLoad.bytes())),
        "what to add: {said}"
    );
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
}

#[tokio::test]
async fn a_refused_library_uses_up_no_generation() {
    let bench = Bench::new();
    let server = crashing(&bench).await;
    for (refusals, number) in [1, 2, 3].into_iter().enumerate() {
        let mut bytes = Build::MisbehaveAtLoad.bytes();
        bytes.push(number);
        bench.put_bytes("misbehave", &bytes);
        refused(&server, refusals, "probe", "probe_crashed").await;
    }
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
}

#[tokio::test]
async fn an_operator_lifts_a_quarantine() {
    let bench = Bench::new();
    let bytes = Build::MisbehaveV2.bytes();
    let hash = sha256(&bytes);
    fs::create_dir_all(bench.path("state/quarantine")).expect("made");
    let entry = json!({ "plugin": "misbehave", "code": "panics", "reason": "3 panics on probation" });
    fs::write(bench.path(&format!("state/quarantine/{hash}.json")), entry.to_string()).expect("written");
    let server = bench.serve().await;
    bench.put_bytes("misbehave", &bytes);
    let said_so = refused(&server, 0, "quarantine", "quarantined").await;
    assert!(said_so.contains("3 panics on probation"), "{said_so}");
    let admin = server.admin().await;
    let text = said(0, |command| command.args(["plugins", "--admin", &admin.to_string()]));
    assert!(
        text.contains("in quarantine misbehave") && text.contains(&hash),
        "{text}"
    );
    // It is loaded where it lies.
    said(0, |command| {
        command.args(["plugins", "--admin", &admin.to_string(), "--lift", &hash])
    });
    server.in_service("misbehave", 2).await;
    assert_eq!(plugin(admin, "misbehave").await["quarantined"], json!([]));
    check_refused(
        |command| command.args(["plugins", "--admin", &admin.to_string(), "--lift", &hash]),
        "it is not in quarantine",
    );
}
