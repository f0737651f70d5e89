//! What the plugins are built from, and the builds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Instant, SystemTime};

use anstream::adapter::strip_str;
use serde_json::json;

use super::screen::Screen;
use crate::cargo::{self, CargoError, Workspace};
use crate::cli::terminal::{BAD, STRONG, has_colours, styled};
use crate::config::Config;
use crate::runtime::plugin::step::{Refusal, Step};
use crate::server::Built;
use crate::server::control::watch::{News, WatchTimes, Watcher, What};
use crate::server::control::{Command, Follower, Service};
use crate::server::routing::Routing;

/// The watcher's name for the workspace's own manifest; no plugin can be called so.
const WORKSPACE: &str = "/workspace";

/// Something that the builder hears of.
pub(super) enum Change {
    /// The sources of this plugin, or of all.
    Sources(String),
    /// The configuration, which may name other plugins now.
    Configuration(Box<Config>),
}

/// The workspace as cargo told it last. The builder asks, others only look.
#[derive(Clone)]
struct Known(Arc<Mutex<Arc<Workspace>>>);

impl Known {
    fn now(&self) -> Arc<Workspace> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, workspace: Workspace) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(workspace);
    }
}

/// What the host asks while `dev` builds for it.
struct Builder {
    known: Known,
    changed: mpsc::Sender<Change>,
}

impl Follower for Builder {
    fn adapt(&self, config: &mut Config) {
        take_over(config, &self.known.now());
    }

    fn configured(&self, config: &Config) {
        // The builder ends with the process.
        let _ = self.changed.send(Change::Configuration(Box::new(config.clone())));
    }
}

/// Takes away the libraries that a configuration names for plugins of the workspace, as `dev` serves only what it has built,
/// and those that are not there: a file that is missing refuses the configuration in `serve` only.
fn take_over(config: &mut Config, workspace: &Workspace) {
    for (name, plugin) in &mut config.plugins {
        // One that was made since cargo was asked last has its folder at least.
        let is_ours = workspace.has(name) || usual_folder(workspace, name).join("Cargo.toml").exists();
        plugin.library = plugin.library.take().filter(|library| !is_ours && library.exists());
    }
}

/// Where `bennu new` puts a plugin.
fn usual_folder(workspace: &Workspace, plugin: &str) -> PathBuf {
    workspace.root().join("plugins").join(plugin)
}

/// The plugins that are built from this workspace, and the watcher of their sources.
pub(super) struct Sources {
    known: Known,
    folder: PathBuf,
    /// Each plugin that is to be built, and the folders that it is built from; or was, or will be, where the workspace has
    /// no such package.
    plugins: BTreeMap<String, Vec<PathBuf>>,
    /// The manifests that say so, and when each was written.
    manifests: BTreeMap<PathBuf, Option<SystemTime>>,
    watcher: Watcher,
    screen: Screen,
}

impl Sources {
    pub(super) fn watch(folder: PathBuf, changed: mpsc::Sender<Change>, screen: Screen) -> anyhow::Result<Self> {
        let workspace = find(&folder).map_err(|error| match error.is_no_workspace() {
            true => anyhow::anyhow!("{error}; `bennu new NAME` makes a workspace, in a folder that is in none"),
            false => error.into(),
        })?;
        let heard = move |news: News| {
            if news.what == What::Changed {
                drop(changed.send(Change::Sources(news.name)));
            }
        };
        let watcher = Watcher::start(WatchTimes::default(), heard)?;
        watcher.file(WORKSPACE, &workspace.root().join("Cargo.toml"));
        Ok(Self {
            known: Known(Arc::new(Mutex::new(Arc::new(workspace)))),
            folder,
            plugins: BTreeMap::new(),
            manifests: BTreeMap::new(),
            watcher,
            screen,
        })
    }

