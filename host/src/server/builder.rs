//! What a server is told before it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bennu_wire::serializer::Serializers;

use super::control::{Follower, SetLogLevel};
use super::{Server, StartError};
use crate::config::{Config, Mode};
use crate::runtime::plugin::step::Refusal;

/// A server that has not been started.
pub struct Builder {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) built: Vec<Built>,
    pub(super) follower: Option<Box<dyn Follower>>,
    pub(super) set_log_level: Option<SetLogLevel>,
}

/// What `dev` has built: the plugin's name, and where its library is or why there is none.
pub(crate) type Built = (String, Result<PathBuf, Refusal>);

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Serve,
            built: Vec::new(),
            follower: None,
            set_log_level: None,
        }
    }

    /// Listens there, whatever the configuration says. Port 0 takes a free one.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen_instead = Some(address);
        self
    }

    /// Has the mount at this path speak these protocol versions, and no others. No such mount: changes nothing.
    #[must_use]
    pub fn serializers(mut self, mount: &str, serializers: &Serializers) -> Self {
        for known in self.config.mounts.iter_mut().filter(|known| known.path == mount) {
            Arc::make_mut(known).serializers = serializers.clone();
        }
        self
    }

    /// Has this program `bennu` try libraries in a child process, before the server loads them. Without it the running program
    /// does so itself, which has to call [`run_as_probe`](crate::run_as_probe) first of all.
    #[must_use]
    pub fn probe_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.config.program = Some(program.into());
        self
    }

    /// As `bennu dev`: with these libraries, which it has built, and with somebody who hears of the configurations that are read
    /// while the server runs. A plugin that cannot be put in service is only logged, as it may be mended while the server
    /// runs; and an address that nobody has named, and that is taken, is exchanged for the next free port.
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

    /// Starts the server: its listeners, its plugins, its threads. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address is taken, a plugin cannot be put in service, or there is no secret.
    pub async fn start(self) -> Result<Server, StartError> {
        Server::start(self).await
    }
}
