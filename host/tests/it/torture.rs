//! `bennu torture`: that it finds nothing, and that it would.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::plugins::Build;
use crate::support::server::bennu;

/// Set, the server breaks the hand-over.
const FAULT: &str = "BENNU_FAULT_UNHELD";
/// What must be 0.
const COUNTS: [&str; 6] = ["lost", "doubled", "reordered", "closed", "differences", "ended"];

fn torture(arguments: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    let mut command = bennu();
    command
        .args(["torture", "--libraries"])
        .arg(Build::folder())
        .args(arguments.split(' '));
    change(&mut command).output().expect("it runs")
}

fn certificate(output: &Output) -> Value {
    let report = serde_json::from_slice::<Value>(&output.stdout);
    let messages = report
        .ok()
        .and_then(|mut report| Some(report.get_mut("messages")?.take()));
    messages.unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("no certificate, but {said}")
    })
}

#[test]
fn reloads_under_fire_lose_double_and_reorder_nothing() {
    let small = "--clients 40 --topics 40 --rate 500 --reloads 12 --in-flight 50 --seed 7 --json";
    let output = torture(small, |command| command);
    let certificate = certificate(&output);
    let shown = || format!("{certificate:#}");
    for count in COUNTS {
        assert_eq!(certificate[count], 0, "{count}: {}", shown());
    }
    let reloads = &certificate["reloads"];
    assert_eq!(
        ["done", "refused", "rolled_back", "unexpected"].map(|what| reloads[what].as_i64()),
        [12, 1, 2, 0].map(Some),
        "{}",
        shown()
    );
    let at_least = |place: &str, least: i64| {
        let value = certificate.pointer(place).and_then(Value::as_i64);
        assert!(value >= Some(least), "{place} is below {least}: {}", shown());
    };
    at_least("/sent", 500);
    at_least("/received", 2_000);
    at_least("/audits", 100);
    at_least("/in_flight/least", 50);
    at_least("/pauses/moves", 12 * 40);
    at_least("/panics", 3);
    assert_eq!(certificate["memory"]["unmapped"], 14, "{}", shown());
    assert_eq!((&certificate["passed"], output.status.code()), (&true.into(), Some(0)));
}

#[test]
fn mailboxes_that_go_on_while_their_topic_moves_are_noticed() {
    let small = "--clients 20 --topics 20 --rate 400 --reloads 3 --in-flight 20 --seed 7 --json";
    let output = torture(small, |command| command.env(FAULT, "1"));
    let certificate = certificate(&output);
    let wrong = |count: &str| certificate[count].as_i64().unwrap_or(0);
    assert!(
        wrong("lost") + wrong("doubled") + wrong("reordered") > 0,
        "{certificate:#}"
    );
    assert!(wrong("differences") > 0, "{certificate:#}");
    assert_ne!(certificate["findings"], Value::Array(Vec::new()));
    assert_eq!((&certificate["passed"], output.status.code()), (&false.into(), Some(1)));
}

#[test]
fn a_certificate_is_a_page_that_people_read() {
    let output = torture(
        "--clients 4 --topics 2 --rate 50 --reloads 1 --in-flight 1 --seed 7",
        |command| command,
    );
    let page = String::from_utf8(output.stdout).expect("text");
    assert!(
        page.starts_with("4 clients (2 by WebSocket, 2 by long polling), 2 topics"),
        "{page}"
    );
    for line in ["lost 0", "doubled 0", "reordered 0", "sockets closed 0"] {
        let is_it = |shown: &str| shown.split_whitespace().eq(line.split(' '));
        assert!(page.lines().any(is_it), "{line} is missing in\n{page}");
    }
    assert!(page.ends_with("passed\n"), "{page}");
}

/// What `--kill` has found.
fn kills(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("no report, but {said}")
    });
    report["kills"].clone()
}

#[test]
fn kills_under_load_lose_and_double_nothing_that_was_acknowledged() {
    let output = torture("--kill 4 --seed 7 --json", |command| command);
    let kills = kills(&output);
    for durability in ["commit", "checkpoint"] {
        let kept = &kills[durability];
        assert!(kept["acknowledged"].as_u64() > Some(20), "{kills:#}");
        for count in ["doubled", "differences", "late"] {
            assert_eq!(kept[count], 0, "{durability}, {count}: {kills:#}");
        }
    }
    assert_eq!(
        (&kills["commit"]["lost"], &kills["commit"]["ticks_lost"]),
        (&0.into(), &0.into()),
        "{kills:#}"
    );
    assert_eq!(
        (&kills["passed"], output.status.code()),
        (&true.into(), Some(0)),
        "{kills:#}"
    );
}

