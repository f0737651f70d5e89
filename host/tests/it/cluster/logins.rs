//! How nodes reach NATS: each way to log in, TLS, and a cluster of NATS servers.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{Broker, Node, agree, named, patiently, settled, topic_at};
use crate::support::authority::Authority;
use crate::support::client::Client;
use crate::support::server::{Bench, Server};

/// A seed, and what NATS knows of it.
const SEED: &str = "SUALXLSBLXV33FCSULJQBLBHBZLYWNOA4VROAQQQPIDFOYY65NEFTOXCDI";
const NKEY: &str = "UAZDLNT3ZJ7FKVX6MVV43SXEFPNOGNY4Y3EW5UUR7QB5HPU2XTQ3C6J7";

/// A file that only its owner may read.
fn secret(bench: &Bench, text: &str) {
    let file = bench.path("nats.secret");
    fs::write(&file, text).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("changed");
}

/// Two nodes that log in in this way serve a topic together.
async fn check_serves(broker: &Broker, change: impl Fn(&Bench)) {
    let (a, b) = (
        Node::start_with(broker, "a", &change).await,
        Node::start_with(broker, "b", &change).await,
    );
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&a, "room:", "b").await;
    let _bob = b.join(&topic, named("bob")).await;
    let mut ann = a.join(&topic, named("ann")).await;
    let present = ann.event(&topic, "presence_state").await;
    assert!(present["ann"].is_object() && present["bob"].is_object(), "{present}");
}

/// A node that logs in in this way does not start, and says why.
async fn check_refused(broker: &Broker, change: impl FnOnce(&Bench), words: &[&str]) {
    let bench = crate::api::bench();
    bench.append(&format!(
        "[cluster]\nservers = [\"nats://127.0.0.1:{}\"]\nnode = \"c\"\n",
        broker.port
    ));
    change(&bench);
    let mut server = Server::starting(bench.command());
    server.log.line(words).await;
    assert!(!patiently("end", server.ended()).await.success());
}

const UNREACHABLE: [&str; 1] = ["cannot reach NATS at nats://127.0.0.1:"];

#[tokio::test]
async fn nodes_log_in_by_name_and_password_and_by_nothing_else() {
    let broker = Broker::start_with("authorization { user: bennu, password: \"pass word\" }\n");
    let by = |password: &'static str| {
        move |bench: &Bench| {
            secret(bench, password);
            for (key, value) in [
                ("login", "\"user\""),
                ("user", "\"bennu\""),
                ("login_file", "\"nats.secret\""),
            ] {
                bench.set("cluster", key, value);
            }
        }
    };
    check_serves(&broker, by("pass word\n")).await;
    check_refused(&broker, by("password\n"), &UNREACHABLE).await;
    check_refused(&broker, |_| {}, &UNREACHABLE).await;
}

#[tokio::test]
async fn nodes_log_in_by_token_from_the_environment() {
    let broker = Broker::start_with("authorization { token: tokens_are_secret }\n");
    let by = |bench: &Bench| bench.set("cluster", "login", "\"token\"");
    let start = async |name| {
        let token = ("BENNU_NATS_TOKEN", "tokens_are_secret");
        Node::start_by(&broker, name, by, |command| command.env(token.0, token.1)).await
    };
    let (a, b) = (start("a").await, start("b").await);
    agree(&[&a, &b]).await;
    check_refused(&broker, by, &["the login at NATS has no secret: set BENNU_NATS_TOKEN"]).await;
    let wrong = |bench: &Bench| {
        by(bench);
        secret(bench, "tokens_are_guessed");
        bench.set("cluster", "login_file", "\"nats.secret\"");
    };
    check_refused(&broker, wrong, &UNREACHABLE).await;
}

#[tokio::test]
async fn nodes_log_in_by_nkey() {
    let broker = Broker::start_with(&format!("authorization {{ users: [ {{ nkey: {NKEY} }} ] }}\n"));
    let by = |bench: &Bench| {
        secret(bench, SEED);
        bench.set("cluster", "login", "\"nkey\"");
        bench.set("cluster", "login_file", "\"nats.secret\"");
    };
    check_serves(&broker, by).await;
}

#[tokio::test]
async fn nodes_log_in_by_credentials_as_nsc_writes_them() {
    let broker = Broker::start_with(include_str!("nats/operator.conf"));
    let by = |bench: &Bench| {
        secret(bench, include_str!("nats/node.creds"));
        bench.set("cluster", "login", "\"credentials\"");
        bench.set("cluster", "login_file", "\"nats.secret\"");
    };
    check_serves(&broker, by).await;
}

