//! Unix sockets, sockets that systemd has opened, and several listeners at a time.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::address_of;
use crate::handshake::UPGRADE;
use crate::support::client::Client;
use crate::support::http::get;
use crate::support::server::{Bench, Server};
use crate::support::wire::frame;
use crate::support::within;

/// Passes a listener on as systemd does, and becomes the program.
const PASSES_ON: &str = "\
import os, socket, sys
sockets = [socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0))]
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[1])
unix.listen()
sockets.append(unix)
high = [os.dup(s.fileno()) for s in sockets]
high = [os.dup2(fd, 100 + at) for at, fd in enumerate(high)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='3', LISTEN_FDNAMES='clients:other:clients')
os.execv(sys.argv[2], sys.argv[2:])
";

/// A WebSocket by a Unix socket, and with more headers.
async fn open(path: &Path, headers: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.expect("it listens");
    let request = format!("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\n{UPGRADE}{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("head", stream.read_u8()).await.expect("a byte"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Joins a topic, and waits for the answer.
async fn join(stream: &mut UnixStream) {
    let join = frame(0x81, br#"["1","1","echo:1","phx_join",{}]"#);
    stream.write_all(&join).await.expect("sent");
    let mut reply = [0; 1_000];
    let read = within("reply", stream.read(&mut reply)).await.expect("read");
    let reply = String::from_utf8_lossy(&reply[..read]).into_owned();
    assert!(reply.contains(r#""status":"ok""#), "{reply}");
}

async fn peers(server: &Server) -> Vec<String> {
    let page = get(server.admin().await, "/connections").await.json();
    let connections = page["connections"].as_array().expect("a list").clone();
    connections
        .iter()
        .map(|connection| connection["peer"].as_str().expect("one").to_owned())
        .collect()
}

#[tokio::test]
async fn clients_come_by_a_unix_socket_which_goes_with_the_server() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"unix:clients.sock\"\nmode = \"0600\"");
    let server = bench.serve().await;
    let path = bench.path("clients.sock");
    server.log.line(&["listening on unix:", "clients.sock"]).await;
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = open(&path, "").await;
    join(&mut stream).await;
    assert_eq!(peers(&server).await, ["127.0.0.1:0"]);
    // Whoever may write to the socket is trusted as a proxy.
    let mut behind = open(&path, "x-forwarded-for: 203.0.113.7\r\n").await;
    join(&mut behind).await;
    assert!(peers(&server).await.contains(&"203.0.113.7:0".to_owned()));
    assert!(server.stop().await.success());
    assert!(!path.exists(), "it is removed");
}

#[tokio::test]
async fn a_socket_that_a_killed_server_has_left_does_not_hinder_the_next() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"unix:clients.sock\"");
    drop(bench.serve().await);
    assert!(bench.path("clients.sock").exists(), "it was killed");
    let server = bench.serve().await;
    let mut stream = open(&bench.path("clients.sock"), "").await;
    join(&mut stream).await;
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn systemd_passes_listeners_on_by_name() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"systemd:clients\"\n\n[[listeners]]\nlisten = \"systemd:other\"");
    let path = bench.path("passed.sock");
    let server = bench
        .serve_by(&["python3", "-c", PASSES_ON, path.to_str().expect("text")])
        .await;
    let first = address_of(&server, "http").await;
    for address in [server.address, first] {
        let options = bennu_tools::client::Options::new(address, bennu_tools::client::Transport::WebSocket);
        let mut client = Client::connect_with(&options).await;
        client.join("echo:1", json!({})).await;
    }
    let mut stream = open(&path, "").await;
    join(&mut stream).await;
    assert!(server.stop().await.success());
    // It is systemd's own.
    assert!(path.exists());
}

#[tokio::test]
async fn a_name_that_systemd_has_not_passed_is_refused_with_those_that_it_has() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"systemd:clinets\"");
    let path = bench.path("passed.sock");
    let program = ["python3", "-c", PASSES_ON, path.to_str().expect("text")];
    let command = crate::support::server::by(&program, &bench.command());
    let mut server = Server::starting(command);
    server
        .log
        .line(&["systemd has passed no socket of this name, but `clients` and `other` and `clients`"])
        .await;
    assert!(!server.ended().await.success());
}

#[tokio::test]
async fn a_server_may_have_no_listener_of_its_own_section() {
    let bench = Bench::new();
    bench.set("server", "listen", "false");
    bench.append("[[listeners]]\nlisten = \"127.0.0.1:0\"\n\n[[listeners]]\nlisten = \"127.0.0.1:0\"");
    let server = bench.serve().await;
    let second: SocketAddr = address_of(&server, "http").await;
    assert_ne!(server.address, second);
    for address in [server.address, second] {
        let options = bennu_tools::client::Options::new(address, bennu_tools::client::Transport::WebSocket);
        Client::connect_with(&options).await.join("echo:1", json!({})).await;
    }
}

#[tokio::test]
async fn a_listener_that_is_added_while_the_server_runs_needs_a_restart_and_the_log_says_so() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.append("[[listeners]]\nlisten = \"127.0.0.1:0\"");
    server
        .log
        .line(&["[listeners]", "restart the server to apply this change"])
        .await;
}
