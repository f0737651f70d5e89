//! Commands reach a server by TLS: through a proxy that ends it, as the admin listener and the API have none of their own.

use std::fs;

use crate::support::authority::Authority;
use crate::support::command::run;
use crate::support::server::Bench;

#[tokio::test]
async fn commands_ask_by_https_and_trust_only_known_authorities() {
    let (bench, authority) = (Bench::new(), Authority::new());
    let server = bench.serve().await;
    let proxy = authority.proxy("localhost", server.admin().await).await;
    let ca = bench.path("ca.pem");
    fs::write(&ca, authority.pem()).expect("written");
    let url = format!("https://localhost:{}", proxy.port());
    let asks = async |args: &[&str], trusted: bool| {
        let (args, url, ca) = (
            args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(),
            url.clone(),
            ca.clone(),
        );
        let asks = move || {
            run(|command| {
                if trusted {
                    command.env("SSL_CERT_FILE", ca);
                }
                command.args(args).args(["--admin", &url])
            })
        };
        tokio::task::spawn_blocking(asks).await.expect("it runs")
    };
    let (output, said, complained) = asks(&["plugins"], true).await;
    assert!(
        output.status.success() && said.contains("misbehave"),
        "{said}{complained}"
    );
    let (_, said, complained) = asks(&["why", "--last", "1"], true).await;
    assert!(said.contains("no such client is connected"), "{said}{complained}");
    let (output, _, complained) = asks(&["plugins"], false).await;
    assert!(!output.status.success());
    assert!(
        complained.contains("the TLS handshake failed") || complained.contains("trusts no certificate authority"),
        "{complained}"
    );
}
