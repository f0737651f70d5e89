//! TLS between the socket of a client and whoever reads and writes it.
//!
//! [`Certificates`] are what the server shows; a [`Session`] encrypts and decrypts for one connection, and never touches its socket.
//! An idle session keeps no buffer. A build without the feature `tls` has neither.

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificates;
mod error;
#[cfg(feature = "tls")]
mod session;

#[cfg(not(feature = "tls"))]
pub(crate) use absent::{Certificates, Session};
#[cfg(feature = "tls")]
pub(crate) use certificates::Certificates;
pub(crate) use error::BadCertificate;
pub(crate) use error::TlsError;
#[cfg(feature = "tls")]
pub(crate) use session::Session;
