//! One load of a plugin: its library, its shard threads, and how they start and end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::backtrace::Panics;
use super::bridge::Bridge;
use super::env::Env;
use super::giveup;
use super::health::Health;
use super::left::{Left, name_of_threads};
use super::loader::{self, Instance, Library, LoadError, ShardInstance};
use super::manifest::Manifest;
use super::mapping::Mapping;
use super::sample::Untried;
use super::shard::{self, Shard, Work};
use super::stage::StagedFile;
use super::watchdog::GivenUp;
use crate::config;
use crate::config::ContentHash;
use crate::runtime::channel::Owner;
use crate::runtime::threads;

/// How long a plugin's own `shutdown` may take, as it is told.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// How long a library that is closed may stay in memory before something is said to be left of it.
const LAST_THREADS: Duration = Duration::from_millis(500);

/// One load of a plugin.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Counts the loads of this plugin, from 1.
    pub(crate) number: u64,
    /// What the library says of itself.
    pub(crate) manifest: Manifest,
    /// The hash of its bytes.
    pub(crate) hash: ContentHash,
    /// What it was started with, as JSON.
    pub(super) settings: Arc<str>,
    /// How it fares.
    pub(crate) health: Arc<Health>,
    /// Generations whose state it has not been tried on yet.
    pub(super) untried: Mutex<Untried>,
    /// The staged copy, while it is loaded.
    library: PathBuf,
    set: Arc<ShardSet>,
    /// What was left of it when it ended, if anything was.
    left: Mutex<Option<Left>>,
}

/// The shards of a generation. One that hangs is replaced by another of the same place.
#[derive(Debug)]
pub(super) struct ShardSet {
    pub(super) env: Env,
    number: u64,
    hash: ContentHash,
    intercepts: Arc<HashSet<String>>,
    residents: Arc<AtomicUsize>,
    shards: RwLock<Vec<Arc<Shard>>>,
    /// `None` once it is retired.
    running: Mutex<Option<Running>>,
}

/// A library at work.
#[derive(Debug)]
struct Running {
    instance: Instance,
    /// The last of it is let go, and so the library closed, on a thread that never ran the plugin's code.
    library: Arc<Library>,
    threads: Vec<ShardThread>,
    mapping: Mapping,
}

#[derive(Debug)]
struct ShardThread {
    index: usize,
    shard: Arc<Shard>,
    thread: JoinHandle<()>,
}

/// Why a generation did not start, or did not go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerationError {
    /// The library could not be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The plugin's `init` failed.
    #[error("the plugin did not start: {0}")]
    Init(String),
    /// The system gave no thread.
    #[error("a shard thread could not be started")]
    Thread(#[source] std::io::Error),
    /// A shard ended before it was ready.
    #[error("a shard ended while starting")]
    Ended,
    /// The plugin's `init` does not return. Its thread is left.
    #[error("the plugin did not start within {} ms: its `init` does not return", .0.as_millis())]
    Hangs(Duration),
}

impl Generation {
    /// Opens the library on a new thread, which becomes shard 0, and starts the others.
    ///
    /// # Errors
    ///
    /// If the library does not open or the plugin does not start; all threads have ended then, but for one that hangs.
    pub(crate) fn start(
        number: u64,
        manifest: Manifest,
        staged: StagedFile,
        config: &config::Plugin,
        env: &Env,
    ) -> Result<Self, GenerationError> {
        let set = Arc::new(ShardSet {
            env: env.clone(),
            number,
            hash: staged.hash(),
            intercepts: Arc::new(manifest.intercepts.iter().cloned().collect()),
            residents: Arc::default(),
            shards: RwLock::default(),
            running: Mutex::default(),
        });
        let library = staged.path().to_owned();
        let mut running = set.first(staged, config)?;
        for index in 1..config.shards.get() {
            if let Err(error) = set.next(index, &mut running, config) {
                running.stop();
                return Err(error);
            }
        }
        let shards: Vec<_> = running.threads.iter().map(|thread| Arc::clone(&thread.shard)).collect();
        for shard in &shards {
            env.hub.watchdog.watch(Arc::downgrade(&set), Arc::clone(shard));
        }
        *set.shards.write().expect("no holder panics") = shards;
        *set.running.lock().expect("no holder panics") = Some(running);
        Ok(Self {
            number,
            manifest,
            hash: set.hash,
            health: Arc::clone(&env.health),
            settings: Arc::clone(&config.settings),
            untried: Mutex::default(),
            set,
            library,
            left: Mutex::default(),
        })
    }

