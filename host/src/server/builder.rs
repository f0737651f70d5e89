//! The settings of a server that has not started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bennu_wire::serializer::Serializers;
use prometheus_client::metrics::counter::Counter;

use super::control::{Follower, SetLogLevel};
use super::{Server, StartError};
use crate::config::{Config, Mode};
use crate::runtime::plugin::step::Rejection;

/// A server that has not started.
pub struct Builder {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) built: Vec<Built>,
    pub(super) follower: Option<Box<dyn Follower>>,
    pub(super) set_log_level: Option<SetLogLevel>,
    pub(super) dropped_lines: Counter,
}

/// A plugin that `dev` has built: its name, and where its library is or why there is none.
pub(crate) type Built = (String, Result<PathBuf, Rejection>);

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Serve,
            built: Vec::new(),
            follower: None,
            set_log_level: None,
            dropped_lines: Counter::default(),
        }
    }

    /// Listens there instead of where the configuration says. Port 0 takes a free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen_instead = Some(address);
        self
    }

    /// Makes the mount at this path speak these protocol versions, and no others. Without such a mount, this changes nothing.
    #[must_use]
    pub fn serializers(mut self, mount: &str, serializers: &Serializers) -> Self {
        for known in self.config.mounts.iter_mut().filter(|known| known.path == mount) {
            Arc::make_mut(known).serializers = serializers.clone();
        }
        self
    }

    /// Uses this `bennu` program for the child process that tries libraries before the server loads them. By default that is the
    /// running program, which then must call [`run_as_probe`](crate::run_as_probe) before anything else.
    #[must_use]
    pub fn probe_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.config.program = Some(program.into());
        self
    }

    /// Serves as `bennu dev` does: with the libraries that `dev` has built, and with a follower that hears of each configuration
    /// that is read while the server runs. A plugin that cannot be put in service is only logged, because its author may fix it
    /// while the server runs. If an address is taken that nobody has named, the server takes the next free port.
    #[must_use]
    pub(crate) fn dev(mut self, built: Vec<Built>, follower: Box<dyn Follower>) -> Self {
        self.mode = Mode::Dev;
        self.built = built;
        self.follower = Some(follower);
        self
    }

    /// Has `set` change what is logged when `[log] level` changes while the server runs.
    #[must_use]
    pub(crate) fn on_log_level(mut self, set: SetLogLevel) -> Self {
        self.set_log_level = Some(set);
        self
    }

    /// Shows this count of the log's dropped lines in `/metrics`.
    #[must_use]
    pub(crate) fn dropped_lines(mut self, dropped: Counter) -> Self {
        self.dropped_lines = dropped;
        self
    }

    /// Starts the server: its listeners, its plugins, its threads. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address is taken, a plugin cannot be put in service, or there is no secret.
    pub async fn start(self) -> Result<Server, StartError> {
        Server::start(self).await
    }
}
