//! What a configuration means for a connection, replaced as a whole when the file changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::seeds::LongPoller;
use crate::config::{Config, Mount, Route};
use crate::plugin::PluginSlot;
use crate::router::Router;
use crate::socket::Dialect;

/// Mounts, routes and the plugins they lead to.
#[derive(Debug)]
pub struct Routing {
    /// All that the file says.
    pub config: Arc<Config>,
    /// Every plugin of the configuration, by name.
    pub plugins: BTreeMap<String, Arc<PluginSlot>>,
    router: Router,
    /// Long polling in the seeds' dialect, by the path of the mount.
    pollers: HashMap<String, Arc<LongPoller>>,
}

/// What is served at a path.
#[derive(Debug)]
pub(super) enum Served {
    /// WebSocket at a mount.
    WebSocket(Arc<Mount>, Dialect),
    /// A WebSocket that sends back what it gets, at a mount.
    Echo(Arc<Mount>),
    /// Long polling at a mount.
    LongPoll(Arc<Mount>),
    /// Long polling in the seeds' dialect.
    SeedsLongPoll(Arc<LongPoller>),
}

impl Routing {
    /// The routing of a configuration. `plugins` holds each plugin that it names.
    #[must_use]
    pub fn new(config: Arc<Config>, plugins: BTreeMap<String, Arc<PluginSlot>>) -> Self {
        let pollers = config
            .mounts
            .iter()
            .filter_map(|mount| Some((mount.path.clone(), Arc::new(LongPoller::init(mount)?))));
        Self {
            pollers: pollers.collect(),
            router: Router::new(&config),
            config,
            plugins,
        }
    }

    /// The route of a topic, and the plugin that serves it.
    #[must_use]
    pub fn find(&self, topic: &str, transport: &str, mount: &str) -> Option<(&Arc<Route>, &Arc<PluginSlot>)> {
        let route = self.router.find(topic, transport, mount)?;
        Some((route, self.plugins.get(&route.plugin)?))
    }

    /// What is served at a path, if anything is.
    pub(super) fn served(&self, path: &str) -> Option<Served> {
        self.config
            .mounts
            .iter()
            .find_map(|mount| match path.strip_prefix(&*mount.path)? {
                "/websocket" if mount.websocket => Some(Served::WebSocket(Arc::clone(mount), Dialect::Modern)),
                "/longpoll" if mount.longpoll.is_some() => Some(Served::LongPoll(Arc::clone(mount))),
                "" if mount.echo => Some(Served::Echo(Arc::clone(mount))),
                "" if mount.websocket && mount.seeds.is_some() => {
                    Some(Served::WebSocket(Arc::clone(mount), Dialect::Seeds))
                }
                "/poll" => Some(Served::SeedsLongPoll(Arc::clone(self.pollers.get(&mount.path)?))),
                _ => None,
            })
    }
}
