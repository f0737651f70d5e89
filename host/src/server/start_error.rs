//! Why a server does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::admin;
use super::auth::BadKeys;
use super::telemetry::TelemetryError;
use super::tls::BadCertificate;
use crate::cluster::ClusterError;
use crate::config::api_secret::ApiSecretError;
use crate::config::secret::SecretError;
use crate::config::trust::Untrusted;
use crate::runtime::store::StoreError;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not an address of this machine.
    #[error("cannot listen on {address}; choose another address with {setting}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What names it.
        setting: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// One of the `[[listeners]]` cannot be had.
    #[error("cannot listen on {at}; choose another place with `listen` in [[listeners]]")]
    Listener {
        /// Its place in the file, from 0.
        index: usize,
        /// Where it should be.
        at: String,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// The operating system reported an error.
    #[error("cannot start: the operating system reported an error")]
    System(#[from] io::Error),
    /// There is no secret, or a bad one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A mount could not check tokens.
    #[error(transparent)]
    Keys(#[from] BadKeys),
    /// A key of the API has no secret, or a bad one.
    #[error(transparent)]
    ApiSecret(#[from] ApiSecretError),
    /// Everybody could reach the admin listener.
    #[error(transparent)]
    Admin(#[from] admin::Unprotected),
    /// Other users can change a folder that the server loads libraries from.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The store of topics cannot be used.
    #[error(transparent)]
    Store(#[from] Box<StoreError>),
    /// The host cannot join its cluster.
    #[error(transparent)]
    Cluster(#[from] Box<ClusterError>),
    /// No traces can be sent.
    #[error(transparent)]
    Telemetry(#[from] Box<TelemetryError>),
    /// No folder for copies of libraries can be made.
    #[error("cannot make a folder for copies of libraries in {}; set `[server] stage_dir` to another folder", folder.display())]
    Stage {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system runs no code from that folder.
    #[error(
        "the stage folder {} is on a file system that is mounted noexec, so Bennu cannot load libraries from it; set \
         `[server] stage_dir` to a folder on another file system",
        folder.display()
    )]
    NoExec {
        /// Which.
        folder: PathBuf,
    },
    /// A plugin cannot be put into service.
    #[error("plugin `{plugin}` is rejected (step `{step}`): {message}")]
    Plugin {
        /// Which.
        plugin: String,
        /// The step that said so.
        step: &'static str,
        /// Why.
        message: String,
    },
}
