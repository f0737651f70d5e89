//! `bennu dev`: builds the plugins, serves them with a page to try them, and replaces them when their sources change.

mod brief;
mod building;
mod keys;
mod known;
mod reloads;
mod rewritten;
mod screen;
mod sources;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};

use clap::Args;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::{ConfigArg, address, override_listen};
use super::signals::{self, Hangup, Signals};
use super::terminal::{FAINT, STRONG, has_colours, styled, table};
use super::{LogOverride, log_filter, log_panics, output, raise_open_files, read_config, set_log_level};
use crate::cargo::{Processes, folder_of};
use crate::config::{Config, Mode};
use crate::runtime::plugin::prepare_process;
use crate::runtime::threads;
use crate::server::control::SetLogLevel;
use crate::server::noted::NotedAddress;
use crate::server::routing::Routing;
use crate::server::{Built, Server};
use brief::Brief;
use keys::Key;
use reloads::Reloads;
use screen::Screen;
use sources::{Change, Sources};

pub(super) const HELP: &str = "\
Examples:
  bennu dev                          uses config/bennu.toml, here or in a
                                     folder above
  bennu dev --config my/bennu.toml
  bennu dev --listen 127.0.0.1:8080  overrides [server] listen

Listens on 127.0.0.1:4000. If neither --listen nor the configuration names an
address and the port is taken, it uses the next free port. The same holds for
the admin listener, which starts at 4001, and for the API, which starts at 4002.

Builds with cargo, in the target directory of the workspace: `cargo build` and
`cargo test` use what it has compiled, and the other way round.

Watches the configuration and everything that the plugins are built from: their
folders, those of the packages that they need, and whatever cargo's dependency
files name. If a plugin does not compile or is rejected, nothing changes: the
previous code stays in service.

Keys in a terminal:
  o  opens the page
  r  lists routes and plugins
  h  shows the keys
  q  quits

The log is short: of the server's own lines it shows warnings and errors, or
fewer if [log] level says so. BENNU_LOG overrides the level and shows full
lines: BENNU_LOG=info.";

/// `bennu dev`
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// Address for clients; overrides `[server] listen`
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
}

/// Serves until told to stop.
///
/// # Errors
///
/// If the configuration is rejected, there is no workspace to build, or the server does not start. A plugin that does not compile is
/// no error: its author may fix it while the server runs.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let mut config = read_config(&file, Mode::Dev)?;
    override_listen(&mut config, args.listen);
    prepare_process(&config)?;
    let screen = Screen::new();
    let log = start_log(&config, &screen)?;
    raise_open_files(&config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let processes = Processes::default();
    let done = runtime.block_on(serve(config, screen, log, &processes));
    // Whatever ended the server, no build goes on without it.
    processes.stop();
    // A plugin's thread that never ends must not keep the process.
    runtime.shutdown_background();
    done
}

async fn serve(
    config: Config,
    screen: Screen,
    (set_log_level, dropped_lines): (SetLogLevel, Counter),
    processes: &Processes,
) -> anyhow::Result<()> {
    let Signals {
        stop: mut stopped,
        stopper: stop,
        ..
    } = signals::listen(Hangup::Stop)?;
    // Before the build, which may take a minute: a port that is taken is reported at once.
    Server::try_addresses(&config, Mode::Dev)?;
    let (changed, changes) = mpsc::channel();
    let (to_build, sender) = ((processes.clone(), screen.clone()), changed.clone());
    let preparing = tokio::task::spawn_blocking(move || prepare(config, sender, to_build));
    let prepared = tokio::select! {
        prepared = preparing => prepared?,
        _ = stopped.recv() => return Ok(()),
    };
    let Prepared { config, sources, built } = prepared?;
    let follower = sources.follower(changed);
    let server = Server::builder(config)
        .dev(built, follower)
        .on_log_level(set_log_level)
        .dropped_lines(dropped_lines)
        .start()
        .await?;
    greet(&server, &screen);
    let state_dir = server.routing().config.server.state_dir.clone();
    note_admin(&state_dir, found_elsewhere(&server));
    note_api(&state_dir, server.api_address());
    let (service, routing) = (server.service().clone(), server.current_routing());
    threads::spawn("builder", move || sources.build(&changes, &service, routing))?;
    let _modes = listen_to_keys(&server, &screen, stop)?;
    let done = server.run(ending_builds(stopped, processes.clone())).await;
    note_admin(&state_dir, None);
    note_api(&state_dir, None);
    Ok(done?)
}

