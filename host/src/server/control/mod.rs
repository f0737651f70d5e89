//! The thread that keeps plugins and routes as the files say: hears of changes, carries them out, tells how it went.

mod restart;
mod retries;
pub(crate) mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use self::restart::needs_restart;
use self::retries::Retries;
use self::watch::{News, WatchTimes, Watcher, What};
use super::endpoint::{DevEvent, Endpoint};
use super::routing::Routing;
use crate::config::{Config, ContentHash, Mode};
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::manager::{Loaded, Occasion, Plugins, Prepared};
use crate::runtime::plugin::pipeline::Refusal;
use crate::runtime::plugin::probation::{Verdict, announce_rollback};

/// How often a generation that ends is looked at.
const RETIRE_TICK: Duration = Duration::from_millis(20);
/// How long nothing may happen before everything is looked at all the same.
const IDLE: Duration = Duration::from_secs(3600);
/// How often it is looked whether topics are gone over whose state a library was refused.
const STATE_TICK: Duration = Duration::from_secs(1);
/// How long I/O threads have to take up new routes before plugins that they lead to no longer end.
const REROUTE_PATIENCE: Duration = Duration::from_secs(2);
/// The watcher's name for the configuration; no plugin can be called so.
const CONFIG: &str = "/config";

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Command {
    /// A library has changed, or has been built.
    Library {
        /// The plugin.
        name: String,
        /// Where.
        path: PathBuf,
        /// `dev` built it: from now on it goes before what the configuration names.
        built: bool,
    },
    /// `dev` could not build a plugin, for this reason.
    NotBuilt(String, Refusal),
    /// A file that is watched has been away for a while, for this reason; without one: it is back.
    Away(String, PathBuf, Option<String>),
    /// An operator wants a plugin's library to be loaded as it is now.
    Again(String),
    /// These contents of a plugin are no longer in quarantine.
    Lifted(String, ContentHash),
    /// The configuration may have changed.
    Config,
    /// Something of a plugin has panicked or failed: its journal says what.
    Faults,
    /// Something for the page of `dev`.
    News(DevEvent),
    /// End all plugins, at the latest then.
    Stop(Instant),
}

impl Command {
    /// What follows from what the watcher says.
    fn of(News { name, path, what }: News) -> Self {
        match what {
            What::Changed if name == CONFIG => Self::Config,
            What::Changed => Self::Library {
                name,
                path,
                built: false,
            },
            What::Gone(why) => Self::Away(name, path, Some(why)),
            What::Back => Self::Away(name, path, None),
        }
    }
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(crate) struct Service(mpsc::Sender<Command>);

impl Service {
    /// Starts the thread. It reads the configuration anew when `reread` says so, in the way in which it was read first.
    ///
    /// # Errors
    ///
    /// If the system gives no thread, or nothing can be watched.
    pub(crate) fn start(
        plugins: Plugins,
        endpoint: Arc<Endpoint>,
        mode: Mode,
        follower: Option<Box<dyn Follower>>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, commands) = mpsc::channel();
        let heard = sender.clone();
        let faults = sender.clone();
        plugins.fault_signal().wakes(move || drop(faults.send(Command::Faults)));
        let watcher = Watcher::start(WatchTimes::default(), move |news| drop(heard.send(Command::of(news))))?;
        let config = Arc::clone(&endpoint.state.routing().config);
        let mut running = Running {
            follower,
            started: Arc::clone(&config),
            plugins,
            endpoint,
            mode,
            watcher,
            retries: Retries::default(),
            over_state: BTreeSet::new(),
        };
        running.watch(&config);
        running.retry_what_was_refused();
        let thread = std::thread::Builder::new()
            .name("plugins".into())
            .spawn(move || running.run(&commands))?;
        Ok((Self(sender), thread))
    }

    /// Asks for something. Done in the order in which it was asked.
    pub(crate) fn send(&self, command: Command) {
        // The thread ends only by `Stop`; whoever comes later has nothing to ask for.
        let _ = self.0.send(command);
    }
}

