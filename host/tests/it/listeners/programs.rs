//! nginx and HAProxy in front of the server, with the snippets of host/docs/operating.md.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bennu_tools::client::Transport;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::{address_of, secure_address};
use crate::support::authority::{Authority, secure_bench, upgraded};
use crate::support::client::Client;
use crate::support::http::get;
use crate::support::server::{Bench, Server};
use crate::support::within;

const GUIDE: &str = include_str!("../../../docs/operating.md");
/// Where clients of these tests connect from: another address than that of the proxies.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 77];

/// A block of the guide in this language that has this text.
fn snippet(language: &str, with: &str) -> String {
    let fence = format!("```{language}\n");
    let blocks = GUIDE.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let mut found = blocks.filter(|block| block.contains(with));
    let first = found
        .next()
        .unwrap_or_else(|| panic!("the guide has no {language} with {with:?}"));
    assert!(found.next().is_none(), "the guide has two of {language} with {with:?}");
    first.to_owned()
}

/// A block of the guide, which must be there as it is.
fn snippet_that_is(language: &str, text: &str) -> String {
    let block = format!("```{language}\n{text}```");
    assert!(GUIDE.contains(&block), "the guide has no\n{block}");
    text.to_owned()
}

/// The same text with another one in the place of one that it must have.
fn with(text: &str, place: &str, other: impl ToString) -> String {
    assert!(text.contains(place), "{place:?} is not in\n{text}");
    text.replace(place, &other.to_string())
}

/// A proxy that runs, and where it listens.
struct Proxy {
    child: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
}

impl Proxy {
    /// Starts a program of Debian, and waits until it listens.
    async fn start(bench: &Bench, program: &str, args: &[&str], address: SocketAddr) -> Self {
        let log = bench.path("proxy.log");
        let file = fs::File::create(&log).expect("created");
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("the tests of proxies need {program}: install Debian's packages nginx and haproxy ({error})")
            });
        let mut proxy = Self { child, address, log };
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                let ended = proxy.child.try_wait().expect("our child");
                assert!(ended.is_none(), "{program} has ended:\n{}", proxy.said());
                tokio::task::yield_now().await;
            }
        };
        within(program, listens).await;
        proxy
    }

    /// nginx with these lines in its `http` part, in which port 443 is the one of the tests.
    async fn nginx(bench: &Bench, authority: &Authority, http: &str) -> Self {
        let address = free_address();
        authority.issue("localhost").put(&bench.path(""), "proxy");
        let folder = bench.path("");
        let live = "/etc/letsencrypt/live/chat.example.com/";
        let http = with(
            http,
            &format!("{live}fullchain.pem"),
            folder.join("proxy.pem").display(),
        );
        let http = with(&http, &format!("{live}privkey.pem"), folder.join("proxy.key").display());
        let http = with(&http, "listen 443 ssl", format!("listen {address} ssl"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("    {kind}_temp_path {};\n", folder.join(kind).display()))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\n    access_log off;\n{temporary}{http}}}\n",
            folder.join("nginx.pid").display(),
        );
        let file = bench.path("nginx.conf");
        fs::write(&file, text).expect("written");
        let args = ["-p", text_of(&folder), "-c", text_of(&file)];
        Self::start(bench, "nginx", &args, address).await
    }

    /// HAProxy with this configuration, in which port 443 is the one of the tests.
    async fn haproxy(bench: &Bench, config: &str) -> Self {
        let address = free_address();
        let config = with(config, "bind :443", format!("bind {address}"));
        let file = bench.path("haproxy.cfg");
        fs::write(&file, config).expect("written");
        Self::start(bench, "haproxy", &["-db", "-f", text_of(&file)], address).await
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[allow(clippy::print_stderr, reason = "a test has failed")]
        if std::thread::panicking() {
            eprintln!("the proxy had said:\n{}", self.said());
        }
    }
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// An address that nobody listens on. The programs take no port 0.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

/// A WebSocket by TLS, from elsewhere.
async fn open_from_elsewhere(authority: &Authority, address: SocketAddr) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ELSEWHERE, 0).into()).expect("an address of this machine");
    let tcp = within("connection", socket.connect(address)).await.expect("connected");
    upgraded(authority.over(tcp, "localhost").await).await
}

/// The addresses of the open connections, as the server sees them.
async fn peers(server: &Server) -> Vec<SocketAddr> {
    let page = get(server.admin().await, "/connections").await.json();
    let connections = page["connections"].as_array().expect("a list").clone();
    let peer = |connection: &serde_json::Value| connection["peer"].as_str().expect("one").parse().expect("an address");
    connections.iter().map(peer).collect()
}

