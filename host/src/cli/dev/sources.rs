//! Builds the plugins, and notices when their sources change.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Instant, SystemTime};

use anstream::adapter::strip_str;

use super::building::{Building, Due, WAITS, waiting};
use super::screen::Screen;
use crate::cargo::{CargoError, Library, Outcome, Processes, Stage, Workspace};
use crate::cli::terminal::{BAD, ODD, STRONG, has_colours, styled};
use crate::config::{Config, nearest};
use crate::runtime::plugin::step::{Rejection, Step};
use crate::server::Built;
use crate::server::control::watch::{News, SourceSet, WatchTimes, Watcher, What};
use crate::server::control::{Command, Follower, Service};
use crate::server::routing::Routing;

/// The watcher's name for what decides over all plugins. No plugin can have this name.
const WORKSPACE: &str = "/workspace";
/// What starts a build.
pub(super) enum Change {
    /// A source of this plugin has changed, or one of [`WORKSPACE`].
    Sources(String),
    /// The configuration has changed. It may name other plugins.
    Configuration(Box<Config>),
}

/// The workspace as cargo described it last. The thread that builds replaces it, others only read it.
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

/// Passes configurations that the server reads on to the thread that builds.
struct Builder {
    known: Known,
    changed: mpsc::Sender<Change>,
}

impl Follower for Builder {
    fn adapt(&self, config: &mut Config) {
        take_over(config, &self.known.now());
    }

    fn configured(&self, config: &Config) {
        // The thread that builds ends with the process.
        let _ = self.changed.send(Change::Configuration(Box::new(config.clone())));
    }
}

/// Removes the libraries that the configuration names for plugins of the workspace, because `dev` serves its own builds only, and
/// those that do not exist: only `serve` rejects a configuration over a missing file.
fn take_over(config: &mut Config, workspace: &Workspace) {
    for (name, plugin) in &mut config.plugins {
        // A plugin that was made since cargo described the workspace has a folder already.
        let is_ours = workspace.has(name) || usual_folder(workspace, name).join("Cargo.toml").exists();
        plugin.library = plugin.library.take().filter(|library| !is_ours && library.exists());
    }
}

/// Where `bennu new` puts a plugin.
fn usual_folder(workspace: &Workspace, plugin: &str) -> PathBuf {
    workspace.root().join("plugins").join(plugin)
}

/// The plugins that `dev` builds, and the watcher of their sources.
pub(super) struct Sources {
    known: Known,
    folder: PathBuf,
    /// What each plugin is built from. If the workspace has no such package: what it was built from, or where it would be.
    plugins: BTreeMap<String, SourceSet>,
    /// The manifests that say which packages there are, and when each was written.
    manifests: BTreeMap<PathBuf, Option<SystemTime>>,
    /// Files that the compiler looked for in vain in the last build.
    missing: BTreeSet<PathBuf>,
    watcher: Watcher,
    stage: Arc<Stage>,
    processes: Processes,
    screen: Screen,
}

impl Sources {
    /// Reads the workspace that `folder` lies in, and starts to watch its settings.
    ///
    /// # Errors
    ///
    /// If there is no workspace, or it cannot be built into.
    pub(super) fn watch(
        folder: PathBuf,
        changed: mpsc::Sender<Change>,
        processes: Processes,
        screen: Screen,
    ) -> anyhow::Result<Self> {
        let workspace = find(&folder, &processes, &screen).map_err(|error| match error.is_no_workspace() {
            true => anyhow::anyhow!("{error}; `bennu new NAME` makes a workspace, in a folder that is in none"),
            false => error.into(),
        })?;
        let stage = workspace.stage()?;
        if let Some(process) = stage.other() {
            screen.say(&format!(
                "{} another `bennu dev` (process {process}) builds this workspace: each save is built by both, one after the other",
                styled(ODD, "!")
            ));
        }
        let heard = move |news: News| {
            if news.what == What::Changed {
                drop(changed.send(Change::Sources(news.name)));
            }
        };
        let watcher = Watcher::start(WatchTimes::default(), heard)?;
        let settings = SourceSet {
            files: workspace.settings(),
            ..SourceSet::default()
        };
        watcher.sources(WORKSPACE, settings, Some(SystemTime::now()));
        Ok(Self {
            known: Known(Arc::new(Mutex::new(Arc::new(workspace)))),
            folder,
            plugins: BTreeMap::new(),
            manifests: BTreeMap::new(),
            missing: BTreeSet::new(),
            watcher,
            stage: Arc::new(stage),
            processes,
            screen,
        })
    }