    /// Takes up the plugins of a configuration, whose libraries are [taken over](Self::take_over). Returns those to be built.
    pub(super) fn follow(&mut self, config: &Config) -> Result<Vec<String>, CargoError> {
        let wanted = { config.plugins.iter() }.filter(|(_, plugin)| plugin.library.is_none());
        let wanted: BTreeSet<String> = wanted.map(|(name, _)| name.clone()).collect();
        if wanted.iter().any(|name| !self.known.now().has(name)) {
            // It may have been added since.
            self.known.set(find(&self.folder)?);
        }
        let before: BTreeSet<String> = self.plugins.keys().cloned().collect();
        for name in before.difference(&wanted) {
            self.watcher.forget(name);
            self.plugins.remove(name);
        }
        let workspace = self.known.now();
        let mut new: Vec<String> = wanted.difference(&before).cloned().collect();
        for name in &new {
            self.plugins.insert(name.clone(), Vec::new());
            if !workspace.has(name) {
                self.screen.say(&format!(
                    "{} no package of this workspace is called {name}: its folder, the name in its Cargo.toml and [plugins.{name}] are one word; `bennu new {name}` makes one",
                    styled(BAD, "✗")
                ));
            }
        }
        self.watch_folders();
        new.retain(|name| workspace.has(name));
        Ok(new)
    }

    /// Has the plugins of this workspace served from nowhere but our builds.
    pub(super) fn take_over(&self, config: &mut Config) {
        take_over(config, &self.known.now());
    }

    /// What the host asks about the configurations that it reads.
    pub(super) fn follower(&self, changed: mpsc::Sender<Change>) -> Box<dyn Follower> {
        let known = self.known.clone();
        Box::new(Builder { known, changed })
    }

    /// Watches the folders that each plugin is built from, where they are others than before. Those of a package that is gone
    /// are watched on, as it may come back.
    fn watch_folders(&mut self) {
        let workspace = self.known.now();
        let mut manifests = BTreeSet::from([workspace.root().join("Cargo.toml")]);
        for (name, watched) in &mut self.plugins {
            let folders = match workspace.source_folders(name) {
                Ok(folders) => folders,
                Err(_) if watched.is_empty() => vec![usual_folder(&workspace, name)],
                Err(_) => watched.clone(),
            };
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
    }

    /// Asks cargo again what is built from what, if a manifest has changed.
    fn keep_up(&mut self) {
        if self.manifests.iter().all(|(file, before)| written(file) == *before) {
            return;
        }
        // A manifest that cannot be read is told by the build.
        let Ok(workspace) = find(&self.folder) else { return };
        self.known.set(workspace);
        self.watch_folders();
    }

    /// Builds all plugins together; if that fails, one by one, so that the good ones serve.
    pub(super) fn first_build(&self) -> Vec<Built> {
        let workspace = self.known.now();
        let names = self.plugins.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|name| workspace.has(name)).collect();
        if names.is_empty() {
            return Vec::new();
        }
        self.screen.say(&format!("building {}", names.join(", ")));
        let (screen, mut has_failed) = (self.screen.clone(), false);
        let said = move |line: &str| {
            // What cargo says from then on is said below, with what the compiler says before that.
            has_failed |= strip_str(line).to_string().starts_with("error");
            if !has_failed {
                screen.say(line);
            }
        };
        if let Ok(built) = self.build_now(&names, said) {
            self.say_warnings(&built);
            return built
                .libraries
                .into_iter()
                .map(|(name, library)| (name, Ok(library)))
                .collect();
        }
        let mut built = Vec::new();
        for name in names {
            match self.build_now(&[name], |_| ()) {
                Ok(one) => {
                    self.say_warnings(&one);
                    built.extend(one.libraries.into_iter().map(|(name, library)| (name, Ok(library))));
                }
                Err(error) => {
                    self.say_not_built(name, &error, false);
                    built.push((name.to_owned(), Err(refusal(&error))));
                }
            }
        }
        built
    }

