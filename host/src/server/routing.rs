//! What a configuration means for a connection, replaced as a whole when the file changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, Route};
use crate::runtime::plugin::PluginSlot;
use crate::runtime::router::Router;

/// Mounts, routes and the plugins they lead to.
#[derive(Debug)]
pub(crate) struct Routing {
    /// All that the file says.
    pub(crate) config: Arc<Config>,
    /// Every plugin of the configuration, by name.
    pub(crate) plugins: BTreeMap<String, Arc<PluginSlot>>,
    router: Router,
}

impl Routing {
    /// The routing of a configuration, to those of these plugins that it names.
    #[must_use]
    pub(crate) fn new<'a>(config: Arc<Config>, plugins: impl Iterator<Item = &'a Arc<PluginSlot>>) -> Self {
        let named = plugins.filter(|slot| config.plugins.contains_key(&slot.name));
        Self {
            router: Router::new(&config),
            plugins: named.map(|slot| (slot.name.clone(), Arc::clone(slot))).collect(),
            config,
        }
    }

    /// The route of a topic, and the plugin that serves it.
    #[must_use]
    pub(crate) fn find(&self, topic: &str, transport: &str, mount: &str) -> Option<(&Arc<Route>, &Arc<PluginSlot>)> {
        let route = self.router.find(topic, transport, mount)?;
        Some((route, self.plugins.get(&route.plugin)?))
    }

    /// The same for a backend, which comes by no transport: the first route in file order, whoever may use it.
    #[must_use]
    pub(crate) fn find_any(&self, topic: &str) -> Option<(&Arc<Route>, &Arc<PluginSlot>)> {
        let route = self.router.find_any(topic)?;
        Some((route, self.plugins.get(&route.plugin)?))
    }
}
