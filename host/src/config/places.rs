//! Finds the place in the file for a mistake that is found after reading.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::complaint::Complaint;
use super::diagnostic::{Diagnostic, Span};
use super::model::Config;

impl Config {
    /// A plugin's refusal of its settings: at the key if the plugin does not know it, otherwise at the value.
    ///
    /// `path` names the setting in `settings`: keys joined by dots, with `[0]` for items of lists. If a part is missing, the
    /// diagnostic points at the nearest part around it.
    #[must_use]
    pub(crate) fn settings_error(&self, plugin: &str, path: &str, message: &str) -> Diagnostic {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let complaint = Complaint::new(path, message);
        let at = settings_place(root.get_ref(), plugin, path).map_or(self.source.start(), |place| {
            if complaint.of_key { place.key } else { place.value }
        });
        Diagnostic::error(&self.source, at, complaint.by(&format!("the plugin `{plugin}`"))).maybe_help(complaint.help)
    }

    /// A mistake of a whole plugin, shown at its name.
    #[must_use]
    pub(crate) fn plugin_error(&self, plugin: &str, message: &str) -> Diagnostic {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let at = plugin_span(root.get_ref(), plugin).unwrap_or(self.source.start());
        Diagnostic::error(&self.source, at, message)
    }

    /// Warnings about what is missing to serve anybody. A mount that only echoes needs no plugin.
    #[must_use]
    pub(crate) fn lacks(&self) -> Vec<Diagnostic> {
        let lacks = |message: &str| Diagnostic::warning(&self.source, self.source.start(), message);
        let mut found = Vec::new();
        if !self.mounts.is_empty() && self.mounts.iter().all(|mount| mount.echo) {
            return found;
        }
        if self.mounts.is_empty() {
            let mount = "add a `[[mounts]]` with a line such as `path = \"/socket\"`";
            found.push(lacks("there is no mount: no client can connect").help(mount));
        }
        if self.listen().is_none() && self.listeners.is_empty() {
            let listen = "add a `[[listeners]]` with a line such as `listen = \"0.0.0.0:443\"`";
            found.push(lacks("there is no listener: no client can connect").help(listen));
        }
        match (self.plugins.is_empty(), self.routes.is_empty()) {
            (true, _) => {
                let plugin = "`bennu new NAME --route` makes one, with its route";
                found.push(lacks("there is no plugin: no client can join a topic").help(plugin));
            }
            (false, true) => {
                let route = "add a `[[routes]]` with lines such as `topic = \"room:*\"` and `plugin = \"room\"`";
                found.push(lacks("there is no route: no client can join a topic").help(route));
            }
            (false, false) => {}
        }
        found
    }

    /// A mistake of the setting `key` in `section`: at the key, or at the start of the file if it is not there.
    #[must_use]
    pub(crate) fn key_error(&self, section: &str, key: &str, message: &str) -> Diagnostic {
        Diagnostic::error(&self.source, self.key_place(section, key), message)
    }

    /// A warning about the setting `key` in `section`, at the same place.
    #[must_use]
    pub(crate) fn key_warning(&self, section: &str, key: &str, message: &str) -> Diagnostic {
        Diagnostic::warning(&self.source, self.key_place(section, key), message)
    }

    fn key_place(&self, section: &str, key: &str) -> Span {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        key_span(root.get_ref(), section, key).unwrap_or(self.source.start())
    }

    /// A mistake of one of the `[[listeners]]`, which count from 0 in file order, or of one of the `[[tls.certificates]]`: shown there.
    #[must_use]
    pub(crate) fn listed_error(&self, section: &str, index: usize, message: &str) -> Diagnostic {
        Diagnostic::error(&self.source, self.listed_place(section, index), message)
    }

    /// A warning about one of them, at the same place.
    #[must_use]
    pub(crate) fn listed_warning(&self, section: &str, index: usize, message: &str) -> Diagnostic {
        Diagnostic::warning(&self.source, self.listed_place(section, index), message)
    }

    fn listed_place(&self, section: &str, index: usize) -> Span {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        listed_span(root.get_ref(), section, index).unwrap_or(self.source.start())
    }

    /// A mistake of what `[mounts.auth]` of a mount names, shown there.
    #[must_use]
    pub(crate) fn auth_error(&self, mount: &str, message: &str) -> Diagnostic {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let at = auth_span(root.get_ref(), mount).unwrap_or(self.source.start());
        Diagnostic::error(&self.source, at, message)
    }

    /// A mistake of the whole file, shown at its start.
    #[must_use]
    pub(crate) fn error(&self, message: &str) -> Diagnostic {
        Diagnostic::error(&self.source, self.source.start(), message)
    }

    /// A mistake in a plugin's library, shown at the setting that names it.
    #[must_use]
    pub(crate) fn library_error(&self, plugin: &str, message: &str) -> Diagnostic {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let at = library_span(root.get_ref(), plugin).unwrap_or(self.source.start());
        Diagnostic::error(
            &self.source,
            at,
            format!("the plugin `{plugin}` is rejected: {message}"),
        )
    }

