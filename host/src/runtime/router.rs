//! Finds the plugin for a topic.
//!
//! A [`Router`] is built once from the routes in `bennu.toml` and never changes; a reload builds a new one.
//! Sockets ask it only when a client joins.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bennu_wire::pattern::PatternIndex;

use super::rate::{AllSpent, Limit, Over, Rates};
use crate::config::{Config, Route};

/// The routes of one configuration. A clone is the same router.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    routes: Arc<[Arc<OpenRoute>]>,
    index: Arc<PatternIndex>,
}

/// A route, and what all its clients have sent lately if that is limited.
#[derive(Debug)]
pub(crate) struct OpenRoute {
    route: Arc<Route>,
    rates: Option<Mutex<(Rates, AllSpent)>>,
}

impl Router {
    /// Takes the routes of `config`, in file order.
    #[must_use]
    pub(crate) fn new(config: &Config) -> Self {
        let mut index = PatternIndex::default();
        for (place, route) in config.routes.iter().enumerate() {
            index.insert(&route.topic, place);
        }
        Self {
            routes: { config.routes.iter() }
                .map(|route| Arc::new(OpenRoute::new(route)))
                .collect(),
            index: Arc::new(index),
        }
    }

    /// No routes at all.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self {
            routes: Arc::default(),
            index: Arc::default(),
        }
    }

    /// All of them, in file order.
    pub(crate) fn all(&self) -> &[Arc<OpenRoute>] {
        &self.routes
    }

    /// All routes that take `topic`, in file order, whoever they are open to.
    pub(crate) fn matching(&self, topic: &str) -> impl Iterator<Item = &Arc<OpenRoute>> {
        let mut places: Vec<usize> = self.index.matching(topic).flatten().copied().collect();
        places.sort_unstable();
        places.into_iter().filter_map(|place| self.routes.get(place))
    }

    /// The first route, in file order, that takes `topic` and is open to a client of this `transport` and `mount`.
    ///
    /// A route that is closed to the client is skipped, and the next one tried. How many routes there are makes no
    /// difference: the cost grows with the number of different lengths of prefixes, and with the number of routes of
    /// the very same pattern.
    #[must_use]
    pub(crate) fn find(&self, topic: &str, transport: &str, mount: &str) -> Option<&Arc<OpenRoute>> {
        self.routes.get(self.place(topic, transport, mount)?)
    }

    /// Its place in the file, counted from 0.
    #[must_use]
    pub(crate) fn place(&self, topic: &str, transport: &str, mount: &str) -> Option<usize> {
        let mut first = usize::MAX;
        for places in self.index.matching(topic) {
            let earlier = places.iter().copied().take_while(|place| *place < first);
            if let Some(place) = { earlier }.find(|place| self.routes[*place].is_open_to(transport, mount)) {
                first = place;
            }
        }
        (first < self.routes.len()).then_some(first)
    }
}

impl OpenRoute {
    fn new(route: &Arc<Route>) -> Self {
        let rates = || Mutex::new((Rates::new(&route.limits), AllSpent::default()));
        Self {
            route: Arc::clone(route),
            rates: route.limits.is_some().then(rates),
        }
    }

    /// Takes a message with so many bytes.
    ///
    /// # Errors
    ///
    /// If all clients together have sent more than the route takes.
    pub(crate) fn take(&self, is_join: bool, bytes: usize, now: Instant) -> Result<(), Over> {
        let Some(rates) = &self.rates else { return Ok(()) };
        let rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.0.turn(now);
        rates.0.take(&rates.1, is_join, bytes)
    }

    /// How much of each limit is used, of what may come at once.
    pub(crate) fn used(&self, now: Instant) -> Vec<(Limit, usize, usize)> {
        let Some(rates) = &self.rates else { return Vec::new() };
        let rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.0.turn(now);
        let used = |limit: Limit| {
            let rate = rates.0.of(limit)?;
            Some((limit, rate.used(rates.1.of(limit)), rate.most()))
        };
        Limit::ALL.into_iter().filter_map(used).collect()
    }
}

