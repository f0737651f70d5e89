//! Builds the plugins, and notices when their sources change.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime};

use anstream::adapter::strip_str;

use super::building::{Building, Due, WAITS, waiting};
use super::known::{Builder, Known, take_over, usual_folder};
use super::rewritten::Rewritten;
use super::screen::Screen;
use crate::cargo::{CargoError, Outcome, Processes, Stage, Workspace};
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

/// The plugins that `dev` builds, and the watcher of their sources.
pub(super) struct Sources {
    known: Known,
    folder: PathBuf,
    /// What each plugin is built from. If the workspace has no such package: what it was built from, or where it would be.
    plugins: BTreeMap<String, SourceSet>,
    /// The manifests and settings that say which packages there are, and when each was written.
    manifests: BTreeMap<PathBuf, Option<SystemTime>>,
    /// Files that the compiler looked for in vain in the last build, or that a build script has named that failed.
    missing: BTreeSet<PathBuf>,
    /// By plugin.
    rewritten: BTreeMap<String, Rewritten>,
    /// The plugins that were not built last.
    failed: BTreeSet<String>,
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
            known: Known::new(workspace),
            folder,
            plugins: BTreeMap::new(),
            manifests: BTreeMap::new(),
            missing: BTreeSet::new(),
            rewritten: BTreeMap::new(),
            failed: BTreeSet::new(),
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
            self.rewritten.remove(name);
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
        let mut manifests = workspace.settings();
        // Cargo itself writes it.
        manifests.retain(|file| !file.ends_with("Cargo.lock"));
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
                // Or a package elsewhere gets this name.
                Err(_) if watched.folders.is_empty() => SourceSet {
                    folders: vec![usual_folder(&workspace, name)],
                    files: workspace.manifests().collect(),
                    ..SourceSet::default()
                },
                Err(_) => watched.clone(),
            };
            manifests.extend(set.folders.iter().map(|folder| folder.join("Cargo.toml")));
            manifests.extend(set.files.iter().filter(|file| file.ends_with("Cargo.toml")).cloned());
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

    /// Asks cargo to describe the workspace again, if a manifest or a setting has changed.
    fn keep_up(&mut self) -> Result<(), CargoError> {
        if self.manifests.iter().all(|(file, before)| written(file) == *before) {
            return Ok(());
        }
        let since = SystemTime::now();
        let workspace = find(&self.folder, &self.processes, &self.screen)?;
        if workspace.target() != self.known.now().target() {
            self.stage = Arc::new(workspace.stage()?);
        }
        self.known.set(workspace);
        self.watch_sources(since, &[]);
        Ok(())
    }

    /// The plugins that are packages of the workspace.
    fn packages(&self) -> BTreeSet<String> {
        self.buildable().into_iter().collect()
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
        let (mut built, mut shown) = (Vec::new(), BTreeSet::new());
        for (name, library) in plugins {
            let library = library.map_err(|error| {
                self.say_not_built(&name, &error, false, !shown.insert(error.to_string()));
                rejection(&error)
            });
            built.push((name, library.map(|library| library.path)));
        }
        let failed = built.iter().filter(|(_, library)| library.is_err());
        self.failed = failed.map(|(name, _)| name.clone()).collect();
        built
    }

    /// What is served if cargo could not even start on the plugins.
    fn none_built(&self, names: &[String], error: &CargoError) -> Vec<Built> {
        let not_built = |name: &String| {
            self.say_not_built(name, error, false, false);
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

    /// Shows what the compiler says, unless that is repeated, and what is in service now.
    fn say_not_built(&self, name: &str, error: &CargoError, is_served: bool, is_repeated: bool) {
        let (cross, plugin) = (styled(BAD, "✗"), styled(STRONG, name));
        let what = match error {
            CargoError::Stopped => return,
            CargoError::Failed(message) => {
                if !is_repeated {
                    self.screen.say(message);
                }
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
        let ended = SystemTime::now();
        self.missing.clone_from(&outcome.missing);
        self.watch_sources(since, &names);
        for name in names {
            self.find_rewritten(name, (since, ended));
        }
        Ok(outcome)
    }

    /// Finds out what a build of this plugin writes to its own sources.
    fn find_rewritten(&mut self, name: &str, (began, ended): (SystemTime, SystemTime)) {
        let Some(set) = self.plugins.get(name) else {
            return;
        };
        let written = set.written_after(began);
        let known = self.rewritten.entry(name.to_owned()).or_default();
        for file in known.built((began, ended), &written) {
            self.screen.say(&format!(
                "{} {}: each build writes {}, which therefore starts no other build unless it changes between builds",
                styled(ODD, "!"),
                styled(STRONG, name),
                file.display()
            ));
        }
    }

    /// Whether sources of a plugin have changed, other than by its last build.
    fn has_changed(&self, name: &str) -> bool {
        let (set, rewritten) = (self.plugins.get(name), self.rewritten.get(name));
        set.is_some_and(|set| !rewritten.is_some_and(|known| known.is_own_doing(|since| set.written_after(since))))
    }

    /// Has cargo see that sources have changed, though no file is newer than the last build.
    fn show_to_cargo(&self, name: &str) {
        if let (Some(set), Some(known)) = (self.plugins.get(name), self.rewritten.get(name))
            && known.is_all_older(|since| set.written_after(since))
        {
            self.known.now().age(name);
        }
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
                    Change::Sources(name) => due.changed.extend(self.has_changed(&name).then_some(name)),
                    Change::Configuration(config) => match self.follow(&config) {
                        Ok(new) => due.changed.extend(new),
                        Err(error) => self.screen.say(&format!("cannot read the workspace: {error}")),
                    },
                }
            }
            let before = self.packages();
            let kept_up = self.keep_up();
            due.changed
                .extend(before.symmetric_difference(&self.packages()).cloned());
            let is_served = |name: &str| {
                let routing = routing();
                routing
                    .routes
                    .plugins
                    .get(name)
                    .is_some_and(|slot| slot.current().is_some())
            };
            self.rebuild(due, kept_up.err(), service, is_served);
        }
    }

    /// Builds what is due and hands it to the server, or shows why it does not compile. The code in service stays until then.
    /// `unreadable`: why cargo cannot describe the workspace.
    fn rebuild(
        &mut self,
        mut due: Due,
        unreadable: Option<CargoError>,
        service: &Service,
        is_served: impl Fn(&str) -> bool,
    ) {
        let start = Instant::now();
        // What cargo says of all plugins is shown once.
        let mut shown = BTreeSet::new();
        let mut not_built = |sources: &mut Self, name: &str, error: &CargoError| {
            sources.failed.insert(name.to_owned());
            sources.say_not_built(name, error, is_served(name), !shown.insert(error.to_string()));
            service.send(Command::NotBuilt(name.to_owned(), rejection(error)));
        };
        let packages = self.packages();
        for name in &due.changed {
            // If a package is gone, the workspace may be none without it, and what cargo says then is about all of it.
            if self.plugins.get(name).is_some_and(is_gone) {
                not_built(self, name, &CargoError::NoPackage(name.clone()));
            } else if !packages.contains(name) {
                // It has another name, for example, or a manifest that cargo cannot read.
                let no_package = CargoError::NoPackage(name.clone());
                not_built(self, name, unreadable.as_ref().unwrap_or(&no_package));
            }
        }
        let mut names = self.buildable();
        names.retain(|name| !self.plugins.get(name).is_some_and(is_gone));
        due.changed.retain(|name| names.contains(name));
        if names.is_empty() || (due.changed.is_empty() && !due.all) {
            return;
        }
        for name in &due.changed {
            self.show_to_cargo(name);
        }
        let told = Building::start(self.screen.clone(), service.clone(), &due, &names);
        let outcome = self.build_now(&names, told.listener());
        self.screen.status("");
        let told = |name: &String| due.changed.contains(name) || told.is_told(name);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                names.retain(|name| told(name) || due.all);
                return names.iter().for_each(|name| not_built(self, name, &error));
            }
        };
        let is_due = |name: &String| match outcome.plugins.get(name) {
            Some(Ok(library)) => told(name) || library.is_new || self.failed.contains(name),
            // What is said of all may keep cargo from compiling anything. That a package is gone is a change of its own.
            _ => told(name) || (due.all && !self.plugins.get(name).is_some_and(is_gone)),
        };
        names.retain(is_due);
        self.say_warnings(&outcome, &names);
        for name in names {
            match outcome.plugins.get(&name) {
                Some(Ok(library)) => {
                    self.failed.remove(&name);
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