/// Who else is concerned with the configurations that are read while the host runs: `dev`, which builds the plugins itself.
/// Called on the thread of the service, which waits for it.
pub(crate) trait Follower: Send {
    /// Changes what was read, before anything is done about it.
    fn adapt(&self, config: &mut Config);

    /// This holds from now on.
    fn configured(&self, config: &Config);
}

struct Running {
    follower: Option<Box<dyn Follower>>,
    /// The configuration that the host was started with.
    started: Arc<Config>,
    plugins: Plugins,
    endpoint: Arc<Endpoint>,
    mode: Mode,
    watcher: Watcher,
    retries: Retries,
    /// Plugins whose library was refused over the state of live topics.
    over_state: BTreeSet<String>,
}

impl Running {
    fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            match commands.recv_timeout(self.patience()) {
                Ok(Command::Library { name, path, built }) => self.library(&name, path, built),
                Ok(Command::NotBuilt(name, refusal)) => self.not_built(&name, refusal),
                Ok(Command::Away(name, path, why)) => self.away(&name, &path, why.as_deref()),
                Ok(Command::Again(name)) => self.again(&name),
                Ok(Command::Lifted(name, hash)) => self.lifted(&name, hash),
                Ok(Command::Config) => self.config(),
                Ok(Command::News(event)) => self.news(event),
                Ok(Command::Faults) => self.news(("faults", "{}".to_owned())),
                Ok(Command::Stop(deadline)) => return self.plugins.stop(deadline),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            while let Some(name) = self.retries.due() {
                match &*name {
                    CONFIG => self.config(),
                    name => self.again(name),
                }
            }
            self.retry_where_state_is_gone();
            for verdict in self.plugins.look_after() {
                self.tell(verdict);
            }
            self.plugins.carry_late();
            self.plugins.retire();
        }
    }

    /// How long nothing has to be looked at by itself.
    fn patience(&self) -> Duration {
        let idle = if self.over_state.is_empty() { IDLE } else { STATE_TICK };
        let next = self.plugins.next_proven().into_iter().chain(self.retries.next()).min();
        let next = next.map_or(idle, |until| until.saturating_duration_since(Instant::now()).min(idle));
        // A moment later, so that it is over by then.
        let next = next.saturating_add(Duration::from_millis(1));
        if self.plugins.is_retiring() {
            RETIRE_TICK.min(next)
        } else {
            next
        }
    }

    /// What the start has left undone for want of something that may be there soon.
    fn retry_what_was_refused(&mut self) {
        for (name, slot) in self.plugins.slots() {
            if slot.journal.read().refusal.is_some_and(|refusal| refusal.may_pass()) {
                self.retries.later(name);
            }
        }
    }

    /// What was refused over the state of topics is tried once more where the plugin has none left.
    fn retry_where_state_is_gone(&mut self) {
        let slots = self.plugins.slots();
        let has_topics = |name: &String| slots.get(name).is_some_and(|slot| slot.topic_count() > 0);
        let (waiting, gone) = std::mem::take(&mut self.over_state).into_iter().partition(has_topics);
        self.over_state = waiting;
        let gone: BTreeSet<String> = gone;
        for name in gone {
            let refusal = { self.plugins.slots().get(&name) }.and_then(|slot| slot.journal.read().refusal);
            // It may have been taken meanwhile, or does not compile any more.
            if refusal.is_some_and(|refusal| refusal.over_state) {
                self.again(&name);
            }
        }
    }

    /// A file is gone, and stays so, or is back: what goes on meanwhile.
    fn away(&self, name: &str, path: &Path, why: Option<&str>) {
        let file = path.display();
        if name == CONFIG {
            match why {
                Some(why) => tracing::warn!(%file, "the configuration is gone: {why}; the one before stays"),
                None => tracing::info!(%file, "the configuration is back"),
            }
            return;
        }
        let Some(why) = why else {
            tracing::info!(plugin = name, %file, "the file is back");
            return;
        };
        let current = self.plugins.slots().get(name).and_then(|slot| slot.current());
        let goes_on = current.map_or_else(
            || "nothing of the plugin is in service".to_owned(),
            |current| format!("generation {} serves on", current.number),
        );
        tracing::warn!(plugin = name, %file, "the file is gone: {why}; {goes_on}");
    }

    fn tell(&self, verdict: Verdict) {
        match verdict {
            Verdict::RolledBack(slot, rollback) => {
                announce_rollback(&slot, &rollback);
                let event = json!({
                    "plugin": slot.name, "step": "probation", "reason": format!("rolled back after {}", rollback.why),
                });
                self.news(("refused", event.to_string()));
                slot.stats.rollbacks.inc();
                slot.journal.rolled_back(rollback);
            }
            Verdict::Loaded(loaded) => self.loaded(&loaded),
            Verdict::OutOfService(slot, why) => {
                tracing::error!(
                    plugin = slot.name,
                    "out of service until its library changes, after {why}"
                );
            }
            Verdict::Failed(slot, what) => {
                tracing::error!(plugin = slot.name, "the code in service goes on: {what}");
            }
        }
    }

    fn watch(&self, config: &Config) {
        self.watcher.file(CONFIG, &config.file);
        // In `dev` a library is taken only from our own build, which says when it is done.
        if self.mode == Mode::Serve {
            for (name, plugin) in &config.plugins {
                if let Some(library) = &plugin.library {
                    self.watcher.file(name, library);
                    self.took(name);
                }
            }
        }
    }

    /// Has the watcher compare with what was really read: a file may change before and after that.
    fn took(&self, name: &str) {
        if let Some(contents) = self.plugins.taken(name) {
            self.watcher.took(name, contents);
        }
    }

    /// What was refused before is looked at once more, if it still lies there.
    fn lifted(&mut self, name: &str, hash: ContentHash) {
        let in_service = self.plugins.slots().get(name).and_then(|slot| slot.current());
        let in_service = in_service.is_some_and(|current| current.hash == hash);
        if self.plugins.taken(name) == Some(hash) && !in_service {
            self.again(name);
        }
    }

    fn again(&mut self, name: &str) {
        let slot = self.plugins.slots().get(name).cloned();
        let Some((slot, path)) =
            slot.and_then(|slot| Some((Arc::clone(&slot), self.plugins.library(name, &slot.config())?)))
        else {
            return;
        };
        self.take_up(&slot, &path, Occasion::Asked);
    }

    fn library(&mut self, name: &str, path: PathBuf, built: bool) {
        let Some(slot) = self.plugins.slots().get(name).cloned() else {
            return;
        };
        if built {
            self.plugins.set_built(name, path.clone());
        }
        // A file that is gone changes nothing: it may be about to come back.
        if !path.exists() {
            return;
        }
        self.take_up(&slot, &path, Occasion::Changed);
    }

    fn not_built(&mut self, name: &str, refusal: Refusal) {
        let event = json!({ "plugin": name, "code": refusal.code, "reason": refusal.message });
        self.plugins.not_built(name, refusal);
        self.news(("build_failed", event.to_string()));
    }

    fn take_up(&mut self, slot: &Arc<PluginSlot>, path: &Path, occasion: Occasion) {
        slot.journal.passed(&slot.name, "notice");
        let prepared = self.plugins.prepare(slot, path, &slot.config(), occasion);
        self.took(&slot.name);
        if !matches!(&prepared, Err(refusal) if refusal.may_pass()) {
            self.retries.forget(&slot.name);
        }
        match prepared {
            Ok(Some(prepared)) => self.put_in_service(prepared),
            Ok(None) => self.unchanged(slot),
            Err(refusal) => self.refused(slot, &refusal),
        }
    }

    /// What was built is in service already, or was refused before.
    fn unchanged(&self, slot: &PluginSlot) {
        let in_service = slot.current().map(|current| current.hash) == self.plugins.taken(&slot.name);
        tracing::info!(plugin = slot.name, in_service, "library unchanged");
        let event = json!({ "plugin": slot.name, "in_service": in_service });
        self.news(("unchanged", event.to_string()));
    }

    fn put_in_service(&mut self, prepared: Prepared) {
        if let Some(loaded) = self.plugins.put_in_service(prepared) {
            self.loaded(&loaded);
        }
    }

    fn config(&mut self) {
        let old = self.endpoint.state.routing();
        let mut config = match Config::read(&old.config.file, self.mode) {
            Ok(config) => config,
            Err(errors) => {
                let shown = errors.render(false);
                tracing::error!("the configuration is refused, the one before stays\n{shown}");
                return self.configuration_refused(shown);
            }
        };
        // What was given on the command line goes on to hold.
        config.listen_instead = old.config.listen_instead;
        if let Some(follower) = &self.follower {
            follower.adapt(&mut config);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for place in needs_restart(&config, &old.config, &self.started) {
            tracing::warn!("{place}: a change here needs a restart");
        }
        let mut plan = match self.plugins.plan(&config) {
            Ok(plan) => plan,
            Err((name, refusal)) => {
                if refusal.may_pass() {
                    self.retries.later(CONFIG);
                }
                let shown = refusal.shown(&config, &name);
                tracing::error!(
                    plugin = name,
                    "the configuration is refused, the one before stays: {shown}"
                );
                return self.configuration_refused(format!("plugin {name}: {shown}"));
            }
        };
        self.retries.forget(CONFIG);
        let loaded = self.plugins.carry_out(&mut plan);
        let mut slots = self.plugins.slots().clone();
        slots.retain(|name, _| !plan.removed.contains(name));
        self.watch(&config);
        let routing = Arc::new(Routing::new(Arc::new(config), slots));
        self.endpoint.state.set_routing(Arc::clone(&routing));
        let rerouted = self.endpoint.inboxes.set_routing(&routing);
        // Only then does the configuration hold. And members whose topics lead elsewhere now are to be told so before their
        // plugin ends: it would only close them.
        let deadline = Instant::now() + REROUTE_PATIENCE;
        let told = |_| {
            rerouted
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .is_ok()
        };
        if !(0..self.endpoint.inboxes.count()).all(told) {
            tracing::warn!("an I/O thread is slow to take up the new routes");
        }
        for name in &plan.removed {
            self.watcher.forget(name);
            self.plugins.remove(name);
        }
        if let Some(follower) = &self.follower {
            follower.configured(&self.endpoint.state.routing().config);
        }
        for slot in self.plugins.settle() {
            let event = json!({ "plugin": slot.name, "in_service": true });
            self.news(("unchanged", event.to_string()));
        }
        tracing::info!("configuration replaced");
        if let Some(board) = &self.endpoint.dev {
            board.configuration_replaced();
        }
        loaded.iter().for_each(|loaded| self.loaded(loaded));
    }

    fn configuration_refused(&self, reason: String) {
        if let Some(board) = &self.endpoint.dev {
            board.configuration_refused(reason);
        }
    }

    fn loaded(&self, loaded: &Loaded) {
        loaded.announce();
        let Loaded {
            plugin,
            version,
            generation,
            trail,
            swap,
        } = loaded;
        let event = json!({
            "plugin": plugin, "version": version, "generation": generation, "topics": swap.moved,
            "failed": swap.failed, "reason": swap.first_failure, "rejoined": swap.rejoined,
            "probed_ms": milliseconds(trail.took("probe")), "swap_ms": milliseconds(swap.took),
        });
        self.news(("reload", event.to_string()));
    }

    fn refused(&mut self, slot: &PluginSlot, refusal: &Refusal) {
        let shown = refusal.shown(&self.endpoint.state.routing().config, &slot.name);
        let holds = match slot.current() {
            Some(_) => "the one before stays",
            None => "none is in service",
        };
        if refusal.over_state {
            self.over_state.insert(slot.name.clone());
        }
        let again = refusal.may_pass().then(|| self.retries.later(&slot.name));
        tracing::error!(
            plugin = slot.name,
            step = refusal.step,
            code = refusal.code,
            again_in_s = again.map(|again| again.as_secs()),
            "library refused, {holds}: {shown}"
        );
        let event = json!({ "plugin": slot.name, "step": refusal.step, "reason": refusal.message });
        self.news(("refused", event.to_string()));
    }

    fn news(&self, event: DevEvent) {
        if let Some(board) = &self.endpoint.dev {
            board.tell(event);
        }
    }
}
