//! `bennu call` over TLS: against a server behind a proxy that ends TLS, as in production.

use std::fs;
use std::net::SocketAddr;

use crate::support::authority::Authority;
use crate::support::command::run;
use crate::support::server::{Bench, Server};

/// A server, and a proxy before it that has a certificate for `localhost`.
struct Behind {
    bench: Bench,
    _server: Server,
    proxy: SocketAddr,
}

impl Behind {
    async fn start() -> Self {
        let bench = Bench::new();
        let server = bench.serve().await;
        let authority = Authority::new();
        fs::write(bench.path("ca.pem"), authority.pem()).expect("written");
        fs::write(bench.path("no-ca.pem"), "nothing").expect("written");
        let proxy = authority.proxy("localhost", server.address).await;
        Self {
            bench,
            _server: server,
            proxy,
        }
    }

    /// What `bennu call` prints to standard output and standard error, and its exit code.
    async fn call(&self, url: &str, args: &[&str]) -> (String, String, Option<i32>) {
        let url = url.replace("PORT", &self.proxy.port().to_string());
        let args: Vec<_> = args
            .iter()
            .map(|arg| arg.replace("BENCH", &self.bench.path("").to_string_lossy()))
            .collect();
        // The proxy must go on meanwhile.
        let call = move || run(|command| command.args(["call", &url, "echo:1", "echo", "{\"n\": 1}"]).args(args));
        let (output, said, complained) = tokio::task::spawn_blocking(call).await.expect("it runs");
        (said, complained, output.status.code())
    }
}

#[tokio::test]
async fn an_event_is_answered_over_tls_by_either_transport() {
    let behind = Behind::start().await;
    for url in ["wss://localhost:PORT", "https://localhost:PORT/socket/longpoll"] {
        for trust in [&["--ca", "BENCHca.pem"][..], &["--insecure"]] {
            let (said, complained, code) = behind.call(url, trust).await;
            assert_eq!(
                (&*said, code),
                ("{\"n\":1}\n", Some(0)),
                "{url} {trust:?}: {complained}"
            );
        }
    }
    let (said, ..) = behind.call("wss://127.0.0.1:PORT", &["--insecure"]).await;
    assert_eq!(said, "{\"n\":1}\n");
}

#[tokio::test]
async fn a_server_without_a_trusted_certificate_of_its_name_gets_nothing() {
    let behind = Behind::start().await;
    for (url, trust, why) in [
        ("wss://localhost:PORT", &[][..], "UnknownIssuer"),
        ("https://localhost:PORT/socket/longpoll", &[], "UnknownIssuer"),
        ("wss://127.0.0.1:PORT", &["--ca", "BENCHca.pem"], "not valid for name"),
    ] {
        let (said, complained, code) = behind.call(url, trust).await;
        assert_eq!((&*said, code), ("", Some(3)), "{url}: {complained}");
        assert!(
            complained.starts_with("error: the TLS handshake failed: "),
            "{url}: {complained}"
        );
        assert!(
            complained.contains(why) && complained.contains("= help: --ca FILE"),
            "{url}: {complained}"
        );
    }
    for file in ["BENCHno-ca.pem", "BENCHnone.pem"] {
        let (_, complained, code) = behind.call("wss://localhost:PORT", &["--ca", file]).await;
        assert_eq!(code, Some(1), "{complained}");
        assert!(complained.contains("cannot read certificates from"), "{complained}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart_from_none() {
    let server = Bench::new().serve().await;
    let url = format!("wss://localhost:{}", server.address.port());
    let (_, _, complained) = run(|command| command.args(["call", &url, "echo:1", "echo", "--insecure"]));
    assert!(
        complained.starts_with("error: the TLS handshake failed: "),
        "{complained}"
    );
    assert!(
        complained.contains("a server without TLS is reached by ws://"),
        "{complained}"
    );
}