    /// The shard for something that hashes to `hash`.
    #[must_use]
    pub(crate) fn shard(&self, hash: u64) -> Arc<Shard> {
        let shards = self.set.shards.read().expect("no holder panics");
        // The length of a vector fits u64, and the remainder fits its index.
        Arc::clone(&shards[(hash % shards.len() as u64) as usize])
    }

    /// The first shard from `turn` on that is not closed: for what may run on any.
    #[must_use]
    pub(crate) fn living_shard(&self, turn: usize) -> Option<Arc<Shard>> {
        let shards = self.set.shards.read().expect("no holder panics");
        let from = turn % shards.len();
        let mut all = shards[from..].iter().chain(&shards[..from]);
        all.find(|shard| !shard.is_closed()).cloned()
    }

    /// The shard that this is the run queue of, unless that was given up or belongs to another generation.
    #[must_use]
    pub(crate) fn shard_of(&self, owner: &Owner) -> Option<Arc<Shard>> {
        let shards = self.set.shards.read().expect("no holder panics");
        shards.iter().find(|shard| Arc::ptr_eq(&shard.queue, owner)).cloned()
    }

    /// How many topics it owns.
    #[must_use]
    pub(crate) fn residents(&self) -> usize {
        self.set.residents.load(Ordering::Acquire)
    }

    /// The file that it was loaded from: a private copy, there while the generation is.
    #[must_use]
    pub(crate) fn library(&self) -> &Path {
        &self.library
    }

    /// What is still to be tried.
    pub(super) fn untried(&self) -> MutexGuard<'_, Untried> {
        self.untried.lock().expect("no holder panics")
    }

    /// How many shards it has.
    #[must_use]
    pub(crate) fn shard_count(&self) -> usize {
        self.set.shards.read().expect("no holder panics").len()
    }

    /// Ends all shards, closes the library and looks whether it is gone. Blocks until they have ended or are given up.
    pub(crate) fn retire(&self) -> Retired {
        let running = self.set.running.lock().expect("no holder panics").take();
        let Some(running) = running else {
            return Retired::Unmapped;
        };
        let mapping = running.mapping.clone();
        let (retired, held) = running.stop();
        if retired != Retired::Unmapped {
            let left = Left::of(&self.set.env.slot.name, self.number, mapping, held);
            *self.left.lock().expect("no holder panics") = Some(left);
        }
        retired
    }

    /// What [`Generation::retire`] has left in memory.
    #[must_use]
    pub(crate) fn left(&self) -> Option<Left> {
        self.left.lock().expect("no holder panics").clone()
    }
}

impl Running {
    /// Ends all threads, shard 0 last, as it is the one that calls `shutdown`; then closes the library.
    /// Also returns how many references hold the library open after that.
    fn stop(self) -> (Retired, usize) {
        let Self {
            instance,
            library,
            threads,
            mapping,
        } = self;
        drop(instance);
        let (first, others): (Vec<_>, Vec<_>) = threads.into_iter().partition(|thread| thread.index == 0);
        let stuck = end(others) + end(first);
        let held = Arc::strong_count(&library) - 1;
        let path = library.path().to_owned();
        drop(library);
        if stuck > 0 {
            return (Retired::Stuck(stuck), held);
        }
        // Threads that a crate of the plugin's had started, and that nobody joins, are at their ends now.
        let closed = Instant::now();
        while held == 0 && matches!(mapping.is_executable(), Ok(true)) && closed.elapsed() < LAST_THREADS {
            std::thread::sleep(Duration::from_millis(5));
            loader::unload_again(&path);
        }
        match mapping.is_executable() {
            Ok(false) => (Retired::Unmapped, held),
            Ok(true) | Err(_) => (Retired::Mapped, held),
        }
    }
}