#[test]
fn a_store_that_keeps_nothing_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let fault = folder.path().join("fault");
    std::fs::write(&fault, "lose").expect("written");
    let output = torture("--kill 2 --seed 7 --json", |command| {
        command.env("BENNU_FAULT_STORE", &fault)
    });
    let kills = kills(&output);
    assert!(kills["commit"]["lost"].as_u64() > Some(0), "{kills:#}");
    assert_ne!(kills["findings"], Value::Array(Vec::new()));
    assert_eq!((&kills["passed"], output.status.code()), (&false.into(), Some(1)));
}

/// What `--nodes` has found.
#[cfg(feature = "cluster")]
fn nodes(arguments: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> (Value, Option<i32>) {
    let cluster = "--nodes 2 --clients 20 --topics 10 --rate 60 --lease-ms 3000 --rounds 1 --json";
    let output = torture(&format!("{cluster} {arguments}"), |command| {
        change(command.arg("--nats-server").arg(crate::cluster::nats_server()))
    });
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("no report, but {said}")
    });
    (report["nodes"].clone(), output.status.code())
}

#[cfg(feature = "cluster")]
#[test]
fn a_cluster_whose_nodes_restart_and_are_killed_loses_nothing_silently() {
    for (seed, what, begin_anew) in [(2, "a node restarts", false), (3, "a node is killed", true)] {
        let (nodes, _) = nodes(&format!("--seed {seed}"), |command| command);
        for count in [
            "lost",
            "doubled",
            "reordered",
            "closed",
            "differences",
            "undone",
            "outlived",
        ] {
            assert_eq!(nodes[count], 0, "{count}: {nodes:#}");
        }
        assert_eq!(nodes["rounds"][0]["what"], what, "{nodes:#}");
        assert_eq!(nodes["begun_anew"].as_u64() > Some(0), begin_anew, "{nodes:#}");
        // At the beginning, after the round, and at the end.
        assert_eq!(nodes["audits"], 3 * 20, "{nodes:#}");
        assert!(nodes["answered"].as_u64() > Some(100), "{nodes:#}");
        assert_ne!(nodes["reasons"], serde_json::json!({}), "{nodes:#}");
    }
}

#[cfg(feature = "cluster")]
#[test]
fn a_cluster_that_loses_broadcasts_is_noticed() {
    let (nodes, code) = nodes("--seed 2", |command| command.env("BENNU_FAULT_LOST_BROADCASTS", "50"));
    assert!(nodes["lost"].as_u64() > Some(0), "{nodes:#}");
    assert_ne!(nodes["findings"], Value::Array(Vec::new()));
    assert_eq!((&nodes["passed"], code), (&false.into(), Some(1)), "{nodes:#}");
}

#[test]
fn topics_that_sleep_are_counted_woken_and_stormed() {
    let output = torture("--part sleeping --sleepers 400 --json", |command| command);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let sleeping = &report["sleeping"];
    assert_eq!(
        (&sleeping["topics"], &sleeping["storm"]["joins"]),
        (&400.into(), &200.into()),
        "{report:#}"
    );
    for time in [
        "/first_join_ms",
        "/wake/p50_ms",
        "/storm/all_ms",
        "/storm/events/p50_ms",
    ] {
        assert!(
            sleeping.pointer(time).and_then(Value::as_f64) > Some(0.0),
            "{time}: {report:#}"
        );
    }
}

#[test]
fn without_libraries_there_is_no_certificate() {
    let output = bennu()
        .args(["torture", "--libraries", "/no/such/folder"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot read /no/such/folder/libledger-v2.so"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_the_server_says_of_libraries_that_it_does_not_take_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(Build::folder()).expect("the libraries") {
        let name = entry.expect("a library").file_name();
        std::fs::write(folder.path().join(name), "no library").expect("written");
    }
    let output = bennu()
        .args(["torture", "--libraries"])
        .arg(folder.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("the server has ended") && said.contains("`ledger` is rejected (step `check`)"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn of_libraries_with_a_runtime_nothing_stays_mapped_and_it_is_plotted() {
    let plots = tempfile::tempdir().expect("a folder");
    let output = torture("--part unloading --unloads 5 --json", |command| {
        command.arg("--plots").arg(plots.path())
    });
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let unloading = &report["unloading"];
    assert_eq!(
        (&unloading["replaced"], &unloading["unmapped"]),
        (&5.into(), &5.into()),
        "{report:#}"
    );
    let plot = std::fs::read_to_string(plots.path().join("unloading.svg")).expect("a plot");
    assert!(plot.starts_with("<svg") && plot.contains("<polyline"), "{plot}");
}
