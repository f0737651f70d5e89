//! What a configuration means for a connection, replaced as a whole when the file changes.

use std::sync::Arc;

use crate::config::Config;
use crate::runtime::plugin::{PluginSlot, Routes};
use crate::runtime::router::{OpenRoute, Router};
use crate::server::auth::Guards;

/// Mounts, routes and the plugins they lead to.
#[derive(Debug)]
pub(crate) struct Routing {
    /// All that the file says.
    pub(crate) config: Arc<Config>,
    /// Its routes, and every plugin of the configuration.
    pub(crate) routes: Arc<Routes>,
    /// What checks the tokens of each mount.
    pub(crate) guards: Guards,
}

impl Routing {
    /// The routing of a configuration, to those of these plugins that it names.
    #[must_use]
    pub(crate) fn new<'a>(
        config: Arc<Config>,
        guards: Guards,
        plugins: impl Iterator<Item = &'a Arc<PluginSlot>>,
    ) -> Self {
        let named = plugins.filter(|slot| config.plugins.contains_key(&slot.name));
        let plugins = named.map(|slot| (slot.name.clone(), Arc::clone(slot))).collect();
        Self {
            routes: Arc::new(Routes::new(Router::new(&config), plugins)),
            config,
            guards,
        }
    }

    /// The route of a topic, and the plugin that serves it.
    #[must_use]
    pub(crate) fn find(
        &self,
        topic: &str,
        transport: &str,
        mount: &str,
    ) -> Option<(&Arc<OpenRoute>, &Arc<PluginSlot>)> {
        self.routes.find(topic, transport, mount)
    }
}
