//! The files of certificates: which one a client sees, and how they are replaced while the server runs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bennu_tools::client::Transport;
use serde_json::json;

use super::secure_address;
use crate::support::authority::{Authority, secure_bench, shown};
use crate::support::client::Client;
use crate::support::server::{Bench, Server};

/// How many clients talk meanwhile.
const CLIENTS: usize = 20;

async fn sees(authority: &Authority, server: &Server) -> Vec<u8> {
    let stream = authority.connected(secure_address(server).await, "localhost").await;
    shown(&stream).to_vec()
}

#[tokio::test]
async fn a_certificate_is_replaced_under_load_and_no_connection_is_dropped() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    let (done, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for transport in [Transport::WebSocket, Transport::LongPoll] {
        for _ in 0..CLIENTS / 2 {
            let mut client = Client::connect_with(&authority.options(&bench, address, transport)).await;
            client.join("echo:1", json!({})).await;
            let (done, answers) = (Arc::clone(&done), Arc::clone(&answers));
            clients.push(tokio::spawn(async move {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let payload = json!({ "n": n });
                    assert_eq!(client.push("echo:1", "echo", payload.clone()).await, payload);
                    answers.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
                client
            }));
        }
    }
    let before = sees(&authority, &server).await;
    for round in 0..3 {
        let new = authority.issue("localhost");
        new.put(&bench.path(""), "tls");
        server.log.nth_line(round, &["certificate replaced", "tls.pem"]).await;
        assert_eq!(sees(&authority, &server).await, new.der.to_vec());
        assert_ne!(sees(&authority, &server).await, before);
        // They go on talking.
        let so_far = answers.load(Ordering::Relaxed);
        while answers.load(Ordering::Relaxed) < so_far + CLIENTS {
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.expect("every push was answered"));
    }
    assert_eq!(server.log.count(&["connection closed"]), 0, "{}", server.log.text());
}

#[tokio::test]
async fn a_bad_certificate_changes_nothing_and_the_log_says_why() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    let before = sees(&authority, &server).await;
    let refused = ["certificate refused, the one in force stays", "tls.pem"];
    fs::write(bench.path("tls.pem"), "nothing").expect("written");
    server.log.line(&[refused[0], "has no certificate in PEM format"]).await;
    assert_eq!(sees(&authority, &server).await, before);

    // A certificate without its key, as while both are being replaced.
    let new = authority.issue("localhost");
    fs::write(bench.path("tls.pem"), &new.cert).expect("written");
    server
        .log
        .line(&[refused[0], refused[1], "does not belong to it"])
        .await;
    assert_eq!(sees(&authority, &server).await, before);
    fs::write(bench.path("tls.key"), "nothing").expect("written");
    server.log.line(&[refused[0], "has no private key in PEM format"]).await;
    fs::remove_file(bench.path("tls.key")).expect("removed");
    assert_eq!(sees(&authority, &server).await, before);
    fs::write(bench.path("tls.key"), &new.key).expect("written");
    server.log.line(&["certificate replaced"]).await;
    assert_eq!(sees(&authority, &server).await, new.der.to_vec());
}

#[tokio::test]
async fn a_client_sees_the_certificate_of_the_name_that_it_asks_for() {
    let (bench, authority) = secure_bench();
    let (first, second) = (authority.issue("chat.example.com"), authority.issue("*.example.org"));
    first.put(&bench.path(""), "tls");
    second.put(&bench.path(""), "second");
    bench.append("[[tls.certificates]]\ncert_file = \"second.pem\"\nkey_file = \"second.key\"");
    let server = bench.serve().await;
    let address = secure_address(&server).await;
    for (name, expected) in [
        ("chat.example.com", &first),
        ("a.example.org", &second),
        ("b.example.org", &second),
    ] {
        assert_eq!(shown(&authority.connected(address, name).await), expected.der, "{name}");
    }
    let versions = [&tokio_rustls::rustls::version::TLS13];
    // It gets the first one, which is not for it.
    let other = authority.connect(address, "other.example.net", &versions).await;
    let error = other.expect_err("not its name").to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_reread_reads_certificates_too() {
    let (bench, authority) = secure_bench();
    let server = bench.serve().await;
    fs::write(bench.path("tls.pem"), "nothing").expect("written");
    server.log.line(&["certificate refused"]).await;
    server.signal(rustix::process::Signal::HUP);
    server.log.nth_line(1, &["certificate refused"]).await;
    drop(authority);
}

#[tokio::test]
async fn a_server_does_not_start_without_a_good_certificate_and_check_says_the_same() {
    let authority = Authority::new();
    let good = authority.issue("localhost");
    let other = authority.issue("localhost");
    for (cert, key, words) in [
        (None, Some(&*good.key), "cannot read"),
        (Some("nothing"), Some(&good.key), "has no certificate in PEM format"),
        (Some(&*good.cert), None, "cannot read"),
        (Some(&good.cert), Some("nothing"), "has no private key in PEM format"),
        (Some(&good.cert), Some(&other.key), "does not belong to it"),
    ] {
        let bench = Bench::new();
        bench.append("[[listeners]]\nlisten = \"127.0.0.1:0\"\ntls = true\n\n[[tls.certificates]]\ncert_file = \"a.pem\"\nkey_file = \"a.key\"");
        for (file, text) in [("a.pem", cert), ("a.key", key)] {
            if let Some(text) = text {
                fs::write(bench.path(file), text).expect("written");
            }
        }
        super::checked::check_both(&bench, "cert_file", words);
    }
}