/// Ends threads that have nothing to do any more. Returns how many of them are stuck.
fn end(threads: Vec<ShardThread>) -> usize {
    threads.iter().for_each(|thread| thread.shard.stop());
    let mut stuck = 0;
    for ShardThread { shard, thread, .. } in threads {
        shard.wait();
        if shard.pulse.is_over() && !thread.is_finished() {
            stuck += 1;
        } else {
            let _ = thread.join();
        }
    }
    stuck
}

/// What is left of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// Nothing executable.
    Unmapped,
    /// The library is still in memory: something of it is in use.
    Mapped,
    /// The library is still in memory: so many of its threads do not return from it.
    Stuck(usize),
}

impl ShardSet {
    fn new_shard(&self) -> Arc<Shard> {
        let (intercepts, residents) = (Arc::clone(&self.intercepts), Arc::clone(&self.residents));
        Arc::new(Shard::new(self.number, intercepts, residents))
    }

    fn thread(
        &self,
        index: usize,
        shard: &Arc<Shard>,
        body: impl FnOnce(&Arc<Shard>) + Send + 'static,
    ) -> Result<ShardThread, GenerationError> {
        let own = Arc::clone(shard);
        let (plugin, hash) = (self.env.slot.name.clone(), format!("{:#}", self.hash));
        let name = format!("{}{index}", name_of_threads(&self.env.slot.name, self.number));
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                own.pulse.attach();
                loader::crash::attach(&plugin, &hash);
                threads::guard(&name, || body(&own));
                own.end_thread();
            })
            .map_err(GenerationError::Thread)?;
        let shard = Arc::clone(shard);
        Ok(ShardThread { index, shard, thread })
    }

    /// Maps the library, makes the plugin's value and opens the first shard.
    fn first(&self, staged: StagedFile, config: &config::Plugin) -> Result<Running, GenerationError> {
        let (ready, started) = mpsc::channel();
        let (env, settings, shard) = (self.env.clone(), config.settings.to_string(), self.new_shard());
        let panics = Panics::of(&env.slot.name, self.number, staged.path());
        let first = self.thread(0, &shard, move |shard| {
            // Mapped here: constructors of the library are plugin code, too.
            let library = match Library::load(staged) {
                Ok(library) => library,
                Err(error) => return drop(ready.send(Err(GenerationError::Load(error)))),
            };
            let host = Arc::new(Bridge {
                env: env.clone(),
                panics,
            });
            let opened = Arc::clone(&library)
                .init(host, &settings)
                .and_then(|instance| Ok((instance.open_shard(0, Arc::clone(&shard.pulse))?, instance)));
            match opened {
                Ok((opened, instance)) => {
                    let for_host = (instance.clone(), Arc::clone(&library));
                    if ready.send(Ok(for_host)).is_err() {
                        came_back(&env);
                        shard.stop();
                    }
                    serve(shard, opened, &env);
                    shut_down(shard, &instance, &env);
                }
                Err(why) => {
                    if ready.send(Err(GenerationError::Init(why))).is_err() {
                        came_back(&env);
                    }
                }
            }
        })?;
        match self.wait_for(&started, config) {
            Ok((instance, library)) => Ok(Running {
                mapping: library.mapping(),
                instance,
                library,
                threads: vec![first],
            }),
            Err(error) => {
                if !matches!(error, GenerationError::Hangs(_)) {
                    let _ = first.thread.join();
                }
                Err(error)
            }
        }
    }

    /// Opens one more shard.
    fn next(&self, index: usize, running: &mut Running, config: &config::Plugin) -> Result<(), GenerationError> {
        let (ready, started) = mpsc::channel();
        let (env, instance, shard) = (self.env.clone(), running.instance.clone(), self.new_shard());
        let thread = self.thread(index, &shard, move |shard| {
            // A configuration has far fewer shards than u32 counts.
            let opened = instance.open_shard(index as u32, Arc::clone(&shard.pulse));
            drop(instance);
            let (opened, said) = match opened {
                Ok(opened) => (Some(opened), Ok(())),
                Err(why) => (None, Err(GenerationError::Init(why))),
            };
            if ready.send(said).is_err() {
                came_back(&env);
                shard.stop();
            }
            opened.into_iter().for_each(|opened| serve(shard, opened, &env));
        })?;
        let opened = self.wait_for(&started, config);
        if !matches!(opened, Err(GenerationError::Hangs(_))) {
            running.threads.push(thread);
        }
        opened
    }

    /// Waits for a shard to be open: as long as a handler may take.
    fn wait_for<T>(
        &self,
        started: &mpsc::Receiver<Result<T, GenerationError>>,
        config: &config::Plugin,
    ) -> Result<T, GenerationError> {
        match started.recv_timeout(config.deadline) {
            Ok(started) => started,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(GenerationError::Ended),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let stats = &self.env.slot.stats;
                stats.hangs.inc();
                stats.stuck_threads.inc();
                stats.leaked_generations.inc();
                Err(GenerationError::Hangs(config.deadline))
            }
        }
    }

    /// Puts another shard in the place of one that is given up. `None` if the generation is retired, or has had enough of
    /// them; then the place stays closed.
    pub(super) fn replace(self: &Arc<Self>, old: &Arc<Shard>) -> Option<Arc<Shard>> {
        let mut running = self.running.lock().expect("no holder panics");
        let running = running.as_mut()?;
        let slot = &self.env.slot;
        let most = i64::try_from(slot.config().max_stuck_threads).unwrap_or(i64::MAX);
        if slot.stats.stuck_threads.get() > most {
            tracing::error!(
                plugin = slot.name,
                most,
                "too many threads of the plugin are stuck: the shard is not replaced, joins that lead to it are refused"
            );
            return None;
        }
        let index = running
            .threads
            .iter()
            .find(|thread| Arc::ptr_eq(&thread.shard, old))?
            .index;
        let (set, instance, shard) = (Arc::clone(self), running.instance.clone(), self.new_shard());
        let thread = self.thread(index, &shard, move |shard| set.reopen(index, shard, instance));
        let thread = thread.inspect_err(|error| tracing::error!(plugin = slot.name, %error, "no shard can be opened"));
        running.threads.push(thread.ok()?);
        self.env.hub.watchdog.watch(Arc::downgrade(self), Arc::clone(&shard));
        self.shards.write().expect("no holder panics")[index] = Arc::clone(&shard);
        Some(shard)
    }

    /// The life of a shard that replaces another.
    fn reopen(self: Arc<Self>, index: usize, shard: &Arc<Shard>, instance: Instance) {
        let env = self.env.clone();
        // A configuration has far fewer shards than u32 counts.
        let open = || instance.open_shard(index as u32, Arc::clone(&shard.pulse));
        let opened = match in_plugin(shard, "open", open) {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::error!(plugin = env.slot.name, error, "no shard can be opened");
                giveup::close(&self, shard, false);
                return;
            }
            Err(GivenUp) => return came_back(&env),
        };
        // The generation may be retired while the thread runs: it goes with the set.
        drop(self);
        serve(shard, opened, &env);
        if index == 0 {
            shut_down(shard, &instance, &env);
        }
    }
}

