//! Whole conversations over nodes behind a proxy that gives each request to the next one.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tokio::net::TcpStream;

use super::longpoll::set;
use super::{Broker, Node, agree, patiently, settled};
use crate::api::Backend;
use crate::support::http::{plugin, request};
use crate::support::server::Bench;
use crate::support::within;
use crate::transcript::{Over, Version, run_at};

/// HAProxy, which gives each request, and each WebSocket, to the next node.
struct Proxy {
    _folder: Bench,
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    async fn start(nodes: &[&Node]) -> Self {
        let folder = Bench::new();
        let free = { TcpListener::bind("127.0.0.1:0") }.and_then(|free| free.local_addr());
        let address = free.expect("a free port");
        let mut config = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\n\
             frontend clients\n  bind {address}\n  default_backend nodes\nbackend nodes\n  balance roundrobin\n"
        );
        for (number, node) in nodes.iter().enumerate() {
            config += &format!("  server node{number} {}\n", node.server.address);
        }
        let file = folder.path("haproxy.cfg");
        fs::write(&file, config).expect("written");
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("Debian's package haproxy");
        let listens = async { while TcpStream::connect(address).await.is_err() {} };
        within("HAProxy", listens).await;
        Self {
            _folder: folder,
            child,
            address,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// Waits until nobody is in a topic any more, and has the plugin count its topics from one again: as after a start.
async fn refresh(nodes: &[&Node]) {
    for node in nodes {
        // Nobody polls these sessions any more.
        let closed = request(node.admin, "DELETE", "/connections?peer=127.0.0.1", "", "").await;
        assert_eq!(closed.status, 200, "{}", closed.body);
    }
    let backend = Backend::of(&nodes[0].server).await;
    let empty = async { while backend.get("/api/topics").await.1["topics"] != json!([]) {} };
    patiently("end of all topics", empty).await;
    for node in nodes {
        let before = plugin(node.admin, "misbehave").await["generation"].as_u64();
        let reloads = request(node.admin, "PUT", "/plugins/misbehave/reload", "", "").await;
        assert_eq!(reloads.status, 202, "{}", reloads.body);
        let reloaded = async { while plugin(node.admin, "misbehave").await["generation"].as_u64() == before {} };
        patiently("reload", reloaded).await;
    }
}

/// Plays all transcripts of a version, one after the other, over three nodes.
async fn play(written: Version, over: Over) {
    let broker = Broker::start();
    // A session lives for a window and a half without a poll, and machines for tests are busy.
    let change = |bench: &Bench| set(bench, "longpoller_window_ms = 200", "longpoller_window_ms = 2_000");
    let a = Node::start_with(&broker, "a", change).await;
    let b = Node::start_with(&broker, "b", change).await;
    let c = Node::start_with(&broker, "c", change).await;
    let nodes = [&a, &b, &c];
    agree(&nodes).await;
    settled(&nodes).await;
    let proxy = Proxy::start(&nodes).await;
    for name in crate::transcript::found(written) {
        let played = run_at(proxy.address, written, &name, over);
        patiently(&name, played).await;
        refresh(&nodes).await;
    }
}

#[tokio::test]
async fn today_over_long_polling() {
    play(Version::V2, Over::LongPoll).await;
}

#[tokio::test]
async fn today_over_websockets() {
    play(Version::V2, Over::WebSocket).await;
}

#[tokio::test]
async fn version_1_over_long_polling() {
    play(Version::V1, Over::LongPoll).await;
}

#[tokio::test]
async fn phoenix_0_11_over_long_polling() {
    play(Version::Phoenix011, Over::LongPoll).await;
}

#[tokio::test]
async fn phoenix_0_11_over_websockets() {
    play(Version::Phoenix011, Over::WebSocket).await;
}
