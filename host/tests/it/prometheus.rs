//! Debian's Prometheus reads the metrics, and answers what the board for Grafana asks.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::server::{Bench, SECRET};
use crate::support::within;

/// How long Prometheus may take to start and to look twice. It looks once a second here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus that runs, and where it listens.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Prometheus {
    /// Starts it with this configuration.
    async fn start(bench: &Bench, config: &str) -> Self {
        let (file, log) = (bench.path("prometheus.yml"), bench.path("prometheus.log"));
        fs::write(&file, config).expect("written");
        let output = fs::File::create(&log).expect("created");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", bench.path("prometheus").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs Debian's package prometheus ({error})"));
        let listens = async {
            loop {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let lines = said.lines().filter(|line| line.contains("Listening on"));
                let mut addresses = lines.filter_map(|line| line.split("address=").nth(1)?.trim().parse().ok());
                if let Some(address) = addresses.next() {
                    return address;
                }
                let ended = child.try_wait().expect("our child");
                assert!(ended.is_none(), "prometheus has ended:\n{said}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let address = tokio::time::timeout(PATIENCE, listens)
            .await
            .expect("it listens in time");
        let ready = async {
            while !old_get(address, "/-/ready").await.contains("is Ready") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        { tokio::time::timeout(PATIENCE, ready).await }.expect("it is ready in time");
        Self { child, address, log }
    }

    /// The answer to an expression.
    async fn ask(&self, expression: &str) -> Vec<Value> {
        let query: String = { expression.bytes() }.map(|byte| format!("%{byte:02x}")).collect();
        // In HTTP/1.1 it would answer in chunks.
        let path = format!("/api/v1/query?query={query}");
        let answer = old_get(self.address, &path).await;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{expression}: {answer}"));
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let result = answer["data"]["result"].as_array();
        result.unwrap_or_else(|| panic!("{expression}: {answer}")).clone()
    }

    /// The value of the first series of an expression, once it is this.
    async fn reaches(&self, expression: &str, expected: &str) {
        let mut last = Vec::new();
        let reached = async {
            loop {
                last = self.ask(expression).await;
                if last.iter().any(|series| series["value"][1] == expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{expression} is not {expected} but {last:?}");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[allow(clippy::print_stderr, reason = "a test has failed")]
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("prometheus had said:\n{said}");
        }
    }
}

/// The body of an answer to a request of HTTP/1.0.
async fn old_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("answer of Prometheus", read).await.expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// The expressions of the board, for the one server that there is.
fn expressions() -> Vec<String> {
    let board: Value = serde_json::from_str(include_str!("../../../config/grafana.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expression = |target: &Value| target["expr"].as_str().expect("a text").to_owned();
    let expression = |target| {
        expression(target)
            .replace("$instance", ".*")
            .replace("$__rate_interval", "1m")
    };
    targets.map(expression).collect()
}

#[tokio::test]
async fn prometheus_reads_the_metrics_and_understands_each_expression_of_the_board() {
    let guide = include_str!("../../docs/metrics.md");
    let config = guide
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let config = config.expect("the guide has a configuration");
    let bench = Bench::new();
    fs::write(bench.path("secret"), SECRET).expect("written");
    // The client says nothing while Prometheus starts.
    bench.set("limits", "idle_timeout_ms", "600_000");
    let server = bench
        .serve_with(|command| command.env("BENNU_ADMIN_SECRET", SECRET))
        .await;
    let admin = server.admin().await;
    assert!(config.contains("127.0.0.1:4001") && config.contains("# authorization: { credentials_file: … }"));
    let config = config.replace("127.0.0.1:4001", &admin.to_string()).replace(
        "# authorization: { credentials_file: … }",
        &format!(
            "authorization: {{ credentials_file: {} }} #",
            bench.path("secret").display()
        ),
    );
    let config = format!("global:\n  scrape_interval: 1s\n{config}");
    let prometheus = Prometheus::start(&bench, &config).await;
    let mut client = Client::joined(&server, "echo:1").await;
    for _ in 0..3 {
        client.push("echo:1", "echo", json!({})).await;
    }
    prometheus.reaches("up{job=\"bennu\"}", "1").await;
    prometheus.reaches("bennu_sockets", "1").await;
    prometheus.reaches("bennu_messages_in_total", "4").await;
    prometheus.reaches("bennu_plugin_members{plugin=\"echo\"}", "1").await;
    prometheus
        .reaches("bennu_limit{limit=\"client_events_per_s\"}", "2500")
        .await;
    // A second look, which `rate` needs.
    prometheus
        .reaches("count_over_time(bennu_sockets[1m]) > bool 2", "1")
        .await;
    let expressions = expressions();
    assert!(expressions.len() > 20);
    for expression in expressions {
        prometheus.ask(&expression).await;
        // Each metric that it names is there under this name and with these labels, whatever it makes of it.
        for selector in selectors(&expression) {
            let found = prometheus.ask(&format!("count({selector})")).await;
            assert!(
                !found.is_empty() || is_rare(&selector),
                "{selector} of {expression} is nothing"
            );
        }
    }
}

/// The metrics of an expression, with their labels.
fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("bennu_") {
        rest = &rest[at..];
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let labels = match rest[end..].starts_with('{') {
            true => rest[end..].find('}').map_or(0, |closing| closing + 1),
            false => 0,
        };
        found.push(rest[..end + labels].to_owned());
        rest = &rest[end + labels..];
    }
    found
}

/// What is not there before something of the kind has happened.
fn is_rare(selector: &str) -> bool {
    [
        "bennu_api_",
        "bennu_store_",
        "bennu_log_lines_left_out",
        "bennu_auth_refused",
        "bennu_plugin_refusals",
        "bennu_plugin_steps",
    ]
    .iter()
    .any(|rare| selector.starts_with(rare))
}
