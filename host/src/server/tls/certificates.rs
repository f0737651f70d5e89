//! The certificates that the server shows, and their files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, ServerConfig};

use super::error::WhyBad;
use super::{BadCertificate, Session};
use crate::config::trust::{self, Use};
use crate::config::{Certificate, ContentHash, Tls, TlsVersion};

/// The longest file of a certificate or a key.
const MAX_FILE: u64 = 1 << 20;

/// What the server needs to speak TLS. New connections get the certificates that are current when they begin.
#[derive(Debug)]
pub(crate) struct Certificates {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    provider: Arc<CryptoProvider>,
}

/// The certificates in force, in the order of the configuration.
#[derive(Debug)]
struct Shown(RwLock<Vec<Loaded>>);

/// A certificate and what its files held.
#[derive(Clone, Debug)]
struct Loaded {
    files: Certificate,
    key: Arc<CertifiedKey>,
    held: [ContentHash; 2],
}

impl Certificates {
    /// Reads the certificates of a configuration. `None`: it names none.
    ///
    /// # Errors
    ///
    /// For each certificate that cannot be used.
    pub(crate) fn read(tls: &Tls) -> Result<Option<Arc<Self>>, Vec<BadCertificate>> {
        if tls.certificates.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let (mut loaded, mut bad) = (Vec::new(), Vec::new());
        for (index, files) in tls.certificates.iter().enumerate() {
            match load(index, files, &provider) {
                Ok(certificate) => loaded.push(certificate),
                Err(error) => bad.push(error),
            }
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        let shown = Arc::new(Shown(RwLock::new(loaded)));
        let config = config(tls.min_version, &provider, &shown).map_err(|error| {
            let cert_file = tls.certificates[0].cert_file.clone();
            let why = WhyBad::Refused(error.to_string());
            vec![BadCertificate {
                index: 0,
                cert_file,
                why,
            }]
        })?;
        Ok(Some(Arc::new(Self {
            config: Arc::new(config),
            shown,
            provider,
        })))
    }

    /// The TLS of a new connection.
    pub(crate) fn session(&self) -> Session {
        // It fails only for a configuration that contradicts itself.
        Session::new(Arc::clone(&self.config)).expect("rustls took the configuration")
    }

    /// The files, and what they held when they were read.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, ContentHash> {
        let shown = self.shown.0.read().expect("no holder panics");
        { shown.iter() }
            .flat_map(|loaded| {
                let Certificate { cert_file, key_file } = loaded.files.clone();
                let [cert, key] = loaded.held;
                [(cert_file, cert), (key_file, key)]
            })
            .collect()
    }

    /// Reads the certificates again that come from this file. One that cannot be used changes nothing. The log says how it went.
    pub(crate) fn reload(&self, file: &Path) {
        let before = self.shown.0.read().expect("no holder panics").clone();
        for (index, old) in before.iter().enumerate() {
            if old.files.cert_file != file && old.files.key_file != file {
                continue;
            }
            let cert_file = old.files.cert_file.display();
            match load(index, &old.files, &self.provider) {
                // The other file of the pair has changed, too, and was read with this one.
                Ok(new) if new.held == old.held => {}
                Ok(new) => {
                    self.shown.0.write().expect("no holder panics")[index] = new;
                    tracing::info!(%cert_file, "certificate replaced; open connections stay");
                }
                Err(error) => {
                    let why = error.why;
                    tracing::error!(%cert_file, %why, "certificate refused, the one in force stays");
                }
            }
        }
    }
}

fn config(min_version: TlsVersion, provider: &Arc<CryptoProvider>, shown: &Arc<Shown>) -> Result<ServerConfig, Error> {
    let versions = match min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13][..],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(shown) as Arc<dyn ResolvesServerCert>);
    // Clients that come back resume their session, which costs no signature. The server keeps nothing for them.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn load(index: usize, files: &Certificate, provider: &CryptoProvider) -> Result<Loaded, BadCertificate> {
    let Certificate { cert_file, key_file } = files;
    let loaded = || {
        let chain_pem = read(cert_file, None)?;
        let key_pem = read(key_file, Some(Use::TlsKey))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| WhyBad::Refused(format!("it is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(WhyBad::NoCertificate);
        }
        let no_key = |_| WhyBad::NoKey { file: key_file.clone() };
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(no_key)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => WhyBad::OtherKey { file: key_file.clone() },
            other => WhyBad::Refused(other.to_string()),
        })?;
        // rustls looks into a certificate only when a client asks for a name.
        ParsedCertificate::try_from(&key.cert[0])
            .map_err(|error| WhyBad::Refused(format!("it is no certificate for TLS: {error}")))?;
        Ok(Loaded {
            files: files.clone(),
            key: Arc::new(key),
            held: [ContentHash::of(&chain_pem), ContentHash::of(&key_pem)],
        })
    };
    loaded().map_err(|why| BadCertificate {
        index,
        cert_file: cert_file.clone(),
        why,
    })
}

fn read(file: &Path, trusted: Option<Use>) -> Result<Vec<u8>, WhyBad> {
    let read = || {
        let open = File::open(file)?;
        if let Some(used_for) = trusted {
            trust::check_file(&open, file, used_for)?;
        }
        let mut bytes = Vec::new();
        open.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > MAX_FILE {
            true => Err(io::Error::other("it is longer than 1 MiB")),
            false => Ok(bytes),
        }
    };
    read().map_err(|source| WhyBad::Unreadable {
        file: file.to_owned(),
        source,
    })
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().expect("no holder panics");
        let name = hello.server_name().filter(|_| shown.len() > 1);
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| shown.iter().find(|loaded| is_for(loaded, &name)));
        named.or(shown.first()).map(|loaded| Arc::clone(&loaded.key))
    }
}

fn is_for(loaded: &Loaded, name: &ServerName<'_>) -> bool {
    let parsed = loaded.key.cert.first().map(ParsedCertificate::try_from);
    parsed.is_some_and(|parsed| parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok()))
}