/// What the server starts with.
struct Prepared {
    config: Config,
    sources: Sources,
    built: Vec<Built>,
}

/// Reads the workspace and builds the plugins for the first time.
fn prepare(
    mut config: Config,
    changed: mpsc::Sender<Change>,
    (processes, screen): (Processes, Screen),
) -> anyhow::Result<Prepared> {
    // Watched before the first build, so that nothing is missed that is saved meanwhile.
    let mut sources = Sources::watch(folder_of(&config.file)?, changed, processes, screen)?;
    sources.take_over(&mut config);
    sources.follow(&config)?;
    let built = sources.first_build();
    Ok(Prepared { config, sources, built })
}

/// Passes on that the server is to stop, and ends the build that runs: the server may still take its time.
fn ending_builds(mut stopped: UnboundedReceiver<()>, processes: Processes) -> UnboundedReceiver<()> {
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while stopped.recv().await.is_some() {
            processes.stop();
            if tell.send(()).is_err() {
                return;
            }
        }
    });
    told
}

/// Sends the log to the screen. Unless `BENNU_LOG` is set, it is short: a reload is one line, and of the server's own lines only those
/// are shown that somebody must act on, unless the level names its modules.
fn start_log(config: &Config, screen: &Screen) -> io::Result<(SetLogLevel, Counter)> {
    let dropped = output::start(config.log.max_queue_bytes)?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(screen.clone())
        .log_internal_errors(false)
        .with_ansi(has_colours(&std::io::stderr()));
    let overriding = LogOverride::find();
    let directives = overriding.directives.clone();
    let directives = directives.unwrap_or_else(|| in_short(&config.log.level));
    let (filter, handle) = reload::Layer::new(log_filter(&directives));
    let log = match &overriding.directives {
        Some(_) => log.with_filter(filter).boxed(),
        None => log.event_format(Brief).with_filter(filter).boxed(),
    };
    let of_reloads = Targets::new().with_targets(
        ["bennu::runtime", "bennu::server::control", "bennu::cli"].map(|target| (target, LevelFilter::INFO)),
    );
    let reloads = Reloads::new(screen.clone()).with_filter(of_reloads);
    tracing_subscriber::registry().with(log).with(reloads).init();
    log_panics();
    let set_level = set_log_level(&overriding, move |level| handle.reload(log_filter(&in_short(level))));
    Ok((set_level, dropped))
}

/// The filter of the short log: of the server's own lines warnings and errors, or fewer if `level` says so.
fn in_short(level: &str) -> String {
    let parts = level.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut levels = parts.filter_map(|part| part.parse::<LevelFilter>().ok());
    let most = levels.next_back().unwrap_or(LevelFilter::WARN).min(LevelFilter::WARN);
    format!("bennu={most},{level}")
}

