//! `bennu dev`: builds the plugins, serves them with a page to try them on, and replaces them when their source changes.

mod brief;
mod keys;
mod reloads;
mod screen;
mod sources;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use clap::Args;
use tokio::sync::mpsc::UnboundedSender;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::{ConfigArg, address, override_listen};
use super::terminal::{FAINT, STRONG, has_colours, styled, table};
use super::{LOG_VARIABLE, log_filter, read_config, signals};
use crate::config::{Config, Mode};
use crate::server::Server;
use crate::server::admin;
use crate::server::routing::Routing;
use brief::Brief;
use keys::Key;
use reloads::Reloads;
use screen::Screen;
use sources::Sources;

pub(super) const HELP: &str = "\
Examples:
  bennu dev                          with config/bennu.toml, here or above
  bennu dev --config my/bennu.toml
  bennu dev --listen 127.0.0.1:8080  at another port than it says

Listens on 127.0.0.1:4000, or on the next port that is free where neither
--listen nor the configuration names one; so does its admin listener, from
4001 on.

Watches the sources of each plugin, those of the packages in this workspace
that it needs, and the configuration. A plugin that does not compile, or is
refused, changes nothing: the code before serves on.

Keys, in a terminal:
  o  opens the page
  r  lists routes and plugins
  h  shows the keys
  q  quits

The log is in short, the host's own from warnings on, or fewer where the
configuration's log level says so. BENNU_LOG, which goes before that, shows it
in full: BENNU_LOG=info.";

/// `bennu dev`
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// Where clients connect, if not as configured
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
}

/// Serves until told to stop.
///
/// # Errors
///
/// If the configuration is refused, there is no workspace to build, or the host does not start. A plugin that does not
/// compile is none: it may be mended while the host runs.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let mut config = read_config(&file, Mode::Dev)?;
    override_listen(&mut config, args.listen);
    let screen = Screen::new();
    start_log(&config, &screen);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let workspace = folder(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A taken port is said before the build, which may take a minute.
    runtime.block_on(async { Server::try_addresses(&config, Mode::Dev) })?;
    let (changed, changes) = mpsc::channel();
    // Before the first build, so that what is saved meanwhile is not missed.
    let mut sources = Sources::watch(workspace, changed.clone(), screen.clone())?;
    sources.take_over(&mut config);
    sources.follow(&config)?;
    let built = sources.first_build();

    let done = runtime.block_on(async {
        let (stop, stopped) = signals()?;
        let follower = sources.follower(changed);
        let server = Server::builder(config).dev(built, follower).start().await?;
        greet(&server, &screen);
        let state_dir = server.routing().config.server.state_dir.clone();
        note_admin(&state_dir, found_elsewhere(&server));
        let (service, routing) = (server.service().clone(), server.current_routing());
        std::thread::Builder::new()
            .name("builder".into())
            .spawn(move || sources.build(&changes, &service, routing))?;
        let _modes = listen_to_keys(&server, &screen, stop)?;
        server.run(stopped).await;
        note_admin(&state_dir, None);
        Ok(())
    });
    // A plugin's thread that never ends must not keep the process.
    runtime.shutdown_background();
    done
}

/// The log goes to the screen, in short unless it was asked for: what a reload consists of is one line there, and of the
/// host's own lines those that somebody must act on are shown, unless the level names its modules.
fn start_log(config: &Config, screen: &Screen) {
    let log = tracing_subscriber::fmt::layer()
        .with_writer(screen.clone())
        .with_ansi(has_colours(&std::io::stderr()));
    let log = match std::env::var(LOG_VARIABLE) {
        Ok(directives) => log.with_filter(log_filter(&directives)).boxed(),
        Err(_) => log
            .event_format(Brief)
            .with_filter(log_filter(&in_short(&config.log.level)))
            .boxed(),
    };
    let of_reloads = Targets::new().with_targets(
        ["bennu::runtime", "bennu::server::control", "bennu::cli"].map(|target| (target, LevelFilter::INFO)),
    );
    let reloads = Reloads::new(screen.clone()).with_filter(of_reloads);
    tracing_subscriber::registry().with(log).with(reloads).init();
}

/// What is shown of the log in short: of the host's own lines warnings at most, and fewer where `level` says so.
fn in_short(level: &str) -> String {
    let parts = level.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut levels = parts.filter_map(|part| part.parse::<LevelFilter>().ok());
    let most = levels.next_back().unwrap_or(LevelFilter::WARN).min(LevelFilter::WARN);
    format!("bennu={most},{level}")
}

/// The folder that the workspace is looked for in: the configuration's.
fn folder(config: &Config) -> std::io::Result<PathBuf> {
    let file = config.file.canonicalize()?;
    Ok(file.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from))
}

