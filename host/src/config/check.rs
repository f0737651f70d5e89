//! Checks that the sections fit together: names exist, paths are unique, and clients can reach each route.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, HashSet};

use bennu_wire::pattern::PatternIndex;
use toml::Spanned;

use super::diagnostic::Span;
use super::mistakes::Mistakes;
use super::model::Mode;
use super::sections::{ReadMount, ReadPlugin, ReadRoute, TRANSPORTS};
use super::words::suggestion;

/// The paths that a mount serves below its own, in all dialects.
const ENDPOINTS: [&str; 4] = ["/websocket", "/longpoll", "/poll", "/api/broadcast"];

/// All sections of a file.
pub(super) struct Whole<'a> {
    pub(super) mode: Mode,
    pub(super) mounts: &'a [ReadMount],
    pub(super) plugins: &'a [ReadPlugin],
    pub(super) routes: &'a [ReadRoute],
    pub(super) mistakes: &'a Mistakes,
}

impl Whole<'_> {
    pub(super) fn check(&self) {
        self.check_mounts();
        self.check_plugins();
        self.check_use_of_plugins();
        self.check_names_in_routes();
        self.check_reach();
    }

    fn check_mounts(&self) {
        let mut taken: BTreeMap<&str, Span> = BTreeMap::new();
        for read in self.mounts {
            for plugin in [&read.connect, &read.origin_plugin].into_iter().flatten() {
                self.check_plugin(plugin);
            }
            if let Some(path) = &read.path {
                self.check_path(path);
                if let Some(first) = taken.get(path.get_ref().as_str()) {
                    let twice = self
                        .mistakes
                        .error(path.span(), format!("there are two mounts at `{}`", path.get_ref()));
                    self.mistakes
                        .add(twice.label("the second").also(first.clone(), "the first"));
                } else {
                    taken.insert(path.get_ref(), path.span());
                }
            }
        }
        for (path, at) in &taken {
            let outer = ENDPOINTS
                .iter()
                .find_map(|endpoint| taken.get_key_value(path.strip_suffix(endpoint)?));
            if let Some((outer, outer_at)) = outer {
                let collision = self
                    .mistakes
                    .error(at.clone(), format!("the mount at `{outer}` already serves `{path}`"));
                self.mistakes.add(collision.also(outer_at.clone(), "the mount"));
            }
        }
    }

    fn check_path(&self, path: &Spanned<String>) {
        let text = path.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || ['/', '-', '_', '.', '~'].contains(&c);
        let message = match () {
            () if !text.starts_with('/') => "the path of a mount must start with `/`",
            () if text.ends_with('/') => "the path of a mount must not end with `/`",
            () if text.contains("//") => "the path of a mount must not have an empty part",
            () if text.split('/').any(|part| part == "." || part == "..") => {
                "the path of a mount must not have a part `.` or `..`"
            }
            () if !text.chars().all(allowed) => {
                "the path of a mount may only have letters, digits, `-`, `_`, `.`, `~` and `/`"
            }
            () => return,
        };
        let tidy: String = text
            .split('/')
            .filter(|part| !matches!(*part, "" | "." | ".."))
            .flat_map(|part| ["/", part])
            .collect();
        let tidy = if tidy.is_empty() || !tidy.chars().all(allowed) {
            "/socket"
        } else {
            &tidy
        };
        self.mistakes.add(
            self.mistakes
                .error(path.span(), message)
                .help(format!("write \"{tidy}\"")),
        );
    }

    fn check_plugins(&self) {
        for read in self.plugins {
            let name = read.name.get_ref();
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
            if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
                let wrong = self
                    .mistakes
                    .error(read.name.span(), format!("`{name}` cannot be the name of a plugin"));
                self.mistakes.add(wrong.help(
                    "a plugin has the name of its folder and crate: lower-case letters, digits, `_` and `-`, with a letter first",
                ));
            }
            if self.mode == Mode::Serve && read.plugin.library.is_none() {
                let missing = self
                    .mistakes
                    .error(read.at.clone(), format!("the plugin `{name}` has no `library`"));
                let file = format!("lib{}.so", name.replace('-', "_"));
                self.mistakes.add(missing.help(format!(
                    "`bennu serve` builds nothing: add a line such as `library = \"../target/release/{file}\"`"
                )));
            }
        }
    }

    fn check_use_of_plugins(&self) {
        let in_mounts = self
            .mounts
            .iter()
            .flat_map(|read| [&read.connect, &read.origin_plugin])
            .flatten();
        let in_routes = self.routes.iter().filter_map(|read| read.plugin.as_ref());
        let used: HashSet<&str> = in_mounts.chain(in_routes).map(|name| name.get_ref().as_str()).collect();
        for read in self
            .plugins
            .iter()
            .filter(|read| !used.contains(read.name.get_ref().as_str()))
        {
            let idle = self.mistakes.warning(
                read.name.span(),
                format!("no route and no mount uses the plugin `{}`", read.name.get_ref()),
            );
            self.mistakes
                .add(idle.help("add a `[[routes]]`, or name it in the `connect` or `check_origin` of a mount"));
        }
    }

    fn check_plugin(&self, name: &Spanned<String>) {
        let known: Vec<&str> = self.plugins.iter().map(|read| read.name.get_ref().as_str()).collect();
        if !known.contains(&name.get_ref().as_str()) {
            let help = match known[..] {
                [] => format!("add a section `[plugins.{}]`", name.get_ref()),
                _ => suggestion(name.get_ref(), &known),
            };
            let unknown = self
                .mistakes
                .error(name.span(), format!("there is no plugin `{}`", name.get_ref()));
            self.mistakes.add(unknown.help(help));
        }
    }

    fn check_names_in_routes(&self) {
        let mounts: Vec<&str> = self
            .mounts
            .iter()
            .filter_map(|read| Some(read.path.as_ref()?.get_ref().as_str()))
            .collect();
        for route in self.routes {
            if let Some(plugin) = &route.plugin {
                self.check_plugin(plugin);
            }
            self.check_listed(&route.transports, "transport", &TRANSPORTS);
            self.check_listed(&route.mounts, "mount", &mounts);
        }
    }

    fn check_listed(&self, names: &Option<Vec<Spanned<String>>>, what: &str, known: &[&str]) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for name in names.iter().flatten() {
            if !known.contains(&name.get_ref().as_str()) {
                let unknown = self
                    .mistakes
                    .error(name.span(), format!("there is no {what} `{}`", name.get_ref()));
                self.mistakes.add(unknown.help(suggestion(name.get_ref(), known)));
            }
            match seen.entry(name.get_ref()) {
                Entry::Vacant(entry) => drop(entry.insert(name.span())),
                Entry::Occupied(first) => {
                    let twice = self.mistakes.error(
                        name.span(),
                        format!("this list has the {what} `{}` twice", name.get_ref()),
                    );
                    self.mistakes.add(twice.also(first.get().clone(), "the first"));
                }
            }
        }
    }

    /// Notes every route that no client can reach because earlier routes take all its topics.
    ///
    /// Two routes with the same pattern are a mistake. Everything else is a warning. If the earlier route takes only some of the
    /// transports or mounts, the later one is a fallback and fine.
    fn check_reach(&self) {
        let mut index = PatternIndex::default();
        for (place, route) in self.routes.iter().enumerate() {
            let Some(topic) = &route.topic else { continue };
            let all = self.doors(route);
            if all.is_empty() && self.names_exist(route) {
                self.mistakes.add(self.mistakes.warning(
                    topic.span(),
                    "no client reaches this route: no mount serves its transports",
                ));
            }
            let mut left = all.clone();
            let mut earlier: Vec<usize> = index.covering(topic.get_ref()).flatten().copied().collect();
            earlier.sort_unstable();
            for before in earlier {
                let doors = self.doors(&self.routes[before]);
                left.retain(|door| !doors.contains(door));
                if left.is_empty() && !all.is_empty() {
                    let alone = all.iter().all(|door| doors.contains(door));
                    self.note_unreached(topic, &self.routes[before], alone);
                    break;
                }
            }
            index.insert(topic.get_ref(), place);
        }
    }

    /// Whether there are mounts, and everything that the route names exists. If not, another message says so.
    fn names_exist(&self, route: &ReadRoute) -> bool {
        let is_transport = |name: &Spanned<String>| TRANSPORTS.contains(&name.get_ref().as_str());
        let is_mount = |name: &Spanned<String>| self.mounts.iter().any(|read| read.mount.path == *name.get_ref());
        !self.mounts.is_empty()
            && route.transports.iter().flatten().all(is_transport)
            && route.mounts.iter().flatten().all(is_mount)
            && ![&route.transports, &route.mounts]
                .iter()
                .any(|names| names.as_ref().is_some_and(Vec::is_empty))
    }

    /// Every way to reach a route: a transport at a mount. Ignores unknown names, which are mistakes of their own.
    fn doors(&self, route: &ReadRoute) -> Vec<(&str, &str)> {
        let lists = |names: &Option<Vec<Spanned<String>>>, name: &str| {
            names
                .as_ref()
                .is_none_or(|names| names.iter().any(|n| n.get_ref() == name))
        };
        let mounts = self.mounts.iter().filter(|read| lists(&route.mounts, &read.mount.path));
        let doors = mounts.flat_map(|read| {
            let served = [
                ("websocket", read.mount.websocket),
                ("longpoll", read.mount.longpoll.is_some()),
            ];
            served
                .into_iter()
                .filter(|(_, served)| *served)
                .map(|(transport, _)| (transport, read.mount.path.as_str()))
        });
        doors
            .filter(|(transport, _)| lists(&route.transports, transport))
            .collect()
    }

    /// `before` takes what the routes before it have left; `alone`: it takes everything.
    fn note_unreached(&self, topic: &Spanned<bennu_wire::pattern::TopicPattern>, before: &ReadRoute, alone: bool) {
        let Some(first) = &before.topic else { return };
        let (pattern, takes) = (topic.get_ref(), first.get_ref());
        let diagnostic = match alone {
            true if takes == pattern => self
                .mistakes
                .error(topic.span(), format!("there are two routes for `{pattern}`"))
                .label("the second"),
            true => self.mistakes.warning(
                topic.span(),
                format!("no client reaches this route: `{takes}` comes before it"),
            ),
            false => self.mistakes.warning(
                topic.span(),
                "no client reaches this route: the routes before it take all its topics together",
            ),
        };
        let label = if alone { "the first" } else { "the last of them" };
        self.mistakes.add(
            diagnostic
                .also(first.span(), label)
                .help("the first match in file order wins: put the narrower route first"),
        );
    }
}
