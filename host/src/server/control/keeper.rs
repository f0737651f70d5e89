//! The loop of the control thread: commands, retries, probations, retirements.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;

use super::on_disk::{Rejected, SetLogLevel};
use super::retries::Retries;
use super::watch::{News, WatchTimes, Watcher};
use super::{CONFIG, Command, Follower, THREAD};
use crate::config::{Config, Mode};
use crate::runtime::plugin::manager::{Plugins, Verdict, announce_rollback};
use crate::runtime::plugin::step::Step;
use crate::runtime::threads::fault;
use crate::server::changes::ChangeKind;
use crate::server::endpoint::{DevEvent, Endpoint};

/// How often the thread looks at generations that are ending.
const RETIRE_TICK: Duration = Duration::from_millis(20);
/// After how long without a command the thread looks at everything.
const IDLE: Duration = Duration::from_secs(3600);
/// How often the thread looks whether the topics have ended over whose state it rejected a library.
const STATE_TICK: Duration = Duration::from_secs(1);

/// What the thread works with.
pub(super) struct Keeper {
    pub(super) follower: Option<Box<dyn Follower>>,
    /// The configuration that the host was started with.
    pub(super) started: Arc<Config>,
    pub(super) plugins: Plugins,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) mode: Mode,
    pub(super) watcher: Watcher,
    pub(super) retries: Retries,
    /// Plugins whose library does not read the state of live topics.
    pub(super) over_state: BTreeSet<String>,
    /// Why the configuration on disk is not in force; `None`: it is.
    pub(super) rejected: Option<Rejected>,
    /// The watcher's names for the libraries that only that configuration names.
    pub(super) of_rejected: Vec<String>,
    /// The watcher's names for files of keys.
    pub(super) keys: BTreeSet<String>,
    /// Changes what is logged.
    pub(super) set_log_level: Option<SetLogLevel>,
}

impl Keeper {
    /// Watches what the configuration names. The watcher's news go to `tell`.
    pub(super) fn new(
        plugins: Plugins,
        endpoint: Arc<Endpoint>,
        mode: Mode,
        follower: Option<Box<dyn Follower>>,
        tell: impl FnMut(News) + Send + 'static,
    ) -> io::Result<Self> {
        let config = Arc::clone(&endpoint.state.routing().config);
        let mut keeper = Self {
            follower,
            started: Arc::clone(&config),
            plugins,
            endpoint,
            mode,
            watcher: Watcher::start(WatchTimes::default(), tell)?,
            retries: Retries::default(),
            over_state: BTreeSet::new(),
            rejected: None,
            of_rejected: Vec::new(),
            set_log_level: None,
            keys: BTreeSet::new(),
        };
        keeper.watch(&config);
        keeper.watch_keys(&keeper.endpoint.state.routing().guards);
        keeper.watch_certificates();
        keeper.retry_what_was_rejected();
        Ok(keeper)
    }

    /// Carries out commands, and what is due without one, until it is told to stop.
    pub(super) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            fault::point(THREAD);
            match commands.recv_timeout(self.patience()) {
                Ok(Command::Library { name, path, built }) => self.library(&name, path, built),
                Ok(Command::Saved(name, _)) if name == CONFIG => self.config_saved(),
                Ok(Command::Saved(name, path)) => self.library(&name, path, false),
                Ok(Command::NotBuilt(name, rejection)) => self.not_built(&name, rejection),
                Ok(Command::Away(name, path, why)) => self.away(&name, &path, why.as_deref()),
                Ok(Command::Again(name)) => {
                    self.retries.forget(&name);
                    self.again(&name);
                }
                Ok(Command::RollBack(name)) => self.roll_back(&name),
                Ok(Command::Lifted(name, hash)) => self.lifted(&name, hash),
                Ok(Command::Config) => self.config_changed(),
                Ok(Command::Keys(file)) => self.keys(&file),
                Ok(Command::Certificate(file)) => self.certificate(&file),
                Ok(Command::Reread(done)) => {
                    self.reread();
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                Ok(Command::LibraryOfRejected) => self.library_of_rejected(),
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
            self.plugins.try_survival();
        }
    }

