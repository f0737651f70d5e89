//! Finds everything that would keep the server from starting, at once and without serving: for `bennu check`.
//!
//! [`Server`](super::Server) starts with the same functions, so both reject the same, with the same words.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::StartError;
use super::admin;
use super::auth::Guards;
use super::io::Inboxes;
use super::listen::{self, listeners, passed};
use super::running::{pipeline, store_folder};
use super::telemetry::Exporter;
use super::tls::Certificates;
use crate::config::api_secret::ApiSecrets;
use crate::config::secret::SecretKeyBase;
use crate::config::{Config, Mode};
use crate::runtime::plugin::Hub;
use crate::runtime::plugin::manager::{Occasion, Plugins};
use crate::runtime::plugin::step::Rejection;
use crate::runtime::pubsub::PubSub;
use crate::runtime::store::{Store, StoreError};
use crate::runtime::timers::Timers;

/// What is wrong with the secrets: of the admin listener, of the server, of tokens, of TLS, of the API, and of the collector.
pub(crate) fn secrets(config: &Config, mode: Mode) -> Vec<StartError> {
    let admin = config.admin.listen.and_then(|listen| admin::secret(listen).err());
    let server = SecretKeyBase::obtain(config, mode).err();
    let tokens = Guards::new(config, &Guards::default()).err().unwrap_or_default();
    let certificates = Certificates::read(&config.tls).err().unwrap_or_default();
    let api = config.api.listen.iter().flat_map(|_| config.api.keys.iter());
    let api = ApiSecrets::obtain_all(api.map(|key| &**key))
        .into_iter()
        .filter_map(Result::err);
    let traces = config.telemetry.iter().map(Exporter::prepare).filter_map(Result::err);
    let (admin, server) = (admin.map(StartError::from), server.map(StartError::from));
    admin
        .into_iter()
        .chain(server)
        .chain(tokens.into_iter().map(StartError::from))
        .chain(certificates.into_iter().map(StartError::from))
        .chain(api.map(StartError::from))
        .chain(traces.map(|error| Box::new(error).into()))
        .collect()
}

/// Something that the server could not have now: an address, or the folder of stored topics.
#[derive(Debug)]
pub(crate) struct Unavailable {
    /// What the server would say.
    pub(crate) error: StartError,
    /// Whether the server may have it all the same: another process has it now, which may end before, or systemd passes it on.
    pub(crate) may_pass: bool,
}

/// Which addresses the server could not listen on now. Must be called on a tokio runtime.
pub(crate) fn addresses(config: &Config, mode: Mode) -> Vec<Unavailable> {
    let together = listeners(config, mode).map(drop);
    let Err(error) = together else { return Vec::new() };
    let alone: Vec<_> = listen::each_alone(config, mode)
        .into_iter()
        .map(Unavailable::alone)
        .collect();
    if alone.is_empty() {
        // Each of them alone is free: two are the same.
        return vec![Unavailable { error, may_pass: false }];
    }
    alone
}

impl Unavailable {
    fn alone(error: StartError) -> Self {
        let may_pass = match &error {
            StartError::Listen { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            // Nobody but systemd can pass a socket on, and it does so only to the server itself.
            StartError::Listener { source, at, .. } => {
                source.kind() == io::ErrorKind::AddrInUse || (at.starts_with("systemd:") && !passed::is_any())
            }
            _ => false,
        };
        Self { error, may_pass }
    }
}

/// Why the server could not open the folder of stored topics now, if it needs one: in a cluster they are not in a folder.
pub(crate) fn store(config: &Config) -> Option<Unavailable> {
    let folder = store_folder(config).filter(|_| config.cluster.is_none())?;
    let error = Store::check(&folder).err()?;
    let may_pass = matches!(error, StoreError::Locked { .. });
    let error = Box::new(error).into();
    Some(Unavailable { error, may_pass })
}

/// Starts each plugin as the server would, `init` included, and ends it again. Returns those that are rejected.
///
/// # Errors
///
/// If no plugin can be started at all.
pub(crate) fn plugins(
    config: &Config,
    libraries: &BTreeMap<String, PathBuf>,
) -> Result<Vec<(String, Rejection)>, StartError> {
    let (mut pipeline, _staging) = pipeline(config)?;
    // Whoever only asks puts nothing in quarantine.
    pipeline.reports = None;
    let pubsub = PubSub::new(Inboxes::new(Vec::new()).outlets());
    let hub = Arc::new(Hub::new(pubsub, Timers::start()?, config.log.lines));
    let mut plugins = Plugins::new(Arc::clone(&hub), pipeline);
    let mut rejected = Vec::new();
    for (name, library) in libraries {
        let Some(wanted) = config.plugins.get(name) else {
            continue;
        };
        let slot = plugins.add(name, wanted);
        // What was prepared ends when it is dropped.
        if let Err(rejection) = plugins.prepare(&slot, library, wanted, Occasion::Asked) {
            rejected.push((name.clone(), rejection));
        }
    }
    hub.timers.stop();
    Ok(rejected)
}