/// Calls the plugin for something that is no event.
fn in_plugin<T>(shard: &Arc<Shard>, what: &'static str, call: impl FnOnce() -> T) -> Result<T, GivenUp> {
    shard.begin(Work::Life(what));
    shard.pulse.enter();
    let result = call();
    shard.pulse.leave()?;
    shard.end();
    Ok(result)
}

/// The life of a shard that is open.
fn serve(shard: &Arc<Shard>, opened: ShardInstance, env: &Env) {
    let opened = shard::run(shard, opened, env);
    let closed = in_plugin(shard, "drop", || opened.close());
    if closed == Ok(false) {
        env.panicked("", "drop", "a destructor panicked while the plugin was closed");
    }
    if closed.is_err() {
        came_back(env);
    }
}

/// The end of shard 0, and so of the plugin; unless another has taken its place.
fn shut_down(shard: &Arc<Shard>, instance: &Instance, env: &Env) {
    if shard.pulse.is_over() {
        return;
    }
    match in_plugin(shard, "shutdown", || instance.shutdown(SHUTDOWN_DEADLINE)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(plugin = env.slot.name, %error, "the plugin did not shut down well"),
        Err(GivenUp) => came_back(env),
    }
}

/// A thread that was given up has returned from the plugin after all, and ends.
fn came_back(env: &Env) {
    env.slot.stats.stuck_threads.dec();
    tracing::info!(
        plugin = env.slot.name,
        "a thread that was given up has come back and ends"
    );
}