    /// How long the thread may wait for a command.
    fn patience(&self) -> Duration {
        let idle = if self.over_state.is_empty() { IDLE } else { STATE_TICK };
        let retry = self.retries.next();
        let retry = retry.map(|at| at.saturating_duration_since(Instant::now()));
        let next = self
            .plugins
            .next_look()
            .into_iter()
            .chain(retry)
            .fold(idle, Duration::min);
        // A moment longer, so that it is really due by then.
        let next = next.saturating_add(Duration::from_millis(1));
        if self.plugins.is_retiring() {
            RETIRE_TICK.min(next)
        } else {
            next
        }
    }

    /// Retries what the start has rejected, if the machine was to blame.
    fn retry_what_was_rejected(&mut self) {
        for slot in self.plugins.slots() {
            if let Some(rejection) = slot.journal.read().rejection {
                self.retries.later(&slot.name, rejection.retries(&slot.config()));
            }
        }
    }

    /// Retries libraries that did not read the state of live topics, if these topics have ended.
    fn retry_where_state_is_gone(&mut self) {
        let has_topics = |name: &String| self.plugins.slot(name).is_some_and(|slot| slot.topic_count() > 0);
        let (waiting, gone) = std::mem::take(&mut self.over_state).into_iter().partition(has_topics);
        self.over_state = waiting;
        let gone: BTreeSet<String> = gone;
        for name in gone {
            let rejection = self.plugins.slot(&name).and_then(|slot| slot.journal.read().rejection);
            // Another library may be in service by now, or the last build has failed.
            if rejection.is_some_and(|rejection| rejection.over_state) {
                self.again(&name);
            }
        }
    }

    fn tell(&self, verdict: Verdict) {
        match verdict {
            Verdict::RolledBack(slot, rollback) => {
                announce_rollback(&slot, &rollback);
                let text = format!("generation {} to {} after {}", rollback.from, rollback.to, rollback.why);
                self.changed(ChangeKind::Rollback, &slot.name, &text);
                let event = json!({
                    "plugin": slot.name, "step": Step::Probation, "reason": format!("rolled back after {}", rollback.why),
                });
                self.news(("refused", event.to_string()));
                slot.stats.rollbacks.inc();
                slot.journal.rolled_back(rollback);
            }
            Verdict::Loaded(loaded) => self.loaded(&loaded),
            Verdict::OutOfService(slot, why) => {
                tracing::error!(
                    plugin = slot.name,
                    "plugin taken out of service after {why}; replace its library to load it again"
                );
                self.changed(
                    ChangeKind::Rejection,
                    &slot.name,
                    &format!("taken out of service after {why}"),
                );
            }
            Verdict::Failed(slot, what) => {
                tracing::error!(
                    plugin = slot.name,
                    "`on_panics` could not be carried out ({what}); the code in service stays"
                );
            }
        }
    }

    /// An operator wants the previous code of a plugin.
    fn roll_back(&mut self, name: &str) {
        self.retries.forget(name);
        match self.plugins.roll_back_as_asked(name) {
            Ok(verdict) => self.tell(verdict),
            Err(why) => {
                tracing::error!(plugin = name, "not rolled back: {why}; the code in service stays");
                self.changed(ChangeKind::Rejection, name, &format!("not rolled back: {why}"));
            }
        }
    }

    /// Notes a change of a plugin for the dashboard.
    pub(super) fn changed(&self, kind: ChangeKind, plugin: &str, text: &str) {
        self.endpoint.state.changes.note(kind, Some(plugin), text);
    }

    pub(super) fn watch(&self, config: &Config) {
        self.watcher.file(CONFIG, config.path.as_ref().unwrap_or(&config.file));
        if config.path.is_some() {
            // The file may have changed since it was read.
            self.watcher.took(CONFIG, config.contents());
        }
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

    /// Tells the watcher what was really read: the file may change before and after.
    pub(super) fn took(&self, name: &str) {
        if let Some(contents) = self.plugins.taken(name) {
            self.watcher.took(name, contents);
        }
    }

    pub(super) fn news(&self, event: DevEvent) {
        if let Some(board) = &self.endpoint.dev {
            board.tell(event);
        }
    }
}