    /// Starts to build the plugins of a configuration that was [taken over](Self::take_over), and stops to build others. Returns those
    /// that are new and can be built.
    pub(super) fn follow(&mut self, config: &Config) -> Result<Vec<String>, CargoError> {
        let wanted = { config.plugins.iter() }.filter(|(_, plugin)| plugin.library.is_none());
        let wanted: BTreeSet<String> = wanted.map(|(name, _)| name.clone()).collect();
        if wanted.iter().any(|name| !self.known.now().has(name)) {
            // It may have been added since cargo described the workspace.
            self.known.set(find(&self.folder, &self.processes, &self.screen)?);
        }
        let before: BTreeSet<String> = self.plugins.keys().cloned().collect();
        for name in before.difference(&wanted) {
            self.watcher.forget(name);
            self.plugins.remove(name);
        }
        let workspace = self.known.now();
        let mut new: Vec<String> = wanted.difference(&before).cloned().collect();
        for name in &new {
            self.plugins.insert(name.clone(), SourceSet::default());
            if !workspace.has(name) {
                self.say_no_package(name, &workspace);
            }
        }
        self.watch_sources(SystemTime::now(), &[]);
        new.retain(|name| workspace.has(name));
        Ok(new)
    }

    fn say_no_package(&self, name: &str, workspace: &Workspace) {
        let near = nearest(name, &workspace.plugins()).map(|near| format!(" Did you mean [plugins.{near}]?"));
        self.screen.say(&format!(
            "{} no package of this workspace is called {name}.{} The folder, the name in its Cargo.toml and [plugins.{name}] must be \
             the same word; `bennu new {name}` makes such a package.",
            styled(BAD, "✗"),
            near.unwrap_or_default()
        ));
    }

    /// Has the server load plugins of this workspace from our builds only.
    pub(super) fn take_over(&self, config: &mut Config) {
        take_over(config, &self.known.now());
    }

    /// What the server calls with the configurations that it reads.
    pub(super) fn follower(&self, changed: mpsc::Sender<Change>) -> Box<dyn Follower> {
        let known = self.known.clone();
        Box::new(Builder { known, changed })
    }

    /// Watches what each plugin is built from, where that has changed, and what these plugins were built from in any case: the build
    /// may have seen what the watcher has not. `since`: when it was last as it was built. What a package that is gone was built from
    /// is watched on, because it may come back.
    fn watch_sources(&mut self, since: SystemTime, built: &[&str]) {
        let workspace = self.known.now();
        let mut manifests = BTreeSet::from([workspace.root().join("Cargo.toml")]);
        for (name, watched) in &mut self.plugins {
            let set = match workspace.source_folders(name) {
                Ok(folders) => {
                    let mut files = workspace.inputs(name);
                    files.extend(self.missing.iter().map(|file| workspace.root().join(file)));
                    SourceSet {
                        folders,
                        files,
                        outputs: vec![workspace.target().to_owned()],
                    }
                }
                Err(_) if watched.folders.is_empty() => SourceSet {
                    folders: vec![usual_folder(&workspace, name)],
                    ..SourceSet::default()
                },
                Err(_) => watched.clone(),
            };
            manifests.extend(set.folders.iter().map(|folder| folder.join("Cargo.toml")));
            if *watched != set || built.contains(&name.as_str()) {
                // A package that cargo has just described may be gone again.
                let since = (!workspace.has(name) || !is_gone(&set)).then_some(since);
                self.watcher.sources(name, set.clone(), since);
                *watched = set;
            }
        }
        self.manifests = manifests
            .into_iter()
            .map(|file| (file.clone(), written(&file)))
            .collect();
    }

