//! Finds the plugin for a topic.
//!
//! A [`Router`] is built once from the routes in `bennu.toml` and never changes; a reload builds a new one.
//! Sockets ask it only when a client joins.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::config::{Config, Route};

/// The routes of one configuration. A clone is the same router.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Arc<[Arc<Route>]>,
    index: Arc<PatternIndex>,
}

impl Router {
    /// Takes the routes of `config`, in file order.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut index = PatternIndex::default();
        for (place, route) in config.routes.iter().enumerate() {
            index.insert(&route.topic, place);
        }
        Self {
            routes: config.routes.as_slice().into(),
            index: Arc::new(index),
        }
    }

    /// The first route, in file order, that takes `topic` and is open to a client of this `transport` and `mount`.
    ///
    /// A route that is closed to the client is skipped, and the next one tried. How many routes there are makes no
    /// difference: the cost grows with the number of different lengths of prefixes, and with the number of routes of
    /// the very same pattern.
    #[must_use]
    pub fn find(&self, topic: &str, transport: &str, mount: &str) -> Option<&Arc<Route>> {
        let mut first = usize::MAX;
        for places in self.index.matching(topic) {
            let earlier = places.iter().copied().take_while(|place| *place < first);
            if let Some(place) = { earlier }.find(|place| self.routes[*place].is_open_to(transport, mount)) {
                first = place;
            }
        }
        self.routes.get(first)
    }

    /// All routes, in file order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

impl Route {
    /// Whether a client of this `transport` and `mount` may use the route.
    #[must_use]
    pub fn is_open_to(&self, transport: &str, mount: &str) -> bool {
        let lists = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
        };
        lists(&self.transports, transport) && lists(&self.mounts, mount)
    }
}

/// `room:lobby`, or `room:*`: the literal prefix and everything behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    prefix: String,
    splat: bool,
}

/// Why a text is no [`TopicPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is nothing in it.
    #[error("a topic pattern may not be empty")]
    Empty,
    /// There is a `*` before the last character.
    #[error("`*` may only stand at the end of a topic pattern")]
    InnerSplat {
        /// Where the first such `*` is, in bytes.
        at: usize,
    },
}

impl TopicPattern {
    /// Reads a pattern such as `room:lobby` or `room:*`. `*` alone takes every topic.
    ///
    /// # Errors
    ///
    /// If the text is empty, or has a `*` before its last character.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let (prefix, splat) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        match prefix.find('*') {
            Some(at) => Err(PatternError::InnerSplat { at }),
            None => Ok(Self {
                prefix: prefix.to_owned(),
                splat,
            }),
        }
    }

    /// A topic that it takes, to try it with: `room:1` for `room:*`.
    #[must_use]
    pub fn example(&self) -> String {
        format!("{}{}", self.prefix, if self.splat { "1" } else { "" })
    }

    /// Whether it takes `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if self.splat {
            topic.starts_with(&self.prefix)
        } else {
            topic == self.prefix
        }
    }

    /// Whether it takes every topic that `other` takes.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.matches(&other.prefix) && (self.splat || !other.splat)
    }
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, if self.splat { "*" } else { "" })
    }
}

/// Patterns, each with the places (in file order) where it stands.
#[derive(Debug, Default)]
pub(crate) struct PatternIndex {
    literals: HashMap<String, Vec<usize>>,
    splats: HashMap<String, Vec<usize>>,
    /// The lengths that the prefixes in `splats` have: what a topic's own prefixes need to be looked up for.
    lengths: BTreeSet<usize>,
}

impl PatternIndex {
    /// Adds a pattern. Places must come in rising order.
    pub(crate) fn insert(&mut self, pattern: &TopicPattern, place: usize) {
        let map = if pattern.splat {
            &mut self.splats
        } else {
            &mut self.literals
        };
        map.entry(pattern.prefix.clone()).or_default().push(place);
        if pattern.splat {
            self.lengths.insert(pattern.prefix.len());
        }
    }

    /// The places of each pattern that takes `topic`.
    pub(crate) fn matching<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a [usize]> {
        self.literals
            .get(topic)
            .map(Vec::as_slice)
            .into_iter()
            .chain(self.splats_over(topic))
    }

    /// The places of each pattern that [covers](TopicPattern::covers) `pattern`.
    pub(crate) fn covering<'a>(&'a self, pattern: &'a TopicPattern) -> impl Iterator<Item = &'a [usize]> {
        let literal = if pattern.splat {
            None
        } else {
            self.literals.get(&pattern.prefix)
        };
        literal
            .map(Vec::as_slice)
            .into_iter()
            .chain(self.splats_over(&pattern.prefix))
    }

    fn splats_over<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a [usize]> {
        // A length inside of a character belongs to no prefix of this text.
        let prefixes = self
            .lengths
            .range(..=text.len())
            .filter_map(|length| text.get(..*length));
        prefixes.filter_map(|prefix| self.splats.get(prefix)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Mode;

    #[track_caller]
    fn check(pattern: &str, topic: &str, expected: bool) {
        let pattern = TopicPattern::parse(pattern).expect("a pattern");
        assert_eq!(pattern.matches(topic), expected, "{pattern} and {topic}");
    }

    #[track_caller]
    fn check_refused(pattern: &str, expected: PatternError) {
        assert_eq!(TopicPattern::parse(pattern), Err(expected));
    }

    /// Finds by trying one route after the other: what [`Router::find`] must agree with.
    fn scan<'r>(router: &'r Router, topic: &str, transport: &str, mount: &str) -> Option<&'r Arc<Route>> {
        router
            .routes()
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
    fn a_literal_takes_its_own_topic_only() {
        check("room:lobby", "room:lobby", true);
        check("room:lobby", "room:lobby2", false);
        check("room:lobby", "room:lobb", false);
        check("room:lobby", "", false);
    }

    #[test]
    fn a_splat_takes_every_topic_with_its_prefix() {
        check("room:*", "room:lobby", true);
        check("room:*", "room:", true);
        check("room:*", "room", false);
        check("room:*", "rooms:1", false);
        check("*", "", true);
        check("*", "anything", true);
    }

    #[test]
    fn a_splat_stands_at_the_end_and_once() {
        check_refused("", PatternError::Empty);
        check_refused("room:*:x", PatternError::InnerSplat { at: 5 });
        check_refused("room:**", PatternError::InnerSplat { at: 5 });
        check_refused("*room", PatternError::InnerSplat { at: 0 });
    }

    #[test]
    fn a_pattern_is_displayed_as_it_was_written() {
        for text in ["room:lobby", "room:*", "*", "ünï:*"] {
            assert_eq!(TopicPattern::parse(text).expect("a pattern").to_string(), text);
        }
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
        assert_eq!(router.index.lengths.len(), 1);
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

        #[test]
        fn a_pattern_covers_another_when_it_takes_all_of_its_topics(a in "[ab]{0,3}[*a]", b in "[ab]{0,3}[*a]") {
            let (a, b) = (TopicPattern::parse(&a).unwrap(), TopicPattern::parse(&b).unwrap());
            let topics = ["a", "b"].iter().flat_map(|end| [format!("{}{end}", b.prefix), format!("{}{end}{end}", b.prefix)]);
            let all = topics.chain([b.prefix.clone()]).filter(|topic| b.matches(topic)).all(|topic| a.matches(&topic));
            prop_assert_eq!(a.covers(&b), all);
        }
    }
}