impl Deref for OpenRoute {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.route
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bennu_wire::pattern::TopicPattern;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Mode, Paces};

    /// Finds by trying one route after the other: what [`Router::find`] must agree with.
    fn scan<'r>(router: &'r Router, topic: &str, transport: &str, mount: &str) -> Option<&'r Arc<OpenRoute>> {
        router
            .routes
            .iter()
            .find(|route| route.topic.matches(topic) && route.is_open_to(transport, mount))
    }

    fn route(topic: &str, plugin: &str, transports: Option<&[&str]>, mounts: Option<&[&str]>) -> Arc<Route> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(Route {
            topic: TopicPattern::parse(topic).expect("a pattern"),
            plugin: plugin.to_owned(),
            transports: transports.map(owned),
            mounts: mounts.map(owned),
            assigns: None,
            replaceable: Vec::new(),
            limits: Paces::default(),
        })
    }

    fn router(routes: Vec<Arc<Route>>) -> Router {
        let mut config =
            Config::parse(Path::new("bennu.toml"), "", Mode::Dev).expect("an empty file is a configuration");
        config.routes = routes;
        Router::new(&config)
    }

    #[track_caller]
    fn check_found(router: &Router, (topic, transport, mount): (&str, &str, &str), expected: Option<&str>) {
        let found = router.find(topic, transport, mount).map(|route| route.plugin.as_str());
        assert_eq!(found, expected, "{topic} by {transport} at {mount}");
    }

    #[test]
    fn the_first_route_in_file_order_wins() {
        let routes = ["room:lobby", "room:*", "*", "room:vip:*", "other"].map(|topic| route(topic, topic, None, None));
        let router = router(routes.into());
        check_found(&router, ("room:lobby", "websocket", "/socket"), Some("room:lobby"));
        check_found(&router, ("room:vip:1", "websocket", "/socket"), Some("room:*"));
        check_found(&router, ("other", "websocket", "/socket"), Some("*"));
    }

    #[test]
    fn a_route_that_is_closed_to_the_client_is_skipped() {
        let router = router(vec![
            route("a:*", "ws", Some(&["websocket"]), None),
            route("a:*", "gate", None, Some(&["/gate"])),
            route("a:1", "rest", None, None),
        ]);
        check_found(&router, ("a:1", "websocket", "/gate"), Some("ws"));
        check_found(&router, ("a:1", "longpoll", "/gate"), Some("gate"));
        check_found(&router, ("a:1", "longpoll", "/socket"), Some("rest"));
        check_found(&router, ("a:2", "longpoll", "/socket"), None);
    }

    #[test]
    fn what_a_lookup_costs_does_not_grow_with_the_routes() {
        let many = (0..10_000).map(|n| route(&format!("room{n:05}:*"), "room", None, None));
        let router = router(many.collect());
        assert_eq!(
            router.index.matching("room07777:lobby").map(<[_]>::len).sum::<usize>(),
            1
        );
        check_found(&router, ("room09999:lobby", "websocket", "/socket"), Some("room"));
        check_found(&router, ("room10000:lobby", "websocket", "/socket"), None);
    }

    fn any_route() -> impl Strategy<Value = Arc<Route>> {
        let some_of = |names: [&'static str; 2]| {
            prop_oneof![
                Just(None),
                Just(Some(vec![names[0]])),
                Just(Some(vec![names[1]])),
                Just(Some(vec![]))
            ]
        };
        let (transports, mounts) = (some_of(["websocket", "longpoll"]), some_of(["/a", "/b"]));
        ("[aé:]{0,4}[*b]", transports, mounts)
            .prop_map(|(topic, transports, mounts)| route(&topic, "p", transports.as_deref(), mounts.as_deref()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_index_finds_what_a_scan_finds(
            routes in prop::collection::vec(any_route(), 0..30),
            topics in prop::collection::vec("[aé:]{0,4}b?", 1..10),
        ) {
            let router = router(routes);
            for topic in &topics {
                for (transport, mount) in [("websocket", "/a"), ("websocket", "/b"), ("longpoll", "/a"), ("longpoll", "/b")] {
                    let (found, expected) = (router.find(topic, transport, mount), scan(&router, topic, transport, mount));
                    prop_assert_eq!(found.map(Arc::as_ptr), expected.map(Arc::as_ptr));
                }
            }
        }

    }
}
