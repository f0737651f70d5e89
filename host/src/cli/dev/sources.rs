//! What the plugins are built from, and the builds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime};

use anstream::adapter::strip_str;
use serde_json::json;

use super::screen::Screen;
use crate::cli::terminal::{BAD, STRONG, has_colours, styled};
use crate::config::Config;
use crate::endpoint::Routing;
use crate::plugin::cargo::{self, CargoError, Workspace};
use crate::plugin::pipeline::Refusal;
use crate::plugin::service::{Command, Service};
use crate::plugin::watch::{Changed, WatchTimes, Watcher};
use crate::server::Built;

/// The watcher's name for the workspace's own manifest; no plugin can be called so.
const WORKSPACE: &str = "/workspace";

/// Something that the builder hears of.
pub(super) enum Change {
    /// The sources of this plugin, or of all.
    Sources(String),
    /// The configuration, which may name other plugins now.
    Configuration(Box<Config>),
}

/// The plugins that are built from this workspace, and the watcher of their sources.
pub(super) struct Sources {
    workspace: Workspace,
    folder: PathBuf,
    /// Each plugin, and the folders that it is built from.
    plugins: BTreeMap<String, Vec<PathBuf>>,
    /// The manifests that say so, and when each was written.
    manifests: BTreeMap<PathBuf, Option<SystemTime>>,
    watcher: Watcher,
    screen: Screen,
}

impl Sources {
    pub(super) fn watch(folder: PathBuf, changed: mpsc::Sender<Change>, screen: Screen) -> anyhow::Result<Self> {
        let workspace = find(&folder)?;
        let heard = move |change: Changed| drop(changed.send(Change::Sources(change.name)));
        let watcher = Watcher::start(WatchTimes::default(), heard)?;
        watcher.file(WORKSPACE, &workspace.root().join("Cargo.toml"));
        Ok(Self {
            workspace,
            folder,
            plugins: BTreeMap::new(),
            manifests: BTreeMap::new(),
            watcher,
            screen,
        })
    }

    /// Takes up the plugins of a configuration. Returns those that are new.
    pub(super) fn follow(&mut self, config: &Config) -> Result<Vec<String>, CargoError> {
        if config.plugins.keys().any(|name| !self.workspace.has(name)) {
            // It may have been added since.
            self.workspace = find(&self.folder)?;
        }
        for (name, plugin) in &config.plugins {
            if !self.workspace.has(name) && plugin.library.is_none() {
                self.screen.say(&format!(
                    "no package of this workspace is called {name}: its folder, the name in its Cargo.toml and [plugins.{name}] are one word; `bennu new {name}` makes one"
                ));
            }
        }
        let known: BTreeSet<String> = self.plugins.keys().cloned().collect();
        let named: BTreeSet<String> = config
            .plugins
            .keys()
            .filter(|name| self.workspace.has(name))
            .cloned()
            .collect();
        for name in known.difference(&named) {
            self.watcher.forget(name);
            self.plugins.remove(name);
        }
        let new: Vec<String> = named.difference(&known).cloned().collect();
        for name in &new {
            self.plugins.insert(name.clone(), Vec::new());
        }
        self.watch_folders()?;
        Ok(new)
    }

    /// Has the plugins of this workspace served from nowhere but our builds.
    pub(super) fn take_over(&self, config: &mut Config) {
        self.workspace.take_over(config);
    }

    /// Watches the folders that each plugin is built from, where they are others than before.
    fn watch_folders(&mut self) -> Result<(), CargoError> {
        let mut manifests = BTreeSet::from([self.workspace.root().join("Cargo.toml")]);
        for (name, watched) in &mut self.plugins {
            let folders = self.workspace.source_folders(name)?;
            manifests.extend(folders.iter().map(|folder| folder.join("Cargo.toml")));
            if *watched != folders {
                self.watcher.sources(name, folders.clone());
                *watched = folders;
            }
        }
        self.manifests = manifests
            .into_iter()
            .map(|file| (file.clone(), written(&file)))
            .collect();
        Ok(())
    }

    /// Asks cargo again what is built from what, if a manifest has changed.
    fn keep_up(&mut self) {
        if self.manifests.iter().all(|(file, before)| written(file) == *before) {
            return;
        }
        // A manifest that cannot be read is told by the build.
        let Ok(workspace) = find(&self.folder) else { return };
        self.workspace = workspace;
        self.plugins.retain(|name, _| self.workspace.has(name));
        if let Err(error) = self.watch_folders() {
            self.screen.say(&format!("{error}"));
        }
    }