#[tokio::test]
async fn nodes_reach_nats_by_tls_and_both_show_certificates() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
    authority.issue("localhost").put(folder.path(), "nats");
    let broker = Broker::start_with(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true, timeout: 10 }}\n",
        path("nats.pem"),
        path("nats.key"),
        path("ca.pem")
    ));
    let servers = format!("[\"tls://localhost:{}\"]", broker.port);
    let trusting = |bench: &Bench, authority: &Authority| {
        fs::write(bench.path("ca.pem"), authority.pem()).expect("written");
        bench.set("cluster", "servers", &servers);
        bench.set("cluster", "ca_file", "\"ca.pem\"");
    };
    let shown = |bench: &Bench| {
        authority.issue("node").put(&bench.path(""), "node");
        fs::set_permissions(bench.path("node.key"), fs::Permissions::from_mode(0o600)).expect("changed");
        bench.set("cluster", "cert_file", "\"node.pem\"");
        bench.set("cluster", "key_file", "\"node.key\"");
    };
    check_serves(&broker, |bench| {
        trusting(bench, &authority);
        shown(bench);
    })
    .await;
    let unreachable = ["cannot reach NATS at tls://localhost:"];
    check_refused(&broker, |bench| trusting(bench, &authority), &unreachable).await;
    let other = |bench: &Bench| {
        trusting(bench, &Authority::new());
        shown(bench);
    };
    check_refused(&broker, other, &unreachable).await;
}

/// Three servers of NATS that are one.
fn three_brokers() -> Vec<Broker> {
    let free = || { TcpListener::bind("127.0.0.1:0") }.and_then(|free| free.local_addr());
    let ports: Vec<u16> = (0..3).map(|_| free().expect("a free port").port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let lines = |number: usize, port: &u16| {
        format!(
            "server_name: n{number}\ncluster {{ name: tests, listen: \"127.0.0.1:{port}\", routes: [ {} ] }}\n",
            routes.join(", ")
        )
    };
    { ports.iter().enumerate() }
        .map(|(number, port)| Broker::start_with(&lines(number, port)))
        .collect()
}

#[tokio::test]
async fn one_of_three_nats_servers_may_be_killed_and_topics_and_what_is_stored_stay() {
    let mut brokers = three_brokers();
    let servers: Vec<String> = brokers
        .iter()
        .map(|broker| format!("\"nats://127.0.0.1:{}\"", broker.port))
        .collect();
    let replicated = |bench: &Bench| {
        bench.set("cluster", "servers", &format!("[{}]", servers.join(", ")));
        bench.set("cluster", "replicas", "3");
        bench.set("cluster", "lease_ms", "5_000");
        bench.set("plugins.misbehave", "durability", "\"commit\"");
    };
    // Three servers need a moment to choose a leader; whoever comes before that is told that there is no JetStream yet.
    let ready = async {
        loop {
            let client = async_nats::connect(format!("127.0.0.1:{}", brokers[0].port)).await;
            let Ok(client) = client else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if async_nats::jetstream::new(client).query_account().await.is_ok() {
                break;
            }
        }
    };
    patiently("leader", ready).await;
    let (mut a, b) = (
        Node::start_with(&brokers[0], "a", replicated).await,
        Node::start_with(&brokers[0], "b", replicated).await,
    );
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let topic = topic_at(&b, "misbehave:", "a").await;
    let mut client = a.join(&topic, json!({})).await;
    let mut last = counted_at_last(&mut client, &topic).await;
    for (number, broker) in brokers.iter_mut().enumerate() {
        broker.kill(false);
        let count = counted_at_last(&mut client, &topic).await;
        assert!(count > last, "{count} after {last}, without server {number}");
        last = count;
        broker.start_again();
        let again = async { while !is_replicated(broker).await {} };
        patiently("all three", again).await;
    }
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    let mut other = b.join(&topic, json!({})).await;
    let count = counted_at_last(&mut other, &topic).await;
    assert_eq!(count, last + 1, "what was answered is stored");
}

/// Counts in a topic as soon as that is stored. Whoever hears that it is not joins once more.
async fn counted_at_last(client: &mut Client, topic: &str) -> u64 {
    let counted = async {
        loop {
            let reply = client.try_push(topic, "count", json!({})).await;
            if let Some(count) = reply["response"]["topic"].as_u64() {
                return count;
            }
            while client.try_join(topic, json!({})).await["status"] != "ok" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    patiently("count", counted).await
}

/// Whether all three servers have all that is stored, as this one says.
async fn is_replicated(broker: &Broker) -> bool {
    let Ok(client) = async_nats::connect(format!("127.0.0.1:{}", broker.port)).await else {
        return false;
    };
    let Ok(bucket) = async_nats::jetstream::new(client).get_key_value("bennu-topics").await else {
        return false;
    };
    let Ok(status) = bucket.status().await else {
        return false;
    };
    let replicas = status.info.cluster.map(|cluster| cluster.replicas).unwrap_or_default();
    replicas.len() == 2 && replicas.iter().all(|replica| replica.current)
}