    /// The keys of a section, or `only` that one, whose value differs from the value in all `others`. Each as
    /// `FILE:LINE: [SECTION] KEY`, without a line if the key is gone.
    #[must_use]
    pub(crate) fn changed_keys(&self, section: &str, only: Option<&str>, others: [&Self; 2]) -> Vec<String> {
        let read = |config: &Self| -> toml::Table {
            let table: Option<toml::Table> = config.source.text().parse().ok();
            match table.and_then(|mut table| table.remove(section)) {
                Some(toml::Value::Table(section)) => section,
                // A list of tables changes as a whole.
                Some(list) => toml::Table::from_iter([("listen".to_owned(), list)]),
                None => toml::Table::default(),
            }
        };
        let (ours, others) = (read(self), others.map(read));
        let keys: BTreeSet<&String> = { ours.keys() }
            .chain(others.iter().flat_map(toml::Table::keys))
            .collect();
        let is_changed = |key: &&&String| {
            only.is_none_or(|only| only == **key) && others.iter().all(|other| other.get(**key) != ours.get(**key))
        };
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let file = self.file.display();
        { keys.iter().filter(is_changed) }
            .map(|key| match key_span(root.get_ref(), section, key) {
                Some(at) => format!("{file}:{}: [{section}] {key}", self.source.position(at.start).0),
                None => format!("{file}: [{section}] {key}"),
            })
            .collect()
    }

    /// The place of a route, as `FILE:LINE`. Routes count from 0, in file order.
    #[must_use]
    pub(crate) fn route_place(&self, route: usize) -> String {
        let (root, _) = DeTable::parse_recoverable(self.source.text());
        let at = route_span(root.get_ref(), route).unwrap_or(self.source.start());
        let (line, _) = self.source.position(at.start);
        format!("{}:{line}", self.file.display())
    }
}

fn route_span(root: &DeTable<'_>, route: usize) -> Option<Span> {
    let route = root.get("routes")?.get_ref().as_array()?.get(route)?;
    Some(route.get_ref().as_table()?.get("topic")?.span())
}

/// The first key of an item of a list such as `listeners` or `tls.certificates`.
fn listed_span(root: &DeTable<'_>, section: &str, index: usize) -> Option<Span> {
    let mut parts = section.split('.');
    let mut value = root.get(parts.next()?)?;
    for part in parts {
        value = value.get_ref().as_table()?.get(part)?;
    }
    let item = value.get_ref().as_array()?.get(index)?.get_ref().as_table()?;
    { item.iter() }.map(|(key, _)| key.span()).min_by_key(|at| at.start)
}

fn auth_span(root: &DeTable<'_>, mount: &str) -> Option<Span> {
    let mounts = root.get("mounts")?.get_ref().as_array()?.iter();
    let mut tables = mounts.filter_map(|mount| mount.get_ref().as_table());
    let own = tables.find(|table| table.get("path").and_then(|path| path.get_ref().as_str()) == Some(mount))?;
    Some(own.get_key_value("auth")?.0.span())
}

fn key_span(root: &DeTable<'_>, section: &str, key: &str) -> Option<Span> {
    let section = root.get(section)?.get_ref().as_table()?;
    Some(section.get_key_value(key)?.0.span())
}

fn plugin_span(root: &DeTable<'_>, plugin: &str) -> Option<Span> {
    let (name, _) = root.get("plugins")?.get_ref().as_table()?.get_key_value(plugin)?;
    Some(name.span())
}

fn library_span(root: &DeTable<'_>, plugin: &str) -> Option<Span> {
    let section = root.get("plugins")?.get_ref().as_table()?.get(plugin)?;
    let library = section.get_ref().as_table()?.get("library");
    Some(library.map_or(section.span(), Spanned::span))
}

/// The place of a setting. An item of a list has the same place for key and value.
struct Place {
    key: Span,
    value: Span,
}

/// The place of a plugin's setting, or of the nearest part around it.
fn settings_place(root: &DeTable<'_>, plugin: &str, path: &str) -> Option<Place> {
    let (_, section) = root.get("plugins")?.get_ref().as_table()?.get_key_value(plugin)?;
    let Some((key, settings)) = section.get_ref().as_table()?.get_key_value("settings") else {
        let at = section.span();
        return Some(Place {
            key: at.clone(),
            value: at,
        });
    };
    let (mut key, mut value, mut rest) = (key.span(), settings, path);
    while let Some((inner_key, inner, inner_rest)) = step(value.get_ref(), rest) {
        (key, value, rest) = (inner_key, inner, inner_rest);
    }
    Some(Place {
        key,
        value: value.span(),
    })
}

/// One step down a path: the key, its value, and the rest of the path.
fn step<'t, 'p>(value: &'t DeValue<'t>, path: &'p str) -> Option<(Span, &'t Spanned<DeValue<'t>>, &'p str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    match value {
        DeValue::Array(list) => {
            let (place, rest) = match path.strip_prefix('[') {
                Some(path) => path.split_once(']')?,
                None => path.split_once('.').unwrap_or((path, "")),
            };
            let item = list.get(place.parse::<usize>().ok()?)?;
            Some((item.span(), item, rest))
        }
        DeValue::Table(table) => {
            // A key may contain dots, so the longest key that fits is the right one.
            let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
            let fits = table
                .iter()
                .filter_map(|(key, item)| Some((key.span(), item, path.strip_prefix(key.get_ref().as_ref())?)));
            fits.filter(|(_, _, rest)| ends(rest))
                .min_by_key(|(_, _, rest)| rest.len())
        }
        _ => None,
    }
}
