//! Why a server does not start.

use std::io;
use std::net::SocketAddr;

use super::admin;
use crate::config::secret::SecretError;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}, choose another with {setting}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What names it.
        setting: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The system does not give what is needed.
    #[error("the system does not give what is needed")]
    System(#[from] io::Error),
    /// There is no secret, or a bad one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The admin pages would be open to everybody.
    #[error(transparent)]
    Admin(#[from] admin::Unprotected),
    /// A plugin cannot be put in service.
    #[error("plugin `{plugin}` is refused ({step}): {message}")]
    Plugin {
        /// Which.
        plugin: String,
        /// The step that said so.
        step: &'static str,
        /// Why.
        message: String,
    },
}