fn greet(server: &Server, screen: &Screen) {
    let routing = server.routing();
    let url = format!("http://{}", server.address());
    screen.say(&format!("\nlistening on {url}"));
    if let Some(other) = elsewhere(routing.config.listen(), server.address()) {
        screen.say(&other);
    }
    if let Some(admin) = server.admin_address() {
        screen.say(&format!("admin on http://{admin}"));
        if let Some(other) = { routing.config.admin.listen }.and_then(|wanted| elsewhere(wanted, admin)) {
            screen.say(&other);
        }
    }
    screen.say(&format!("\n{}\n", listing(&routing)));
    let is_served = |plugin: &str| { routing.plugins.get(plugin) }.is_some_and(|slot| slot.current().is_some());
    let hint = match routing.config.routes.iter().find(|route| is_served(&route.plugin)) {
        _ if is_served("room") => {
            format!("Open {url} in two tabs and chat; then change a line of plugins/room/src/lib.rs and save it.")
        }
        Some(route) => format!(
            "Open {url} to try it, or `bennu call {} {}`; then change the source of {} and save it.",
            server.address(),
            route.topic.example(),
            route.plugin
        ),
        None if !routing.config.routes.is_empty() => {
            "No route leads to a plugin in service yet: what is wrong stands above.".to_owned()
        }
        None if !routing.plugins.is_empty() => "No route leads to a plugin yet: add [[routes]].".to_owned(),
        None => "There is no plugin yet: `bennu new NAME --route` makes one.".to_owned(),
    };
    screen.say(&format!("{}\n", styled(STRONG, hint)));
}

/// Where the admin listener is, if that is not where the configuration says.
fn found_elsewhere(server: &Server) -> Option<SocketAddr> {
    let configured = server.routing().config.admin.listen;
    server.admin_address().filter(|address| Some(*address) != configured)
}

/// Has `bennu plugins` find the admin listener.
fn note_admin(state_dir: &Path, address: Option<SocketAddr>) {
    if let Err(error) = admin::note_address(state_dir, address) {
        tracing::warn!(%error, "`bennu plugins` will not find the admin listener by itself");
    }
}

/// What is to be said where a port was taken that nobody had asked for.
fn elsewhere(wanted: SocketAddr, got: SocketAddr) -> Option<String> {
    let is_taken = wanted.port() != 0 && wanted != got;
    is_taken.then(|| {
        styled(
            FAINT,
            format!("  port {} is taken, so it is {}", wanted.port(), got.port()),
        )
    })
}

/// Which topics go where, and what is in service.
fn listing(routing: &Routing) -> String {
    let state = |plugin: &str| match routing.plugins.get(plugin).and_then(|slot| slot.current()) {
        Some(current) => format!("{} generation {}", current.manifest.version, current.number),
        None => "not in service".to_owned(),
    };
    let routes = routing.config.routes.iter();
    let mut rows: Vec<_> = routes
        .map(|route| [route.topic.to_string(), route.plugin.clone(), state(&route.plugin)])
        .collect();
    let routed: Vec<_> = rows.iter().map(|[_, plugin, _]| plugin.clone()).collect();
    for plugin in routing.plugins.keys().filter(|plugin| !routed.contains(plugin)) {
        rows.push(["(no route)".to_owned(), plugin.clone(), state(plugin)]);
    }
    if rows.is_empty() {
        return "No topic leads anywhere: there is no route, and no plugin.".to_owned();
    }
    table(["topic", "plugin", "state"], &rows)
}

/// Does what keys ask for.
fn listen_to_keys(
    server: &Server,
    screen: &Screen,
    stop: UnboundedSender<()>,
) -> std::io::Result<Option<super::terminal::Modes>> {
    let (url, routing) = (format!("http://{}", server.address()), server.current_routing());
    let keys_screen = screen.clone();
    let modes = keys::listen(move |key| match key {
        Key::Open => match keys::open(&url) {
            Ok(()) => keys_screen.say(&format!("opening {url}")),
            Err(error) => keys_screen.say(&format!("cannot open a browser ({error}): the page is at {url}")),
        },
        Key::Routes => keys_screen.say(&listing(&Arc::clone(&routing()))),
        Key::Help => keys_screen.say(&styled(FAINT, keys::HELP)),
        Key::Quit => drop(stop.send(())),
    })?;
    if modes.is_some() {
        screen.say(&styled(FAINT, keys::HELP));
    }
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_lines_are_warnings_at_most() {
        for (level, shown) in [
            ("info", "bennu=warn,info"),
            ("error", "bennu=error,error"),
            ("off", "bennu=off,off"),
            ("room=debug", "bennu=warn,room=debug"),
            ("room=debug, error", "bennu=error,room=debug, error"),
            (
                "trace,bennu::runtime::plugin=debug",
                "bennu=warn,trace,bennu::runtime::plugin=debug",
            ),
        ] {
            assert_eq!(in_short(level), shown);
        }
    }
}
