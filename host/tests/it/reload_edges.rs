//! Where a reload meets something else: a machine that is memory may be short, a connect on its way in, topics that cannot come
//! along for different reasons, routes that move.

use std::fs;
use std::time::Duration;

use bennu_tools::client::Transport;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{Connection, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};
use crate::support::within;

const TOPIC: &str = "misbehave:1";

/// Kills the next probe of `misbehave` by this bench's server, as the system does when memory is short. Returns which it was.
async fn kill_probe(bench: &Bench, before: Option<Pid>, signal: Signal) -> Pid {
    let stage = bench.path("stage").display().to_string();
    let ours = |line: &str| line.contains("\0probe\0") && line.contains(&stage) && line.contains("/misbehave-");
    let find = || {
        let processes = fs::read_dir("/proc").expect("readable").flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        let mut pids = pids.filter_map(Pid::from_raw).filter(|pid| Some(*pid) != before);
        pids.find(|pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            ours(&String::from_utf8_lossy(&line))
        })
    };
    let probe = within("probe", async {
        loop {
            match find() {
                Some(probe) => return probe,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let probe = probe.await;
    kill_process(probe, signal).expect("it is there");
    probe
}

/// A server over whose libraries the probe waits while the file `gate` is there, and that file.
async fn serve_with_gate(bench: &Bench) -> Server {
    let gate = bench.path("gate");
    let server = bench.serve_with(|command| {
        command
            .env("MISBEHAVE_AT_LOAD", "wait")
            .env("MISBEHAVE_WAITS_FOR", &gate)
    });
    let server = server.await;
    fs::write(bench.path("gate"), "").expect("written");
    server
}

#[tokio::test]
async fn a_library_whose_probe_is_killed_from_outside_is_tried_again() {
    let bench = Bench::new();
    let server = serve_with_gate(&bench).await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    let mut probe = None;
    for (round, (signal, again_in_s)) in [(Signal::KILL, "again_in_s=1"), (Signal::KILL, "again_in_s=2")]
        .into_iter()
        .enumerate()
    {
        probe = Some(kill_probe(&bench, probe, signal).await);
        let refused = ["library rejected", &of("misbehave"), "code=\"probe_killed\""];
        let said = server.log.nth_line(round, &refused).await;
        assert!(
            said.contains(again_in_s) && said.contains("memory may be short"),
            "{said}"
        );
        let shown = plugin(server.admin().await, "misbehave").await;
        assert_eq!(shown["last_refusal"]["code"], "probe_killed");
    }
    fs::remove_file(bench.path("gate")).expect("it is there");
    server.in_service("misbehave", 2).await;
    let shown = plugin(server.admin().await, "misbehave").await;
    assert_eq!(
        (&shown["last_refusal"], &shown["quarantined"]),
        (&Value::Null, &json!([]))
    );
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 1);
}

#[tokio::test]
async fn past_the_bound_a_killed_probe_waits_for_the_next_save() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_retries", "1");
    let server = serve_with_gate(&bench).await;
    bench.put("misbehave", Build::MisbehaveAtLoad);
    let refused = ["library rejected", &of("misbehave"), "code=\"probe_killed\""];
    let first = kill_probe(&bench, None, Signal::KILL).await;
    let said = server.log.nth_line(0, &refused).await;
    assert!(said.contains("again_in_s=1"), "{said}");
    kill_probe(&bench, Some(first), Signal::KILL).await;
    let said = server.log.nth_line(1, &refused).await;
    assert!(!said.contains("again_in_s"), "{said}");
    assert!(said.contains("Save it again"), "{said}");
    fs::remove_file(bench.path("gate")).expect("it is there");
    // The same contents.
    bench.put("misbehave", Build::MisbehaveAtLoad);
    server.in_service("misbehave", 2).await;
}

#[tokio::test]
async fn a_start_over_a_probe_that_is_killed_goes_on() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveAtLoad);
    fs::write(bench.path("gate"), "").expect("written");
    let gate = bench.path("gate");
    let serving = bench.serve_with(|command| {
        command
            .env("MISBEHAVE_AT_LOAD", "wait")
            .env("MISBEHAVE_WAITS_FOR", &gate)
    });
    let killing = async {
        kill_probe(&bench, None, Signal::KILL).await;
        fs::remove_file(bench.path("gate")).expect("it is there");
    };
    let (server, ()) = tokio::join!(serving, killing);
    server
        .log
        .line(&["the probe could not run", &of("misbehave"), "again_in_s=1"])
        .await;
    server.in_service("misbehave", 1).await;
}

