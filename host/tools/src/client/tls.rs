//! TLS: which servers a client trusts.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio_rustls::rustls::server::VerifierBuilderError;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::ClientError;

/// Which certificates a client accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities that this computer trusts.
    #[default]
    System,
    /// Those of the authorities in a file, in PEM format, and those of the system.
    Authorities(Box<Path>),
    /// All. Whoever answers may read and change everything.
    Anything,
}

/// Why a client cannot use TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The host of the URL is neither a domain name nor an address.
    #[error("a certificate cannot be issued for this host")]
    Host(#[from] InvalidDnsNameError),
    /// The file with authorities cannot be read.
    #[error("cannot read certificates from {file}")]
    Authorities {
        /// The file.
        file: String,
        /// Why.
        source: pem::Error,
    },
    /// There is nobody to trust.
    #[error("this computer trusts no certificate authority; name one in a file")]
    NoAuthority,
    /// The settings do not fit together.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
    /// The settings do not fit together.
    #[error(transparent)]
    Rustls(#[from] Error),
}

/// TLS to one host.
#[derive(Clone, Debug)]
pub struct Tls {
    host: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// TLS to a host that must prove its name by a certificate.
    ///
    /// # Errors
    ///
    /// If the host can have no certificate, or if there is no authority to trust.
    pub fn new(host: &str, trust: &Trust) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Anything => Arc::new(NoVerifier(Arc::clone(&provider))),
            trusted => {
                let roots = Arc::new(authorities(trusted)?);
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self {
            host: ServerName::try_from(host.to_owned())?,
            config: Arc::new(config),
        })
    }

    /// TLS for one connection whose bytes the caller carries.
    ///
    /// # Errors
    ///
    /// If the settings do not fit together.
    pub(crate) fn session(&self) -> Result<ClientConnection, Error> {
        ClientConnection::new(Arc::clone(&self.config), self.host.clone())
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, ClientError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector
            .connect(self.host.clone(), stream)
            .await
            .map_err(|error| ClientError::Tls { source: error })
    }
}

fn authorities(trust: &Trust) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Trust::Authorities(file) = trust {
        let unreadable = |source| TlsError::Authorities {
            file: file.display().to_string(),
            source,
        };
        let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(unreadable)?;
        if certificates.is_empty() {
            return Err(unreadable(pem::Error::NoItemsFound));
        }
        for certificate in certificates {
            roots.add(certificate)?;
        }
    }
    match roots.is_empty() {
        true => Err(TlsError::NoAuthority),
        false => Ok(roots),
    }
}

/// Accepts every certificate. The server must still hold its key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