fn greet(server: &Server, screen: &Screen) {
    let routing = server.routing();
    let url = format!("http://{}", server.address());
    screen.say(&format!("\nlistening on {url}"));
    if let Some(other) = { routing.config.listen() }.and_then(|wanted| elsewhere(wanted, server.address())) {
        screen.say(&other);
    }
    for other in server.urls().iter().filter(|other| **other != url) {
        screen.say(&format!("listening on {other}"));
    }
    if let Some(admin) = server.admin_address() {
        screen.say(&format!("admin on http://{admin}"));
        if let Some(other) = { routing.config.admin.listen }.and_then(|wanted| elsewhere(wanted, admin)) {
            screen.say(&other);
        }
    }
    if let Some(api) = server.api_address() {
        screen.say(&format!("api on http://{api}"));
        if let Some(other) = { routing.config.api.listen }.and_then(|wanted| elsewhere(wanted, api)) {
            screen.say(&other);
        }
    }
    screen.say(&format!("\n{}\n", listing(&routing)));
    let is_served = |plugin: &str| { routing.routes.plugins.get(plugin) }.is_some_and(|slot| slot.current().is_some());
    let hint = match routing.config.routes.iter().find(|route| is_served(&route.plugin)) {
        _ if is_served("room") => {
            format!("Open {url} in two tabs and chat; then change a line of plugins/room/src/lib.rs and save it.")
        }
        Some(route) => {
            let call = format!(", or run `bennu call {} {}`", server.address(), route.topic.example());
            // Without the tools there is no such command.
            let call = if cfg!(feature = "tools") { &*call } else { "" };
            format!(
                "Open {url} to try it{call}; then change the source of {} and save it.",
                route.plugin
            )
        }
        None if !routing.config.routes.is_empty() => {
            "No route leads to a plugin in service yet: see the errors above.".to_owned()
        }
        None if !routing.routes.plugins.is_empty() => "No route leads to a plugin yet: add [[routes]].".to_owned(),
        None => "There is no plugin yet: `bennu new NAME --route` makes one.".to_owned(),
    };
    screen.say(&format!("{}\n", styled(STRONG, hint)));
}

/// The address of the admin listener, if it is not the configured one.
fn found_elsewhere(server: &Server) -> Option<SocketAddr> {
    let configured = server.routing().config.admin.listen;
    server.admin_address().filter(|address| Some(*address) != configured)
}

/// Writes down the address of the admin listener, where `bennu plugins` finds it.
fn note_admin(state_dir: &Path, address: Option<SocketAddr>) {
    if let Err(error) = NotedAddress::ADMIN.write(state_dir, address) {
        tracing::warn!(%error, "`bennu plugins` will need --admin to find the admin listener");
    }
}

/// Writes down the address of the API, where `bennu publish` and the like find it.
fn note_api(state_dir: &Path, address: Option<SocketAddr>) {
    if let Err(error) = NotedAddress::API.write(state_dir, address) {
        tracing::warn!(%error, "`bennu publish` will need --api to find the API");
    }
}

/// The line about a port that was taken, which nobody had asked for.
fn elsewhere(wanted: SocketAddr, got: SocketAddr) -> Option<String> {
    let is_taken = wanted.port() != 0 && wanted != got;
    is_taken.then(|| {
        styled(
            FAINT,
            format!("  port {} is taken, using {}", wanted.port(), got.port()),
        )
    })
}

/// The routes, and what is in service.
fn listing(routing: &Routing) -> String {
    let state = |plugin: &str| match routing.routes.plugins.get(plugin).and_then(|slot| slot.current()) {
        Some(current) => format!("{} generation {}", current.manifest.version, current.number),
        None => "not in service".to_owned(),
    };
    let routes = routing.config.routes.iter();
    let mut rows: Vec<_> = routes
        .map(|route| [route.topic.to_string(), route.plugin.clone(), state(&route.plugin)])
        .collect();
    let routed: Vec<_> = rows.iter().map(|[_, plugin, _]| plugin.clone()).collect();
    for plugin in routing.routes.plugins.keys().filter(|plugin| !routed.contains(plugin)) {
        rows.push(["(no route)".to_owned(), plugin.clone(), state(plugin)]);
    }
    if rows.is_empty() {
        return "There are no routes and no plugins.".to_owned();
    }
    table(["topic", "plugin", "state"], &rows)
}

/// Does what the keys say.
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
    fn of_the_servers_own_lines_warnings_and_errors_are_shown() {
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
