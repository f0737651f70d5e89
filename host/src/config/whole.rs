//! Reads all sections of a configuration, and checks that they fit together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;

use super::api;
use super::around::Surroundings;
use super::check::Whole;
use super::cluster;
use super::diagnostic::Source;
use super::listeners;
use super::mistakes::Mistakes;
use super::model::{Config, Route};
use super::reader::Section;
use super::sections::{self, ReadRoute};
use super::telemetry;

/// Reads the whole file. Has a default wherever it notes a mistake.
pub(super) fn read_whole(
    file: &Path,
    around: &Surroundings<'_>,
    top: Section<'_>,
    source: &Arc<Source>,
    mistakes: &Mistakes,
) -> Config {
    let server = sections::server(top.section("server"), around);
    let tls = listeners::tls(top.section("tls"), around);
    let listeners = listeners::listeners(top.sections("listeners"), &tls, around);
    let proxies = listeners::proxies(top.section("proxies"));
    let admin = sections::admin(top.section("admin"), around);
    let api = api::api(top.section("api"), around);
    let log = sections::log(top.section("log"));
    let limits = sections::limits(top.section("limits"));
    let cluster = cluster::cluster(top.section("cluster"), around);
    let telemetry = telemetry::telemetry(top.section("telemetry"), around);
    let store = sections::store(top.section("store"));
    let mounts: Vec<_> = top
        .sections("mounts")
        .into_iter()
        .map(|section| sections::mount(section, &server, around))
        .collect();
    let plugins = top.named_sections("plugins").into_iter();
    let plugins: Vec<_> = plugins
        .map(|(name, section)| sections::plugin(name, section, around))
        .collect();
    let routes: Vec<_> = top.sections("routes").into_iter().map(sections::route).collect();
    top.finish();
    Whole {
        mode: around.mode,
        mounts: &mounts,
        plugins: &plugins,
        routes: &routes,
        mistakes,
    }
    .check();
    Config {
        file: file.to_owned(),
        server,
        listeners,
        tls,
        proxies,
        admin,
        api,
        log,
        limits,
        cluster,
        telemetry,
        store,
        mounts: mounts.into_iter().map(|read| Arc::new(read.mount)).collect(),
        plugins: plugins
            .into_iter()
            .map(|read| (read.name.into_inner(), read.plugin))
            .collect(),
        routes: routes.into_iter().filter_map(complete).map(Arc::new).collect(),
        listen_instead: None,
        program: None,
        warnings: Vec::new(),
        path: None,
        source: Arc::clone(source),
    }
}

/// A route without the places of its parts; `None` if a part is missing, which is a mistake by now.
fn complete(read: ReadRoute) -> Option<Route> {
    let names =
        |names: Option<Vec<Spanned<String>>>| names.map(|names| names.into_iter().map(Spanned::into_inner).collect());
    Some(Route {
        topic: read.topic?.into_inner(),
        plugin: read.plugin?.into_inner(),
        transports: names(read.transports),
        mounts: names(read.mounts),
        assigns: read.assigns,
        replaceable: read.replaceable,
        limits: read.limits,
    })
}

/// The folder that relative paths start at, without symbolic links.
pub(super) fn folder_of(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    folder.canonicalize().unwrap_or_else(|_| absolute(folder))
}

/// A path from the root on. Symbolic links stay: they may lead elsewhere tomorrow.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
