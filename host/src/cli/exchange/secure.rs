//! TLS to a server that is asked something: it must prove its name.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS to a server of this name. Trusts the authorities that this computer trusts, or those in the file that SSL_CERT_FILE names.
///
/// # Errors
///
/// If the server cannot prove its name, or there is nobody to trust.
pub(super) async fn connect(stream: TcpStream, name: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    anyhow::ensure!(
        !roots.is_empty(),
        "this computer trusts no certificate authority: name a file of them in SSL_CERT_FILE"
    );
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).context("a certificate cannot be issued for this host")?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected
        .context("the TLS handshake failed; SSL_CERT_FILE names a file of authorities to trust instead of the system's")
}
