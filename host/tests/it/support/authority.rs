//! An authority of the tests' own, and the certificates that it issues.
#![cfg_attr(not(feature = "tls"), allow(dead_code, reason = "most of it is for tests of TLS"))]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bennu_tools::client::{Options, Tls, Transport, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::server::Bench;
use super::within;
use crate::handshake::UPGRADE;

/// An authority that clients trust.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Other than those of its certificates, which would otherwise seem to be their own issuers.
        let name = DnType::CommonName;
        authority.distinguished_name.push(name, "the authority of the tests");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(authority, key).expect("an authority"))
    }

    /// As PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name.
    pub(crate) fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = certificate.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            der: certificate.der().clone(),
            cert: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A proxy that has a certificate for this name, and passes on to this address what comes by TLS.
    pub(crate) async fn proxy(&self, name: &str, behind: SocketAddr) -> SocketAddr {
        let issued = self.issue(name);
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![issued.der], key)
            .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust the certificate goes away.
                    let Ok(mut client) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut server = TcpStream::connect(behind).await.expect("it listens");
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        address
    }

    /// The options of a client that reaches `localhost` at this address by TLS.
    pub(crate) fn options(&self, bench: &Bench, address: SocketAddr, transport: Transport) -> Options {
        let file = bench.path("ca.pem");
        fs::write(&file, self.pem()).expect("written");
        let trust = Trust::Authorities(file.into());
        Options {
            tls: Some(Tls::new("localhost", &trust).expect("a host")),
            ..Options::new(address, transport)
        }
    }

    /// A connection by TLS to a server that must prove this name.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: &'static str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.handshake(stream, name, versions).await
    }

    /// The same over a connection.
    async fn handshake(
        &self,
        stream: TcpStream,
        name: &'static str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name).expect("a name");
        within("handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    /// TLS over this connection, in any version.
    pub(crate) async fn over(&self, stream: TcpStream, name: &'static str) -> TlsStream<TcpStream> {
        let versions = [&version::TLS13, &version::TLS12];
        self.handshake(stream, name, &versions).await.expect("a handshake")
    }

    /// The same as [`Self::connect`] in any version.
    pub(crate) async fn connected(&self, address: SocketAddr, name: &'static str) -> TlsStream<TcpStream> {
        let versions = [&version::TLS13, &version::TLS12];
        self.connect(address, name, &versions).await.expect("a handshake")
    }
}

impl Issued {
    /// Puts both files there, each whole at once.
    pub(crate) fn put(&self, folder: &Path, name: &str) {
        put(&folder.join(format!("{name}.key")), &self.key);
        put(&folder.join(format!("{name}.pem")), &self.cert);
    }
}

fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, file).expect("moved");
}

/// The certificate that the server has shown.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates().expect("some");
    certificates[0].clone().into_owned()
}

/// The same stream as a WebSocket.
pub(crate) async fn upgraded(mut stream: TlsStream<TcpStream>) -> TlsStream<TcpStream> {
    let request = format!("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: localhost\r\n{UPGRADE}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("head", stream.read_u8()).await.expect("a byte"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// A bench whose server has a listener with TLS and a certificate for `localhost`.
pub(crate) fn secure_bench() -> (Bench, Authority) {
    let (bench, authority) = (Bench::new(), Authority::new());
    authority.issue("localhost").put(&bench.path(""), "tls");
    bench.append(
        "[[listeners]]\nlisten = \"127.0.0.1:0\"\ntls = true\n\n[[tls.certificates]]\ncert_file = \"tls.pem\"\nkey_file = \"tls.key\"",
    );
    (bench, authority)
}
