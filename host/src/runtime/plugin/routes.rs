//! Which plugin serves a topic, for whoever is not a client: backends, and plugins that send to another topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;

use super::slot::PluginSlot;
use crate::runtime::channel::Topic;
use crate::runtime::router::{OpenRoute, Router};

/// The routes of a configuration, and the plugins that they lead to.
#[derive(Debug)]
pub(crate) struct Routes {
    /// The plugins, by name.
    pub(crate) plugins: BTreeMap<String, Arc<PluginSlot>>,
    router: Router,
}

/// Where a topic is.
#[derive(Debug)]
pub(crate) enum Place {
    /// It exists.
    Alive(Arc<PluginSlot>, Arc<Topic>),
    /// It does not exist; this plugin would make it.
    Absent(Arc<PluginSlot>),
}

impl Routes {
    /// The routes of `router`, to those of these plugins that it needs.
    #[must_use]
    pub(crate) fn new(router: Router, plugins: BTreeMap<String, Arc<PluginSlot>>) -> Self {
        Self { plugins, router }
    }

    /// No routes at all.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self::new(Router::none(), BTreeMap::new())
    }

    /// The route of a topic for a client of this `transport` and `mount`, and the plugin that serves it.
    #[must_use]
    pub(crate) fn find(
        &self,
        topic: &str,
        transport: &str,
        mount: &str,
    ) -> Option<(&Arc<OpenRoute>, &Arc<PluginSlot>)> {
        let route = self.router.find(topic, transport, mount)?;
        Some((route, self.plugins.get(&route.plugin)?))
    }

    /// All routes, in file order.
    pub(crate) fn all(&self) -> &[Arc<OpenRoute>] {
        self.router.all()
    }

    /// Whether a route leads to a plugin for this topic, whoever may use it.
    #[must_use]
    pub(crate) fn leads(&self, topic: &str) -> bool {
        self.router
            .matching(topic)
            .any(|route| self.plugins.contains_key(&route.plugin))
    }

    /// The plugin of this name, if one of the routes leads the topic there, whoever may use it.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn lead_to(&self, topic: &str, plugin: &str) -> Option<&Arc<PluginSlot>> {
        let leads = self.router.matching(topic).any(|route| route.plugin == plugin);
        leads.then(|| self.plugins.get(plugin)).flatten()
    }

    /// Where a topic is, for someone who has neither transport nor mount. Of several routes, the first counts whose plugin has the
    /// topic, or else the first. `None`: no route leads anywhere.
    #[must_use]
    pub(crate) fn place(&self, topic: &ByteString) -> Option<Place> {
        let routes = self.router.matching(topic);
        let mut slots = routes.filter_map(|route| self.plugins.get(&route.plugin)).peekable();
        let first = Arc::clone(slots.peek()?);
        let alive = slots.find_map(|slot| Some(Place::Alive(Arc::clone(slot), slot.find(topic)?)));
        Some(alive.unwrap_or(Place::Absent(first)))
    }
}
