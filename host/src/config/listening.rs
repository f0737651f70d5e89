//! `[[listeners]]`, `[tls]` and `[proxies]` as values: where clients come in, and who they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

/// `[[listeners]]`: one more listener for clients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listener {
    /// Where it is.
    pub(crate) at: At,
    /// Whether clients speak TLS there. Default false.
    pub(crate) tls: bool,
    /// Whether each connection begins with a header of the PROXY protocol. Default false.
    pub(crate) proxy_protocol: bool,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// At an address and a port.
    Tcp(SocketAddr),
    /// At a path of the file system. Absolute by now.
    Unix {
        /// The path.
        path: PathBuf,
        /// The permissions of the socket. Default 0660.
        mode: u32,
    },
    /// Wherever systemd has opened it: the name of the socket.
    Passed(String),
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Tls {
    /// `[[tls.certificates]]`, in file order. The first one is for clients that ask for no name, or for an unknown one.
    pub(crate) certificates: Vec<Certificate>,
    /// The oldest version of TLS that clients may speak. Default 1.2.
    pub(crate) min_version: TlsVersion,
}

/// `[[tls.certificates]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The file of the certificate and those of its issuers. Absolute by now.
    pub(crate) cert_file: PathBuf,
    /// The file of its private key. Absolute by now.
    pub(crate) key_file: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

/// `[proxies]`
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Proxies {
    /// The addresses of proxies, which are believed what they say of their clients. Default: none.
    pub(crate) trusted: Vec<IpNet>,
    /// The header in which they say it. Default `x-forwarded-for`.
    pub(crate) header: ProxyHeader,
}

/// The header in which a proxy says who its client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None: only the PROXY protocol counts.
    None,
}

impl Proxies {
    /// Whether this is the address of a proxy.
    #[must_use]
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Passed(name) => write!(f, "systemd:{name}"),
        }
    }
}