/// Clients talk through the proxy by either transport, and the server knows where they are. Returns the address of one from elsewhere.
async fn check(bench: &Bench, authority: &Authority, server: &Server, proxy: &Proxy) -> SocketAddr {
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        let mut client = Client::connect_with(&authority.options(bench, proxy.address, transport)).await;
        client.join("echo:1", json!({})).await;
        // Each of them is at least one request of long polling.
        for n in 0..20 {
            let payload = json!({ "n": n, "filler": "x".repeat(1_000) });
            assert_eq!(
                client.push("echo:1", "echo", payload.clone()).await,
                payload,
                "{transport:?}"
            );
        }
    }
    let stream = open_from_elsewhere(authority, proxy.address).await;
    let own = stream.get_ref().0.local_addr().expect("connected");
    let known = async {
        loop {
            let peers = peers(server).await;
            if let Some(peer) = peers.iter().find(|peer| peer.ip() == own.ip()) {
                return *peer;
            }
            tokio::task::yield_now().await;
        }
    };
    let peer = within("connection from elsewhere", known).await;
    assert!(peer.port() == 0 || peer == own, "{peer} {own}");
    // And so does whoever asks why it is gone.
    drop(stream);
    server.log.line(&["connection closed", &format!("peer={peer} ")]).await;
    peer
}

/// A bench with the `[proxies]` of the guide.
fn behind(authority: &Authority) -> Bench {
    let bench = Bench::new();
    bench.append(&snippet_that_is("toml", "[proxies]\ntrusted = [\"127.0.0.1\"]\n"));
    fs::write(bench.path("ca.pem"), authority.pem()).expect("written");
    bench
}

#[tokio::test]
async fn nginx_ends_tls() {
    let authority = Authority::new();
    let bench = behind(&authority);
    let server = bench.serve().await;
    let http = with(
        &snippet("nginx", "server_name chat"),
        "server 127.0.0.1:4000;",
        format!("server {};", server.address),
    );
    let proxy = Proxy::nginx(&bench, &authority, &http).await;
    assert_eq!(check(&bench, &authority, &server, &proxy).await.port(), 0);
}

#[tokio::test]
async fn nginx_reaches_a_unix_socket() {
    let authority = Authority::new();
    let bench = Bench::new();
    // Without `[proxies]`.
    bench.append("[[listeners]]\nlisten = \"unix:clients.sock\"\nmode = \"0666\"");
    let server = bench.serve().await;
    assert!(GUIDE.contains("`server unix:/run/bennu/clients.sock;`"));
    let socket = format!("server unix:{};", bench.path("clients.sock").display());
    let http = with(&snippet("nginx", "server_name chat"), "server 127.0.0.1:4000;", socket);
    let proxy = Proxy::nginx(&bench, &authority, &http).await;
    check(&bench, &authority, &server, &proxy).await;
}

#[tokio::test]
async fn nginx_reaches_bennu_by_tls_and_checks_its_certificate() {
    let (bench, authority) = secure_bench();
    bench.append("[proxies]\ntrusted = [\"127.0.0.1\"]");
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let http = with(
        &snippet("nginx", "server_name chat"),
        "server 127.0.0.1:4000;",
        format!("server {address};"),
    );
    let verify = snippet("nginx", "proxy_ssl_verify on");
    let verify = with(&verify, "proxy_ssl_name chat.example.com", "proxy_ssl_name localhost");
    let verify = with(
        &verify,
        "/etc/ssl/certs/ca-certificates.crt",
        bench.path("ca.pem").display(),
    );
    fs::write(bench.path("ca.pem"), authority.pem()).expect("written");
    let http = with(
        &http,
        "proxy_pass http://bennu;",
        format!("proxy_pass https://bennu;\n{verify}"),
    );
    let proxy = Proxy::nginx(&bench, &authority, &http).await;
    check(&bench, &authority, &server, &proxy).await;
}

#[tokio::test]
async fn haproxy_ends_tls() {
    let authority = Authority::new();
    let bench = behind(&authority);
    let server = bench.serve().await;
    let issued = authority.issue("localhost");
    fs::write(bench.path("both.pem"), format!("{}{}", issued.cert, issued.key)).expect("written");
    let config = snippet("haproxy", "ssl crt");
    let config = with(
        &config,
        "/etc/haproxy/chat.example.com.pem",
        bench.path("both.pem").display(),
    );
    let config = with(&config, "127.0.0.1:4000", server.address);
    let proxy = Proxy::haproxy(&bench, &config).await;
    assert_eq!(check(&bench, &authority, &server, &proxy).await.port(), 0);
}

#[tokio::test]
async fn haproxy_passes_tls_on_with_either_version_of_the_proxy_protocol() {
    for version in ["send-proxy-v2", "send-proxy"] {
        let authority = Authority::new();
        let bench = Bench::new();
        authority.issue("localhost").put(&bench.path(""), "tls");
        let settings = with(
            &snippet("toml", "proxy_protocol = true"),
            "127.0.0.1:4443",
            "127.0.0.1:0",
        );
        bench.append(&settings);
        bench.append("[[tls.certificates]]\ncert_file = \"tls.pem\"\nkey_file = \"tls.key\"");
        fs::write(bench.path("ca.pem"), authority.pem()).expect("written");
        let server = bench.serve().await;
        let config = with(&snippet("haproxy", "send-proxy-v2"), "send-proxy-v2", version);
        let config = with(&config, "127.0.0.1:4443", address_of(&server, "https").await);
        let proxy = Proxy::haproxy(&bench, &config).await;
        let peer = check(&bench, &authority, &server, &proxy).await;
        assert_ne!(peer.port(), 0, "the PROXY protocol names it");
        // Health checks of the proxy say nothing, and are no refused clients.
        assert_eq!(server.log.count(&["client refused"]), 0, "{}", server.log.text());
    }
}