#[tokio::test]
async fn a_file_that_is_saved_again_as_it_was_is_never_ignored_without_a_line() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let unchanged = ["library unchanged", &of("misbehave")];
    bench.put("misbehave", Build::Misbehave);
    let said = server.log.nth_line(0, &unchanged).await;
    assert!(said.contains("in_service=true"), "{said}");
    bench.put_bytes("misbehave", b"no library");
    server.log.line(&["library rejected", &of("misbehave")]).await;
    bench.put_bytes("misbehave", b"no library");
    let said = server
        .log
        .line(&["library not loaded: it has not changed", &of("misbehave")])
        .await;
    for part in [
        "in_service=false",
        "step=\"check\"",
        "rejected_before=",
        "--reload misbehave",
    ] {
        assert!(said.contains(part), "{said}");
    }
    bench.write_config(&bench.read_config());
    server.log.line(&["configuration unchanged"]).await;
    // One that was refused is read once more.
    let good = bench.read_config();
    bench.write_config("nonsense");
    server.log.nth_line(0, &["configuration rejected"]).await;
    bench.write_config("nonsense");
    server.log.nth_line(1, &["configuration rejected"]).await;
    bench.write_config(&good);
    server.log.line(&["configuration replaced"]).await;
}

#[tokio::test]
async fn a_library_that_was_not_allowed_is_taken_when_the_list_has_it() {
    use sha2::Digest as _;
    let bench = Bench::new();
    let hash = |build: Build| {
        let hash = sha2::Sha256::digest(build.bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let (one, two) = (hash(Build::Misbehave), hash(Build::MisbehaveV2));
    bench.set("plugins.misbehave", "allow", &format!("[\"{one}\"]"));
    let server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.log.line(&["library rejected", "code=\"not_allowed\""]).await;
    bench.write_config(
        &bench
            .read_config()
            .replace(&format!("[\"{one}\"]"), &format!("[\"{one}\", \"{two}\"]")),
    );
    server.in_service("misbehave", 2).await;
}

#[tokio::test]
async fn a_configuration_that_two_libraries_refuse_names_both() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.put_bytes("echo", b"no library");
    server.log.line(&["library rejected", &of("echo")]).await;
    bench.put_bytes("misbehave", b"no library");
    server.log.line(&["library rejected", &of("misbehave")]).await;
    // Which has both loaded anew.
    bench.write_config(&bench.read_config().replace("shards = 2", "shards = 3"));
    for name in ["echo", "misbehave"] {
        server.log.line(&["configuration rejected", &of(name)]).await;
    }
}

/// What a retired generation owes can not come any more: the client is told to come again.
#[tokio::test]
async fn a_connect_that_a_retired_generation_owes_is_answered_at_once() {
    let bench = Bench::new();
    // Without the end of the old code nothing would be answered in the time of this test.
    bench.set("limits", "connect_timeout_ms", "600_000");
    bench.set("plugins.misbehave", "retire_ms", "1");
    let server = bench.serve().await;
    let mut websocket = Connection::open(server.address).await;
    let upgrade = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    websocket
        .send("GET", "/gate/websocket?vsn=2.0.0&token=hang", upgrade, "")
        .await;
    let mut longpoll = Connection::open(server.address).await;
    longpoll
        .send("GET", "/gate/longpoll?vsn=2.0.0&token=hang", "", "")
        .await;
    server
        .log
        .nth_line(1, &["connect waits for a late answer", &of("misbehave")])
        .await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.unloaded("misbehave", 1).await;
    let answer = websocket.answer().await;
    assert_eq!((answer.status, &*answer.body), (503, r#"{"reason":"reloaded"}"#));
    assert_eq!(answer.header("retry-after"), Some("1"));
    // Oldest versions of phoenix.js would not come again if there were a body.
    let answer = longpoll.answer().await;
    assert_eq!((answer.status, &*answer.body), (503, ""));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn each_reason_for_topics_that_could_not_move_is_named() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_topics", "0");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    for (topic, trap) in [
        ("misbehave:a", "snapshot_error"),
        ("misbehave:b", "restore_error"),
        ("misbehave:c", "restore_error"),
        ("misbehave:d", "nowhere"),
    ] {
        client.join(topic, json!({})).await;
        client.push(topic, "arm", json!({ "at": trap })).await;
    }
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    for (failed, why) in [("failed=1", "trap in snapshot"), ("failed=2", "trap in restore")] {
        server.log.line(&["topics could not be moved", failed, why]).await;
    }
    let swap = plugin(server.admin().await, "misbehave").await["last_reload"]["swap"].clone();
    assert_eq!((&swap["topics"], &swap["failed"]), (&json!(1), &json!(3)));
    let reasons = swap["reasons"].as_array().expect("a list");
    let counts: Vec<_> = reasons.iter().map(|reason| reason["topics"].as_u64()).collect();
    assert_eq!(counts.iter().flatten().sum::<u64>(), 3, "{reasons:?}");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let shown = swap["reason"].as_str().expect("a text");
    assert!(
        shown.contains("trap in snapshot") && shown.contains("trap in restore"),
        "{shown}"
    );
}

const ROUTE: &str = "topic = \"misbehave:*\"\nplugin = \"misbehave\"\n";

/// The payload of the end of a topic's channel, after `change` has been made to the configuration.
async fn told(transport: Transport, event: &str, change: impl FnOnce(String) -> String) -> Value {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect_by(&server, transport).await;
    client.join(TOPIC, json!({})).await;
    let config = bench.read_config();
    assert!(config.contains(ROUTE), "{config}");
    bench.write_config(&change(config));
    let told = client.event(TOPIC, event).await;
    let lost = "do not lead to this plugin any more";
    server.log.line(&[lost, "plugin=\"misbehave\"", "members=1"]).await;
    told
}

#[tokio::test]
async fn a_topic_whose_route_moved_is_told_so() {
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let elsewhere = |config: String| config.replace(ROUTE, "topic = \"misbehave:*\"\nplugin = \"echo\"\n");
        assert_eq!(
            told(transport, "phx_error", elsewhere).await,
            json!({ "reason": "rerouted" })
        );
        let nowhere = |config: String| config.replace(ROUTE, "topic = \"elsewhere:*\"\nplugin = \"misbehave\"\n");
        let close = told(transport, "phx_close", nowhere).await;
        assert_eq!(close, json!({ "reason": "unmatched topic" }));
    }
}

#[tokio::test]
async fn a_join_that_waits_while_its_route_moves_is_told_so() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    let pending = client.start_join(TOPIC, json!({ "do": "never" })).await;
    client.join("misbehave:2", json!({})).await;
    client.push("misbehave:2", "count", json!({})).await;
    let config = bench.read_config();
    bench.write_config(&config.replace(ROUTE, "topic = \"misbehave:*\"\nplugin = \"echo\"\n"));
    let refused = json!({ "status": "error", "response": { "reason": "rerouted" } });
    assert_eq!(client.answer(&pending).await, refused);
}

#[tokio::test]
async fn members_that_rejoin_new_code_are_told_that_it_is_new() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put("misbehave", Build::MisbehaveV2);
    let told = client.event(TOPIC, "phx_error").await;
    assert_eq!(told, json!({ "reason": "reloaded" }));
}

#[tokio::test]
async fn members_of_a_plugin_out_of_service_are_told_so() {
    let bench = Bench::new();
    for (key, value) in [("on_panics", "\"out_of_service\""), ("max_panics", "1")] {
        bench.set("plugins.misbehave", key, value);
    }
    let server = bench.serve().await;
    let mut calm = Client::joined(&server, "misbehave:calm").await;
    let mut bad = Client::joined(&server, "misbehave:bad").await;
    bad.start("misbehave:bad", "panic", json!({})).await;
    let told = bad.event("misbehave:bad", "phx_error").await;
    assert_eq!(told, json!({ "reason": "channel_crash" }));
    let told = calm.event("misbehave:calm", "phx_error").await;
    assert_eq!(told, json!({ "reason": "plugin unavailable" }));
}