    /// Builds all plugins together; if that fails, one by one, so that the good ones serve.
    pub(super) fn first_build(&self) -> Vec<Built> {
        let names: Vec<&str> = self.plugins.keys().map(String::as_str).collect();
        if names.is_empty() {
            return Vec::new();
        }
        self.screen.say(&format!("building {}", names.join(", ")));
        let screen = self.screen.clone();
        if let Ok(built) = self.build_now(&names, move |line| screen.say(line)) {
            return built
                .libraries
                .into_iter()
                .map(|(name, library)| (name, Ok(library)))
                .collect();
        }
        let mut built = Vec::new();
        for name in names {
            match self.build_now(&[name], |_| ()) {
                Ok(one) => built.extend(one.libraries.into_iter().map(|(name, library)| (name, Ok(library)))),
                Err(error) => {
                    // What the compiler says stands above.
                    let what = not_built(name, &error);
                    self.screen
                        .say(&format!("{what}; not in service until it is mended and saved"));
                    built.push((name.to_owned(), Err(refusal(&error))));
                }
            }
        }
        built
    }

    fn build_now(&self, names: &[&str], said: impl FnMut(&str) + Send + 'static) -> Result<cargo::Built, CargoError> {
        self.workspace.build(names, said)?.wait()
    }

    /// Builds what changes, one build at a time, until nobody is left to say so.
    pub(super) fn build(
        mut self,
        changes: &mpsc::Receiver<Change>,
        service: &Service,
        routing: impl Fn() -> Arc<Routing>,
    ) {
        while let Ok(first) = changes.recv() {
            let mut names = BTreeSet::new();
            for change in std::iter::once(first).chain(changes.try_iter()) {
                match change {
                    Change::Sources(name) if name == WORKSPACE => names.extend(self.plugins.keys().cloned()),
                    Change::Sources(name) => names.extend(self.plugins.contains_key(&name).then_some(name)),
                    Change::Configuration(config) => match self.follow(&config) {
                        Ok(new) => names.extend(new),
                        Err(error) => self.screen.say(&format!("the workspace cannot be read: {error}")),
                    },
                }
            }
            self.keep_up();
            for name in names {
                let is_served = || {
                    let routing = routing();
                    routing.plugins.get(&name).is_some_and(|slot| slot.current().is_some())
                };
                self.rebuild(&name, service, is_served);
            }
        }
    }

    /// Builds one plugin and hands it on, or shows why it does not compile; the code in service goes on either way.
    fn rebuild(&self, name: &str, service: &Service, is_served: impl Fn() -> bool) {
        let news = |event, text: serde_json::Value| service.send(Command::News((event, text.to_string())));
        news("building", json!({ "plugin": name }));
        self.screen.status(&format!("building {name}"));
        let (screen, shown) = (self.screen.clone(), name.to_owned());
        let said = move |line: &str| {
            let line = strip_str(line).to_string();
            screen.status(&format!("building {shown}: {}", line.trim()));
        };
        let start = Instant::now();
        let built = self.build_now(&[name], said);
        self.screen.status("");
        match built {
            Ok(cargo::Built { libraries, warnings }) => {
                if !warnings.is_empty() {
                    self.screen.say(&warnings);
                }
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
                if let CargoError::Failed(message) = &error {
                    self.screen.say(message);
                }
                let holds = match is_served() {
                    true => "the code in service goes on",
                    false => "not in service until it is mended and saved",
                };
                self.screen.say(&format!("{}; {holds}", not_built(name, &error)));
                service.send(Command::NotBuilt(name.to_owned(), refusal(&error)));
            }
        }
    }
}

/// What is said of a plugin that could not be built, below what the compiler says.
fn not_built(name: &str, error: &CargoError) -> String {
    let (cross, plugin) = (styled(BAD, "✗"), styled(STRONG, name));
    match error {
        CargoError::Failed(_) => format!("{cross} {plugin} does not compile"),
        other => format!("{cross} {plugin} cannot be built: {other}"),
    }
}

/// The same for those who ask later: the page, the admin listener.
fn refusal(error: &CargoError) -> Refusal {
    let code = match error {
        CargoError::Failed(_) => "compile",
        CargoError::NoPackage(_) => "no_package",
        _ => "cargo",
    };
    Refusal::new("build", code, strip_str(&error.to_string()).to_string())
}

/// The workspace, whose builds are in colour where they are shown.
fn find(folder: &Path) -> Result<Workspace, CargoError> {
    let out = std::io::stdout();
    Ok(Workspace::find(folder)?.with_colours(out.is_terminal() && has_colours(&out)))
}

fn written(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).ok()?.modified().ok()
}
