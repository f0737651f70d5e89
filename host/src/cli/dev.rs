//! `bennu dev`: builds the plugins, serves them with a page to try them on, and replaces them when their source changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::args::{ConfigArg, address, override_listen};
use super::{read_config, say, signals, start_log};
use crate::config::{Config, Mode};
use crate::plugin::cargo::{CargoError, Workspace};
use crate::plugin::service::{Command, Service};
use crate::plugin::watch::{Changed, WatchTimes, Watcher};
use crate::server::{Built, Server};

pub(super) const HELP: &str = "\
Examples:
  bennu dev                            config/bennu.toml of this folder or of one above it
  bennu dev --config my/bennu.toml
  bennu dev --listen 127.0.0.1:8080    another port than the configuration says";

/// `bennu dev`
#[derive(Args, Debug)]
pub struct DevArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArg,
    /// Where clients connect, in place of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub listen: Option<SocketAddr>,
}

/// Serves until told to stop.
///
/// # Errors
///
/// If the configuration is refused, there is no workspace to build, or the host does not start. A plugin that does not
/// compile is none: it may be mended while the host runs.
pub fn run(args: &DevArgs) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let mut config = read_config(&file, Mode::Dev)?;
    override_listen(&mut config, args.listen);
    start_log(&config);
    let workspace = folder(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A taken port is said before the build, which may take a minute.
    runtime.block_on(async { Server::try_addresses(&config) })?;
    let (changed, changes) = mpsc::channel();
    // Before the first build, so that what is saved meanwhile is not missed.
    let mut sources = Sources::watch(workspace, changed.clone())?;
    sources.follow(&config)?;
    say(&format!(
        "building {}",
        sources.plugins.iter().cloned().collect::<Vec<_>>().join(", ")
    ));
    let built = sources.first_build();

    let done = runtime.block_on(async {
        let stop = signals()?;
        let configured = move |config: &Config| drop(changed.send(Change::Configuration(Box::new(config.clone()))));
        let server = Server::start(config, Mode::Dev, built, Box::new(configured)).await?;
        greet(&server);
        let service = server.service.clone();
        std::thread::Builder::new()
            .name("builder".into())
            .spawn(move || sources.build(&changes, &service))?;
        server.run(stop).await;
        Ok(())
    });
    // A plugin's thread that never ends must not keep the process.
    runtime.shutdown_background();
    done
}

/// The folder that the workspace is looked for in: the configuration's.
fn folder(config: &Config) -> std::io::Result<PathBuf> {
    let file = config.file.canonicalize()?;
    Ok(file.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from))
}

fn build(
    workspace: &Workspace,
    names: &[&str],
    said: impl FnMut(&str) + Send + 'static,
) -> Result<Vec<Built>, CargoError> {
    Ok(workspace.build(names, said)?.wait()?.into_iter().collect())
}

fn greet(server: &Server) {
    let routing = server.routing();
    say(&format!("\nlistening on http://{}", server.address));
    if let Some(admin) = server.admin_address {
        say(&format!("admin on http://{admin}"));
    }
    say("\nroutes");
    for route in &routing.config.routes {
        say(&format!("  {:<24} {}", route.topic.to_string(), route.plugin));
    }
    say("\nplugins");
    for slot in routing.plugins.values() {
        let state = slot.current().map_or("not in service".to_owned(), |current| {
            format!("{} generation {}", current.manifest.version, current.number)
        });
        say(&format!("  {:<24} {state}", slot.name));
    }
    say(&format!(
        "\nOpen http://{} in two tabs and chat; then change a line of plugins/room/src/lib.rs and save it.\n",
        server.address
    ));
}

/// Something that the builder hears of.
enum Change {
    /// The sources of this plugin.
    Sources(String),
    /// The configuration, which may name other plugins now.
    Configuration(Box<Config>),
}

/// The plugins that are built from this workspace, and the watcher of their sources.
struct Sources {
    workspace: Workspace,
    folder: PathBuf,
    plugins: BTreeSet<String>,
    watcher: Watcher,
}

impl Sources {
    fn watch(folder: PathBuf, changed: mpsc::Sender<Change>) -> anyhow::Result<Self> {
        let workspace = Workspace::find(&folder)?;
        let heard = move |change: Changed| drop(changed.send(Change::Sources(change.name)));
        let watcher = Watcher::start(WatchTimes::default(), heard)?;
        Ok(Self {
            workspace,
            folder,
            plugins: BTreeSet::new(),
            watcher,
        })
    }

    /// Takes up the plugins of a configuration. Returns those that are new.
    fn follow(&mut self, config: &Config) -> Result<Vec<String>, CargoError> {
        let named: BTreeSet<String> = config.plugins.keys().cloned().collect();
        if named.iter().any(|name| !self.workspace.has(name)) {
            // It may have been added since.
            self.workspace = Workspace::find(&self.folder)?;
        }
        for name in self.plugins.difference(&named) {
            self.watcher.forget(name);
        }
        let mut new = Vec::new();
        for name in named.difference(&self.plugins) {
            if self.workspace.has(name) {
                self.watcher.sources(name, self.workspace.source_folders(name)?);
                new.push(name.clone());
            } else if config.plugins[name].library.is_none() {
                say(&format!(
                    "no package of this workspace is called {name}: its folder, the name in its Cargo.toml and [plugins.{name}] are one word"
                ));
            }
        }
        self.plugins = named.into_iter().filter(|name| self.workspace.has(name)).collect();
        Ok(new)
    }

    /// Builds all plugins together; if that fails, one by one, so that the good ones serve.
    fn first_build(&self) -> Vec<Built> {
        let names: Vec<&str> = self.plugins.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Vec::new();
        }
        if let Ok(libraries) = build(&self.workspace, &names, say) {
            return libraries;
        }
        let mut built = Vec::new();
        for name in names {
            match build(&self.workspace, &[name], |_| ()) {
                Ok(libraries) => built.extend(libraries),
                // What is wrong stands above.
                Err(_) => say(&format!("{name} does not compile; save it again once it is mended")),
            }
        }
        built
    }

    /// Builds what changes, one build at a time, until nobody is left to say so.
    fn build(mut self, changes: &mpsc::Receiver<Change>, service: &Service) {
        while let Ok(first) = changes.recv() {
            let mut names = BTreeSet::new();
            for change in std::iter::once(first).chain(changes.try_iter()) {
                match change {
                    Change::Sources(name) => names.extend(self.plugins.contains(&name).then_some(name)),
                    Change::Configuration(config) => match self.follow(&config) {
                        Ok(new) => names.extend(new),
                        Err(error) => say(&format!("the workspace cannot be read: {error}")),
                    },
                }
            }
            for name in names {
                rebuild(&self.workspace, &name, service);
            }
        }
    }
}

/// Builds one plugin and hands it on, or shows why it does not compile; the code in service goes on either way.
fn rebuild(workspace: &Workspace, name: &str, service: &Service) {
    let news = |event, text: serde_json::Value| service.send(Command::News((event, text.to_string())));
    news("building", json!({ "plugin": name }));
    tracing::info!(plugin = name, "building");
    let start = Instant::now();
    match build(workspace, &[name], |_| ()) {
        Ok(libraries) => {
            tracing::info!(plugin = name, build_ms = start.elapsed().as_millis(), "built");
            for (name, path) in libraries {
                service.send(Command::Library {
                    name,
                    path,
                    built: true,
                });
            }
        }
        Err(error) => {
            let message = error.to_string();
            say(&format!(
                "{message}\n{name} does not compile; the code in service goes on"
            ));
            news("build_failed", json!({ "plugin": name, "message": message }));
        }
    }
}
