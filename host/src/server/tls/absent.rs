//! A build without TLS: no value of these types exists.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::WhyBad;
use super::{BadCertificate, TlsError};
use crate::config::{Certificate, ContentHash, Tls};

/// There are none.
#[derive(Debug)]
pub(crate) struct Certificates(Infallible);

/// There is none.
#[derive(Debug)]
pub(crate) struct Session(Infallible);

impl Certificates {
    /// There are none to read.
    ///
    /// # Errors
    ///
    /// If the configuration names one.
    pub(crate) fn read(tls: &Tls) -> Result<Option<Arc<Self>>, Vec<BadCertificate>> {
        let refused = |(index, certificate): (usize, &Certificate)| BadCertificate {
            index,
            cert_file: certificate.cert_file.clone(),
            why: WhyBad::NoTls,
        };
        match tls.certificates.is_empty() {
            true => Ok(None),
            false => Err(tls.certificates.iter().enumerate().map(refused).collect()),
        }
    }

    pub(crate) fn session(&self) -> Session {
        match self.0 {}
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, ContentHash> {
        match self.0 {}
    }

    pub(crate) fn reload(&self, _: &Path) {
        match self.0 {}
    }
}

impl Session {
    pub(crate) fn feed(&mut self, _: &mut [u8], _: &mut dyn FnMut(&[u8])) -> Result<(), TlsError> {
        match self.0 {}
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn has_ended(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn encrypt(&mut self, _: &[u8]) -> Result<usize, TlsError> {
        match self.0 {}
    }

    pub(crate) fn say_goodbye(&mut self) {
        match self.0 {}
    }

    pub(crate) fn waiting(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn unfinished(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn push(&mut self, _: &mut impl Write) -> io::Result<()> {
        match self.0 {}
    }
}