    /// Asks cargo to describe the workspace again, if a manifest has changed.
    fn keep_up(&mut self) {
        if self.manifests.iter().all(|(file, before)| written(file) == *before) {
            return;
        }
        let since = SystemTime::now();
        // If a manifest cannot be read, the build says so.
        let Ok(workspace) = find(&self.folder, &self.processes, &self.screen) else {
            return;
        };
        self.known.set(workspace);
        self.watch_sources(since, &[]);
    }

    /// Builds all plugins for the first time.
    pub(super) fn first_build(&mut self) -> Vec<Built> {
        let names = self.buildable();
        if names.is_empty() {
            return Vec::new();
        }
        self.screen.say(&format!("building {}", names.join(", ")));
        let (screen, mut has_failed) = (self.screen.clone(), false);
        let said = move |line: &str| {
            let plain = strip_str(line).to_string();
            // What cargo says after an error is part of the report below.
            has_failed |= plain.starts_with("error");
            if plain.contains(WAITS) {
                screen.say(&waiting(&plain));
            } else if !has_failed {
                screen.say(line);
            }
        };
        let plugins = match self.build_now(&names, said) {
            Ok(outcome) => {
                self.say_warnings(&outcome, &names);
                outcome.plugins
            }
            Err(error) => return self.none_built(&names, &error),
        };
        let mut built = Vec::new();
        for (name, library) in plugins {
            let library = library.map_err(|error| {
                self.say_not_built(&name, &error, false);
                rejection(&error)
            });
            built.push((name, library.map(|library| library.path)));
        }
        built
    }

    /// What is served if cargo could not even start on the plugins.
    fn none_built(&self, names: &[String], error: &CargoError) -> Vec<Built> {
        let not_built = |name: &String| {
            self.say_not_built(name, error, false);
            (name.clone(), Err(rejection(error)))
        };
        names.iter().map(not_built).collect()
    }

    /// The plugins that are packages of the workspace.
    fn buildable(&self) -> Vec<String> {
        let workspace = self.known.now();
        self.plugins
            .keys()
            .filter(|name| workspace.has(name))
            .cloned()
            .collect()
    }

