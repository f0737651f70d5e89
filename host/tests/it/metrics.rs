//! Every metric is described, and the board for Grafana names only metrics that exist.

use std::collections::BTreeSet;

use bennu_tools::client::Transport;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, metric};
use crate::support::server::Bench;

/// Metrics with labels that are not there before a backend comes.
const OF_BACKENDS: [&str; 2] = ["bennu_api_requests_total", "bennu_api_refused_total"];

/// The names as Prometheus stores them, from a server where something of each kind has happened.
async fn served() -> BTreeSet<String> {
    let bench = Bench::new();
    bench.set("log", "client_burst", "1");
    bench.set("plugins.misbehave", "durability", "\"checkpoint\"");
    let server = bench.serve().await;
    let mut client = Client::connect(&server).await;
    for _ in 0..3 {
        client.try_join("nowhere:1", json!({})).await;
    }
    bench.put_bytes("echo", b"not a library\n");
    server.log.line(&["plugin=\"echo\"", "code=\"not_elf\""]).await;
    let text = get(server.admin().await, "/metrics").await.body;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ') {
        Some((name, "counter")) => format!("{name}_total"),
        Some((name, "gauge")) => name.to_owned(),
        other => panic!("{other:?}"),
    };
    types.map(name).chain(OF_BACKENDS.map(str::to_owned)).collect()
}

#[tokio::test]
async fn each_metric_is_described_and_each_description_has_its_metric() {
    let guide = include_str!("../../docs/metrics.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `bennu_"));
    let described = rows
        .map(|row| format!("bennu_{}", row.split('`').next().unwrap_or_default()))
        .collect();
    let served = served().await;
    assert_eq!(served, described);
}

#[tokio::test]
async fn the_board_names_only_metrics_that_exist() {
    let served = served().await;
    let board: Value = serde_json::from_str(include_str!("../../../config/grafana.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let mut expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a text")).collect();
    let variables = board["templating"]["list"].as_array().expect("variables");
    expressions.extend(
        variables
            .iter()
            .filter_map(|variable| variable["query"]["query"].as_str()),
    );
    assert!(expressions.len() > 20);
    for expression in expressions {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("bennu_")).collect();
        assert!(!named.is_empty(), "{expression}");
        for name in named {
            assert!(served.contains(name), "{name} in {expression}");
        }
    }
}

#[tokio::test]
async fn clients_are_counted_by_mount_and_plugin_and_the_process_by_the_system() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "sleep", json!({ "ms": 20 })).await;
    let mut other = Client::connect_by(&server, Transport::LongPoll).await;
    other.join("misbehave:1", json!({})).await;
    for transport in ["websocket", "longpoll"] {
        let labels = format!("{{mount=\"/socket\",transport=\"{transport}\"}}");
        assert_eq!(metric(admin, &format!("bennu_clients{labels}")).await, 1, "{transport}");
        assert_eq!(
            metric(admin, &format!("bennu_connects_total{labels}")).await,
            1,
            "{transport}"
        );
    }
    assert_eq!(metric(admin, "bennu_plugin_members{plugin=\"misbehave\"}").await, 2);
    assert_eq!(metric(admin, "bennu_limit{limit=\"max_connections\"}").await, 200);
    assert!(metric(admin, "bennu_limit_used{limit=\"max_connections\"}").await >= 2);
    assert!(metric(admin, "bennu_process_open_files").await > 10);
    assert!(metric(admin, "bennu_process_resident_memory_bytes").await > 1 << 20);
    let text = get(admin, "/metrics").await.body;
    let seconds = |name: &str| -> f64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    };
    assert!(seconds("bennu_process_cpu_seconds_total") > 0.0);
    assert!(seconds("bennu_plugin_handler_seconds_total{plugin=\"misbehave\"}") >= 0.02);
    drop(client);
    let gone = async { while metric(admin, "bennu_clients{mount=\"/socket\",transport=\"websocket\"}").await > 0 {} };
    crate::support::within("end of the client", gone).await;
}