    fn say_warnings(&self, built: &cargo::Built) {
        if !built.warnings.is_empty() {
            self.screen.say(&built.warnings);
        }
    }

    /// Shows what the compiler says, and what holds.
    fn say_not_built(&self, name: &str, error: &CargoError, is_served: bool) {
        let (cross, plugin) = (styled(BAD, "✗"), styled(STRONG, name));
        let what = match error {
            CargoError::Failed(message) => {
                self.screen.say(message);
                format!("{cross} {plugin} does not compile")
            }
            other => format!("{cross} {plugin} cannot be built: {other}"),
        };
        let holds = match is_served {
            true => "the code in service goes on",
            false => "not in service until it is mended and saved",
        };
        self.screen.say(&format!("{what}; {holds}"));
    }

    fn build_now(&self, names: &[&str], said: impl FnMut(&str) + Send + 'static) -> Result<cargo::Built, CargoError> {
        // Without the last of its packages a workspace may be none, and what cargo says then is about all of it.
        let is_gone = |name: &&&str| { self.plugins.get(**name) }.is_some_and(|folders| is_gone(folders));
        if let Some(name) = names.iter().find(is_gone) {
            return Err(CargoError::NoPackage((*name).to_owned()));
        }
        self.known.now().build(names, said)?.wait()
    }

    /// Builds what changes, one build at a time, until nobody is left to say so.
    pub(super) fn build(
        mut self,
        changes: &mpsc::Receiver<Change>,
        service: &Service,
        routing: impl Fn() -> Arc<Routing>,
    ) {
        while let Ok(first) = changes.recv() {
            let (mut names, mut all) = (BTreeSet::new(), false);
            for change in std::iter::once(first).chain(changes.try_iter()) {
                match change {
                    Change::Sources(name) if name == WORKSPACE => all = true,
                    Change::Sources(name) => names.extend(self.plugins.contains_key(&name).then_some(name)),
                    Change::Configuration(config) => match self.follow(&config) {
                        Ok(new) => names.extend(new),
                        Err(error) => self.screen.say(&format!("the workspace cannot be read: {error}")),
                    },
                }
            }
            let known = |sources: &Self, name: &String| sources.known.now().has(name);
            let missed: Vec<String> = self
                .plugins
                .keys()
                .filter(|name| !known(&self, name))
                .cloned()
                .collect();
            self.keep_up();
            let is_due = |name: &&String| known(&self, name) && (all || missed.contains(name));
            names.extend(self.plugins.keys().filter(is_due).cloned());
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
            Ok(built) => {
                self.say_warnings(&built);
                tracing::info!(plugin = name, build_ms = start.elapsed().as_millis(), "built");
                for (name, path) in built.libraries {
                    service.send(Command::Library {
                        name,
                        path,
                        built: true,
                    });
                }
            }
            Err(error) => {
                self.say_not_built(name, &error, is_served());
                service.send(Command::NotBuilt(name.to_owned(), refusal(&error)));
            }
        }
    }
}

/// Why there is no library, for those who ask later: the page, the admin listener.
fn refusal(error: &CargoError) -> Refusal {
    let code = match error {
        CargoError::Failed(_) => "compile",
        CargoError::NoPackage(_) => "no_package",
        _ => "cargo",
    };
    Refusal::new(Step::Build, code, strip_str(&error.to_string()).to_string())
}

/// The workspace, whose builds are in colour where they are shown.
fn find(folder: &Path) -> Result<Workspace, CargoError> {
    let out = std::io::stdout();
    Ok(Workspace::find(folder)?.with_colours(out.is_terminal() && has_colours(&out)))
}

/// Whether the package that is built from these folders is no longer there. Its own is the first.
fn is_gone(folders: &[PathBuf]) -> bool {
    { folders.first() }.is_some_and(|own| !own.join("Cargo.toml").exists())
}

fn written(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).ok()?.modified().ok()
}