    fn say_warnings(&self, outcome: &Outcome, names: &[String]) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let warnings = outcome.warnings(&names);
        if !warnings.is_empty() {
            self.screen.say(&warnings);
        }
    }

    /// Shows what the compiler says, and what is in service now.
    fn say_not_built(&self, name: &str, error: &CargoError, is_served: bool) {
        let (cross, plugin) = (styled(BAD, "✗"), styled(STRONG, name));
        let what = match error {
            CargoError::Stopped => return,
            CargoError::Failed(message) => {
                self.screen.say(message);
                format!("{cross} {plugin} does not compile")
            }
            other => format!("{cross} {plugin} cannot be built: {other}"),
        };
        let then = match is_served {
            true => "the previous code stays in service",
            false => "not in service until you fix and save it",
        };
        self.screen.say(&format!("{what}; {then}"));
    }

    /// Builds plugins, and then watches what they were built from.
    fn build_now(&mut self, names: &[String], said: impl FnMut(&str) + Send + 'static) -> Result<Outcome, CargoError> {
        let since = SystemTime::now();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let build = self.known.now().build(&names, &self.stage, &self.processes, said)?;
        let outcome = build.wait()?;
        self.missing.clone_from(&outcome.missing);
        self.watch_sources(since, &names);
        Ok(outcome)
    }

    /// Builds when something changes, one build at a time, until nobody is left to say so.
    pub(super) fn build(
        mut self,
        changes: &mpsc::Receiver<Change>,
        service: &Service,
        routing: impl Fn() -> Arc<Routing>,
    ) {
        while let Ok(first) = changes.recv() {
            let mut due = Due {
                changed: BTreeSet::new(),
                all: false,
            };
            for change in std::iter::once(first).chain(changes.try_iter()) {
                match change {
                    Change::Sources(name) if name == WORKSPACE => due.all = true,
                    Change::Sources(name) => due.changed.extend(self.plugins.contains_key(&name).then_some(name)),
                    Change::Configuration(config) => match self.follow(&config) {
                        Ok(new) => due.changed.extend(new),
                        Err(error) => self.screen.say(&format!("cannot read the workspace: {error}")),
                    },
                }
            }
            let missed: BTreeSet<String> = { self.plugins.keys() }
                .filter(|name| !self.known.now().has(name))
                .cloned()
                .collect();
            self.keep_up();
            due.changed
                .extend(missed.into_iter().filter(|name| self.known.now().has(name)));
            let is_served = |name: &str| {
                let routing = routing();
                routing
                    .routes
                    .plugins
                    .get(name)
                    .is_some_and(|slot| slot.current().is_some())
            };
            self.rebuild(due, service, is_served);
        }
    }

    /// Builds what is due and hands it to the server, or shows why it does not compile. The code in service stays until then.
    fn rebuild(&mut self, mut due: Due, service: &Service, is_served: impl Fn(&str) -> bool) {
        let start = Instant::now();
        let not_built = |sources: &Self, name: &str, error: &CargoError| {
            sources.say_not_built(name, error, is_served(name));
            service.send(Command::NotBuilt(name.to_owned(), rejection(error)));
        };
        // If a package is gone, the workspace may be none without it, and what cargo says then is about all of it.
        for name in { &due.changed }
            .iter()
            .filter(|name| self.plugins.get(*name).is_some_and(is_gone))
        {
            not_built(self, name, &CargoError::NoPackage(name.clone()));
        }
        let mut names = self.buildable();
        names.retain(|name| !self.plugins.get(name).is_some_and(is_gone));
        due.changed.retain(|name| names.contains(name));
        if names.is_empty() || (due.changed.is_empty() && !due.all) {
            return;
        }
        let told = Building::start(self.screen.clone(), service.clone(), &due, &names);
        let outcome = self.build_now(&names, told.listener());
        self.screen.status("");
        let told = |name: &String| due.changed.contains(name) || told.is_told(name);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                return names
                    .iter()
                    .filter(|name| told(name))
                    .for_each(|name| not_built(self, name, &error));
            }
        };
        let is_due =
            |name: &String| told(name) || matches!(outcome.plugins.get(name), Some(Ok(Library { is_new: true, .. })));
        names.retain(is_due);
        self.say_warnings(&outcome, &names);
        for name in names {
            match outcome.plugins.get(&name) {
                Some(Ok(library)) => {
                    tracing::info!(plugin = name, build_ms = start.elapsed().as_millis(), "built");
                    service.send(Command::Library {
                        path: library.path.clone(),
                        built: true,
                        name,
                    });
                }
                Some(Err(error)) => not_built(self, &name, error),
                None => {}
            }
        }
    }
}

/// Why there is no library, as the page and the admin listener show it.
fn rejection(error: &CargoError) -> Rejection {
    let code = match error {
        CargoError::Failed(_) => "compile",
        CargoError::NoPackage(_) => "no_package",
        _ => "cargo",
    };
    Rejection::new(Step::Build, code, strip_str(&error.to_string()).to_string())
}

/// Has cargo describe the workspace. That may take a while: cargo downloads what the workspace needs.
fn find(folder: &Path, processes: &Processes, screen: &Screen) -> Result<Workspace, CargoError> {
    let out = std::io::stdout();
    let shown = screen.clone();
    let said = move |line: &str| {
        let line = strip_str(line).to_string();
        if line.contains(WAITS) {
            shown.say(&waiting(&line));
        } else if !line.starts_with("error") {
            shown.status(line.trim());
        }
    };
    let found = Workspace::find(folder, processes, said);
    screen.status("");
    Ok(found?.with_colours(out.is_terminal() && has_colours(&out)))
}

/// Whether the package that is built from these sources is gone. Its own folder is the first.
fn is_gone(set: &SourceSet) -> bool {
    { set.folders.first() }.is_some_and(|own| !own.join("Cargo.toml").exists())
}

fn written(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).ok()?.modified().ok()
}
