//! What can be wrong with certificates, and with what clients send.
#![cfg_attr(
    not(feature = "tls"),
    allow(dead_code, reason = "a build without TLS reads no certificate")
)]

use std::io;
use std::path::PathBuf;

/// A certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificate in {} cannot be used: {why}", cert_file.display())]
pub struct BadCertificate {
    /// Its place in `[[tls.certificates]]`, from 0.
    pub index: usize,
    /// The file that the configuration names.
    pub cert_file: PathBuf,
    /// Why.
    pub why: WhyBad,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WhyBad {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("the file has no certificate in PEM format (a part that begins with `-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// There is no key in the file.
    #[error("{} has no private key in PEM format, or the key has a password", file.display())]
    NoKey {
        /// Which.
        file: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} does not belong to it", file.display())]
    OtherKey {
        /// Which.
        file: PathBuf,
    },
    /// This build has no TLS.
    #[error("this `bennu` was built without TLS; build it with `cargo build --release --features tls`")]
    NoTls,
    /// The TLS library refuses it.
    #[error("{0}")]
    Refused(String),
}

/// A client does not speak TLS as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsError(pub(super) String);

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}
